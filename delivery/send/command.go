package send

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"reimager/config"
)

// toldBytes is how much of what a command or a server says an error repeats.
const toldBytes = 400

// toCommand gives the message to a program. It has the record when the program ends
// with status 0; what it has left running then is its own affair.
func toCommand(ctx context.Context, to config.Delivery, body []byte) error {
	var said tail
	c := exec.CommandContext(ctx, to.Command[0], to.Command[1:]...)
	c.Dir, c.Stdin, c.Stdout, c.Stderr = "/", bytes.NewReader(body), &said, &said
	// A group of its own, so that its children end with it.
	c.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return unix.Kill(-c.Process.Pid, unix.SIGKILL) }
	// How long a child may keep the output open that the program has left behind.
	c.WaitDelay = time.Second
	err := c.Run()
	switch {
	case c.ProcessState != nil && c.ProcessState.Success():
		return nil // even if a child of it keeps the output open
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("killed after its timeout of %s%s", to.Timeout, said.told())
	}
	return fmt.Errorf("%w%s", err, said.told())
}

// tail keeps the end of an output.
type tail struct{ text []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p[max(0, len(p)-toldBytes):]...)
	t.text = t.text[max(0, len(t.text)-toldBytes):]
	return len(p), nil
}

func (t *tail) told() string {
	if text := printable(t.text); text != "" {
		return ": " + text
	}
	return ""
}

// told is as much of what somebody else has written as is repeated, in one line.
func told(text []byte) string { return printable(text[:min(len(text), toldBytes)]) }

// printable makes a line of what somebody else has written. Characters that only change
// how others are shown are left out, too.
func printable(text []byte) string {
	return strings.TrimSpace(strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(string(text), "?")))
}
