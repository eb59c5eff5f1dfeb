package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// shell is a diagnosis shell.
type shell struct {
	tty   string
	since time.Time
}

// wrongPause is how long a terminal is deaf after a wrong password.
const wrongPause = 3 * time.Second

// openShell opens a diagnosis shell on a terminal, to who knows the password if there is
// one; again, when somebody left it, but not when it ended at once.
func (s *supervisor) openShell(tty string, again bool) {
	if !again {
		s.report.Printf("warning: the diagnosis shell on %s ended at once", tty)
		return
	}
	f, err := os.OpenFile("/dev/"+tty, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		s.report.Printf("warning: open diagnosis shell: %v", err)
		return
	}
	defer f.Close()
	if s.config.Console.Password != "" {
		if err := s.askPassword(f, tty); err != nil {
			s.report.Printf("warning: no diagnosis shell on %s: %v", tty, err)
			return
		}
	}
	if err := s.startShell(f, tty); err != nil {
		s.report.Printf("warning: start diagnosis shell on %s: %v", tty, err)
		return
	}
	s.report.Printf("console  a diagnosis shell is on %s", tty)
}

// askPassword returns when the right password was typed. An error means that the
// terminal is none, or is gone.
func (s *supervisor) askPassword(f *os.File, tty string) error {
	for {
		if _, err := fmt.Fprintf(f, "\r\nreimager: password for a shell on %s: ", tty); err != nil {
			return fmt.Errorf("ask for the password: %w", err)
		}
		password, err := term.ReadPassword(int(f.Fd()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) { // ctrl-D
			return fmt.Errorf("read the password: %w", err)
		}
		if err == nil && len(password) > 0 && s.config.Console.Password.Matches(password) {
			return nil
		}
		if len(password) > 0 {
			s.report.Printf("warning: a wrong password for the shell on %s", tty)
		}
		time.Sleep(wrongPause)
	}
}

func (s *supervisor) startShell(f *os.File, tty string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := os.StartProcess(s.config.Console.Shell, []string{"-sh"}, &os.ProcAttr{
		Dir: "/", Files: []*os.File{f, f, f},
		Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "TERM=linux"},
		Sys: &unix.SysProcAttr{Setsid: true, Setctty: true},
	})
	if err != nil {
		return err
	}
	s.shells[p.Pid] = shell{tty, time.Now()}
	s.born()
	return nil
}
