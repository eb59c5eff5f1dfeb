package report

import (
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// console writes to a terminal from a goroutine of its own: a serial line whose
// other end stopped the flow must not stop the run.
type console struct {
	out    chan []byte
	idle   chan chan struct{}
	screen bool
}

// queued is how many writes wait for a slow terminal before the next is dropped.
const queued = 512

func newConsole(w io.Writer, screen bool) *console {
	c := &console{out: make(chan []byte, queued), idle: make(chan chan struct{}), screen: screen}
	go c.pump(w)
	return c
}

func (c *console) pump(w io.Writer) {
	for {
		select {
		case b := <-c.out:
			w.Write(b) // a console that fails has nobody to tell
		case done := <-c.idle:
			for len(c.out) > 0 {
				w.Write(<-c.out)
			}
			drain(w)
			close(done)
		}
	}
}

// drain waits until a terminal has sent what it was given: a reboot empties the
// buffers of a serial port, and the last line says how a run ended. tcdrain(3).
func drain(w io.Writer) {
	f, ok := w.(*os.File)
	if !ok {
		return
	}
	if c, err := f.SyscallConn(); err == nil {
		// With what is no terminal it fails, and nothing waits there.
		c.Control(func(fd uintptr) { unix.IoctlSetInt(int(fd), unix.TCSBRK, 1) })
	}
}

func (c *console) line(text string) {
	if c.screen {
		// Over a progress bar, ours or that of a worker that died: carriage return,
		// erase to end of line.
		text = "\r\x1b[K" + text
	}
	c.send(text + "\r\n")
}

func (c *console) send(text string) {
	select {
	case c.out <- []byte(text):
	default:
	}
}

// Write lets a progress bar draw on a screen.
func (c *console) Write(b []byte) (int, error) {
	c.send(string(b))
	return len(b), nil
}

func (c *console) flush(within time.Duration) {
	done := make(chan struct{})
	timeout := time.After(within)
	select {
	case c.idle <- done:
	case <-timeout:
		return
	}
	select {
	case <-done:
	case <-timeout:
	}
}
