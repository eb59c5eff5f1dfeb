package screen

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pseudoTerminal opens a pair of a given size: what is on the screen's side comes out of
// the other.
func pseudoTerminal(t *testing.T, width, height uint16) (*terminal, *os.File) {
	t.Helper()
	other, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(other.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	// Not closed: the page is drawn until the process ends.
	screen, err := unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	resize(t, screen, width, height)
	return &terminal{fd: screen}, other
}

func resize(t *testing.T, fd int, width, height uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height}); err != nil {
		t.Fatal(err)
	}
}

// A terminal that gets another size, as when a driver for its display is loaded, gets
// the page in that size; what is typed does not come back.
func TestResize(t *testing.T) {
	t.Parallel()
	terminal, other := pseudoTerminal(t, 80, 25)
	if err := terminal.deaf(); err != nil {
		t.Fatal(err)
	}
	output := make(chan []byte, 64)
	go func() {
		for {
			b := make([]byte, 1<<16)
			n, err := other.Read(b)
			if err != nil {
				return
			}
			output <- b[:n]
		}
	}()
	var all []byte
	wait := func(text string) {
		t.Helper()
		timeout := time.After(20 * time.Second)
		for !bytes.Contains(all, []byte(text)) {
			select {
			case b := <-output:
				all = append(all, b...)
			case <-timeout:
				t.Fatalf("no %q on the terminal: %q", text, all)
			}
		}
	}
	p := newPage(words(t, "de"), 4)
	go p.run(terminal)
	wait("Alt+F4")
	wait("\x1b[5;7H") // the title, in the middle of 80 by 25
	p.PowerCut(Harm)
	p.Flush()
	wait("Bitte nicht ausschalten.")
	if bytes.Count(all, []byte(clear)) != 1 {
		t.Errorf("all of the page was drawn again: %q", all)
	}
	if _, err := other.WriteString("typed\x13\x03"); err != nil {
		t.Fatal(err)
	}
	all = nil
	resize(t, terminal.fd, 40, 12)
	wait(clear)
	wait("\x1b[1;2H") // the title, in the corner of 40 by 12
	p.End(HoldWrite, "")
	wait("Dieses Ger\u00e4t braucht Hilfe")
	if bytes.Contains(all, []byte("typed")) {
		t.Errorf("what was typed is on the terminal: %q", all)
	}
}

// A terminal that takes no more is not waited for, and is drawn anew later.
func TestStopped(t *testing.T) {
	t.Parallel()
	terminal, other := pseudoTerminal(t, 80, 25)
	defer other.Close() // which nobody reads
	done := make(chan struct{})
	go func() {
		for range 100 {
			terminal.write(bytes.Repeat([]byte("x"), 4096))
		}
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("write waits for a terminal that takes nothing")
	}
	if !terminal.lost || !terminal.damaged() {
		t.Error("a terminal that took nothing counts as drawn")
	}
}

func TestNoTerminal(t *testing.T) {
	t.Parallel()
	if p, err := Open(1<<20, words(t, "en"), 0); p != nil || err == nil {
		t.Errorf("Open of no terminal = %v, %v", p, err)
	}
}
