// Package report tells people and programs what a run does: lines on every
// console and in a log that is kept from the first of them, a line per stage on
// the kernel log, progress, and the record of the run.
package report

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// Reporter is where a run speaks. Its methods may be called from any goroutine.
type Reporter struct {
	mu       sync.Mutex
	log      io.Writer // whole log, from the first line
	kmsg     io.Writer // kernel log; may be nil
	consoles []*console
	start    time.Time
	run      string // "": not known yet

	watching sync.Mutex
	watch    func(Event) // nil: nobody
	moves    func()      // may be nil
}

// New returns a reporter. log takes every line; kmsg, which may be nil, takes one
// per stage. start is what the times in front of the lines count from.
func New(log, kmsg io.Writer, start time.Time) *Reporter {
	return &Reporter{log: log, kmsg: kmsg, start: start}
}

// AddScreen adds a terminal that can redraw a line: it shows a progress bar.
func (r *Reporter) AddScreen(w io.Writer) { r.consoles = append(r.consoles, newConsole(w, true)) }

// AddSerial adds a console that gets whole lines only.
func (r *Reporter) AddSerial(w io.Writer) { r.consoles = append(r.consoles, newConsole(w, false)) }

// OnProgress has f called, from any goroutine and often, whenever a run says that it
// gets on: with each line and with each byte that it counts. Set it before the first.
func (r *Reporter) OnProgress(f func()) { r.moves = f }

// Moves says that something moves that is not told of otherwise.
func (r *Reporter) Moves() {
	if r.moves != nil {
		r.moves()
	}
}

// Printf writes one line to the log and to all consoles.
func (r *Reporter) Printf(format string, args ...any) {
	r.line(fmt.Sprintf(format, args...), true)
}

// Detail writes one line to the log only.
func (r *Reporter) Detail(format string, args ...any) {
	r.line(fmt.Sprintf(format, args...), false)
}

// maxKernelLine keeps a line within one record of the kernel log
// (LOG_LINE_MAX in kernel/printk/printk.c is about 1,000).
const maxKernelLine = 900

// Kernel writes one line to the kernel log.
func (r *Reporter) Kernel(format string, args ...any) {
	if r.kmsg == nil {
		return
	}
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; ")
	if len(text) > maxKernelLine {
		text = text[:maxKernelLine] + "…"
	}
	// <5> is KERN_NOTICE. The kernel log may be rate limited; nothing depends on it.
	fmt.Fprintf(r.kmsg, "<5>reimager: %s\n", text)
}

func (r *Reporter) line(text string, show bool) {
	r.Moves()
	stamp := fmt.Sprintf("[%8.3f] ", time.Since(r.start).Seconds())
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range strings.SplitSeq(printable(text), "\n") {
		// A full log must not stop the run; the consoles still speak.
		fmt.Fprintln(r.log, stamp+l)
		if show {
			for _, c := range r.consoles {
				c.line(stamp + l)
			}
		}
	}
}

// Flush waits a moment for slow consoles to take what was written.
func (r *Reporter) Flush() {
	deadline := time.Now().Add(2 * time.Second)
	for _, c := range r.consoles {
		c.flush(time.Until(deadline))
	}
}

// printable keeps control characters out of terminals: names of files are data.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' && c != '\n' && c != '\t' || c == 0x7f {
			return '?'
		}
		return c
	}, s)
}

// OpenLog opens a log file so that several processes can append to it.
func OpenLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}
