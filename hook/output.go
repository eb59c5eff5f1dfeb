package hook

import (
	"fmt"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

const (
	maxOutput = 1 << 20 // of one hook, in bytes
	maxLine   = 1000    // in bytes; a longer one is told in pieces
)

// output tells what is written to it in lines that are fit for a log.
type output struct {
	line func(string)

	mu     sync.Mutex
	buf    []byte
	taken  int
	closed bool
}

// Write takes everything, so that a hook never waits or gets EPIPE for what is
// dropped.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(p)
	if o.closed || o.taken > maxOutput {
		return n, nil
	}
	rest := p[:min(n, maxOutput-o.taken)]
	for _, c := range rest {
		// A carriage return alone begins the line anew, as progress bars do.
		if c == '\n' || c == '\r' {
			o.flush()
			continue
		}
		if len(o.buf) >= maxLine && (utf8.RuneStart(c) || len(o.buf) >= maxLine+utf8.UTFMax) {
			o.flush()
		}
		o.buf = append(o.buf, c)
	}
	o.taken += n
	if o.taken > maxOutput {
		o.flush()
		o.say(fmt.Sprintf("… (more than %d bytes; the rest is dropped)", maxOutput))
	}
	return n, nil
}

// close tells an unfinished last line, and nothing from then on.
func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flush()
	o.closed = true
}

func (o *output) flush() {
	if len(o.buf) > 0 {
		o.say(clean(o.buf))
	}
	o.buf = o.buf[:0]
}

func (o *output) say(text string) {
	if o.line != nil && !o.closed {
		o.line(text)
	}
}

// clean writes what a terminal might obey, and bytes that are no UTF-8, as \x1b.
func clean(b []byte) string {
	var s strings.Builder
	for len(b) > 0 {
		c, n := utf8.DecodeRune(b)
		switch {
		case c == '\t':
			s.WriteByte(' ')
		case c == utf8.RuneError && n == 1 || c < utf8.RuneSelf && !unicode.IsPrint(c):
			fmt.Fprintf(&s, `\x%02x`, b[0])
		case !unicode.IsPrint(c) && !unicode.IsSpace(c):
			fmt.Fprintf(&s, `\u%04x`, c)
		default:
			s.WriteRune(c)
		}
		b = b[n:]
	}
	return s.String()
}
