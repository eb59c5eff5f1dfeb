// Package cli is what the commands have in common: exit statuses and how an
// error is shown.
package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"reimager/report"
)

// Exit statuses of the commands.
const (
	Done   = 0
	Failed = 1
	Usage  = 2
)

// usageError is a command line that means nothing.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// Usagef returns an error that ends the command with status Usage.
func Usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// statusError is an end of a command with a status of its own.
type statusError struct {
	error // nil: there is nothing to say
	code  int
}

func (s statusError) Unwrap() error { return s.error }

func (s statusError) Error() string {
	if s.error == nil {
		return fmt.Sprintf("exit status %d", s.code)
	}
	return s.error.Error()
}

// Status ends the command with a status that only it has, above Usage. err is shown;
// it may be nil.
func Status(code int, err error) error { return statusError{err, code} }

// Execute runs a command and returns its exit status. Errors go to stderr, their
// hints on lines of their own.
func Execute(root *cobra.Command, args []string, stdout, stderr io.Writer) int {
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{report.Hint(err, "%s --help explains the options", c.CommandPath())}
	})
	for _, c := range root.Commands() {
		wrapArgs(c)
	}
	wrapArgs(root)
	err := root.Execute()
	if err == nil {
		return Done
	}
	var status statusError
	own := errors.As(err, &status)
	if !own || status.error != nil {
		fmt.Fprintf(stderr, "%s: %s\n", root.Name(), report.Explain(err))
	}
	if own {
		return status.code
	}
	var usage usageError
	if errors.As(err, &usage) {
		return Usage
	}
	return Failed
}

// wrapArgs makes a wrong number of arguments a wrong usage.
func wrapArgs(c *cobra.Command) {
	check := c.Args
	if check == nil {
		check = cobra.NoArgs
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usageError{report.Hint(err, "usage: %s", c.UseLine())}
		}
		return nil
	}
}
