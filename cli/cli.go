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
	fmt.Fprintf(stderr, "%s: %s\n", root.Name(), report.Explain(err))
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
