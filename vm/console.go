package vm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Line is a line of the serial console without its terminal escapes.
type Line struct {
	At   time.Duration // since the VM was started, when the line's first byte came
	Text string
}

// Console keeps everything that a guest wrote to its serial port.
type Console struct {
	mu      sync.Mutex
	start   time.Time
	raw     []byte
	begins  []time.Duration // of each line of raw
	matched int             // where WaitFor looks on
	changed chan struct{}   // closed and replaced at each change
	done    chan struct{}   // closed at the end of input
}

func newConsole(r *os.File, tee io.Writer) *Console {
	c := &Console{start: time.Now(), changed: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer r.Close() // read only: nothing can be lost
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			c.add(buf[:n])
			if tee != nil && n > 0 {
				if _, teeErr := tee.Write(buf[:n]); teeErr != nil {
					tee = nil // the guest must not stall because a viewer is gone
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return c
}

func (c *Console) add(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range p {
		if len(c.raw) == 0 || c.raw[len(c.raw)-1] == '\n' {
			c.begins = append(c.begins, time.Since(c.start))
		}
		c.raw = append(c.raw, b)
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// Bytes returns all that was written so far, as it was written.
func (c *Console) Bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.raw)
}

// Lines returns all lines so far.
func (c *Console) Lines() []Line {
	c.mu.Lock()
	defer c.mu.Unlock()
	escapes := regexp.MustCompile(`\x1b(\[[0-9;?!]*[a-zA-Z]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][A-Z0-9]|[c=>78])|\r`)
	var lines []Line
	for i, text := range strings.Split(strings.TrimSuffix(string(c.raw), "\n"), "\n") {
		if i < len(c.begins) {
			lines = append(lines, Line{c.begins[i], escapes.ReplaceAllString(text, "")})
		}
	}
	return lines
}

// Last returns the last n lines with their times in seconds.
func (c *Console) Last(n int) string {
	lines := c.Lines()
	var text strings.Builder
	for _, line := range lines[max(0, len(lines)-n):] {
		fmt.Fprintf(&text, "%8.3f  %s\n", line.At.Seconds(), line.Text)
	}
	return text.String()
}

// Contains tells whether the text came at any time so far.
func (c *Console) Contains(text string) bool {
	return bytes.Contains(c.Bytes(), []byte(text))
}

// WaitFor waits until the guest writes text, looking on from behind what the
// previous WaitFor or WaitForMatch found. The error shows the console's last
// 40 lines and the command that reproduces the VM.
func (vm *VM) WaitFor(ctx context.Context, text string) error {
	_, err := vm.WaitForMatch(ctx, regexp.MustCompile(regexp.QuoteMeta(text)))
	return err
}

// WaitForMatch is WaitFor with a regular expression; it returns the match and
// its groups. An expression should not end in something that may match more
// when more comes, because it is tried as bytes arrive.
func (vm *VM) WaitForMatch(ctx context.Context, re *regexp.Regexp) ([]string, error) {
	for {
		groups, changed := vm.Console.next(re)
		if groups != nil {
			return groups, nil
		}
		select {
		case <-changed:
		case <-vm.exited:
			if groups, _ := vm.Console.next(re); groups != nil {
				return groups, nil
			}
			return nil, vm.explain(fmt.Errorf("wait for %q on the console: the VM ended", re))
		case <-ctx.Done():
			return nil, vm.explain(fmt.Errorf("wait for %q on the console: %w", re, context.Cause(ctx)))
		}
	}
}

// next finds re behind the last match; if it is not there yet, changed is
// closed when more has come.
func (c *Console) next(re *regexp.Regexp) (groups []string, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := re.FindSubmatchIndex(c.raw[c.matched:])
	if at == nil {
		return nil, c.changed
	}
	for i := 0; i < len(at); i += 2 {
		group := ""
		if at[i] >= 0 {
			group = string(c.raw[c.matched+at[i] : c.matched+at[i+1]])
		}
		groups = append(groups, group)
	}
	c.matched += at[1]
	return groups, c.changed
}
