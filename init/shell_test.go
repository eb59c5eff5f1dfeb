package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reimager/config"
	"reimager/report"
)

// terminal returns both ends of a pseudo-terminal: pts(4).
func terminal(t *testing.T) (person, tty *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	fd := int(person.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return person, tty
}

// A wrong password costs a pause, and none is ever shown.
func TestAskPassword(t *testing.T) {
	person, tty := terminal(t)
	c := config.Default()
	c.Console.Password = `$5$rounds=5000$saltsalt$q3mDH..P9ER5U7svTNVbu89XH4bthBmOJVUZKjESZC/` // "Hallo Welt"
	var log bytes.Buffer
	s := &supervisor{config: c, report: report.New(&log, nil, time.Now())}
	answers := []string{"guess", "Hallo Welt"}
	shown := make(chan string, 1)
	go func() {
		var all strings.Builder
		buf := make([]byte, 256)
		for asked := 0; asked < len(answers); {
			n, err := person.Read(buf)
			if err != nil {
				break
			}
			all.Write(buf[:n])
			if strings.Count(all.String(), "password for a shell on tty9: ") > asked {
				time.Sleep(50 * time.Millisecond) // the echo is off by then
				fmt.Fprintf(person, "%s\n", answers[asked])
				asked++
			}
		}
		shown <- all.String()
	}()
	began := time.Now()
	if err := s.askPassword(tty, "tty9"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < wrongPause {
		t.Errorf("the right password was accepted %s after a wrong one; want at least %s", took, wrongPause)
	}
	got := <-shown
	for _, a := range answers {
		if strings.Contains(got, a) || strings.Contains(log.String(), a) {
			t.Errorf("%q is shown or logged: %q, %q", a, got, &log)
		}
	}
	if !strings.Contains(log.String(), "a wrong password for the shell on tty9") {
		t.Errorf("log %q; want the wrong password to be told of", &log)
	}
}
