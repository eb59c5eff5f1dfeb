package screen

import (
	"bytes"
	"fmt"
	"slices"
)

// What console_codes(4) understands.
const (
	// begin resets the terminal, makes it take UTF-8, hides the cursor, and switches
	// blanking and VESA powersaving off, for good.
	begin = "\x1bc\x1b%G\x1b[?25l\x1b[9;0]\x1b[14;0]\x1b[13]"
	// colours gives the colours that a page uses quieter tones, on its own terminal only:
	// background, bar and good news, warning, rest of the bar, text, what is muted, what is
	// strong.
	colours = "\x1b]P0161c24\x1b]P26fae9a\x1b]P3e3b565\x1b]P43f4a56\x1b]P7c3ccd4\x1b]P87f8c99\x1b]PFf2f5f7"
	clear   = "\x1b[0m\x1b[H\x1b[2J"
)

// sgr selects a style. Bright colours are asked for as bold, which every kernel knows.
func sgr(s style) string {
	return [...]string{plain: "\x1b[0m", strong: "\x1b[0;1;37m", muted: "\x1b[0;1;30m", good: "\x1b[0;32m", warn: "\x1b[0;33m", track: "\x1b[0;34m"}[s]
}

// draw returns the bytes that turn one picture into another on the terminal. A picture
// of another size, or none, is replaced as a whole.
func draw(from, to frame) []byte {
	var out bytes.Buffer
	if len(from) != len(to) || len(to) > 0 && len(from[0]) != len(to[0]) {
		out.WriteString(colours + clear)
		width := 0
		if len(to) > 0 {
			width = len(to[0])
		}
		from = newFrame(width, len(to))
	}
	for y := range to {
		drawRow(&out, y, from[y], to[y])
	}
	if out.Len() > 0 {
		out.WriteString(sgr(plain))
	}
	return out.Bytes()
}

// drawRow writes a row from the first to the last cell that differs.
func drawRow(out *bytes.Buffer, y int, from, to []cell) {
	if slices.Equal(from, to) {
		return
	}
	first, last := 0, len(to)-1
	for from[first] == to[first] {
		first++
	}
	for from[last] == to[last] {
		last--
	}
	fmt.Fprintf(out, "\x1b[%d;%dH", y+1, first+1)
	is := to[first].style
	out.WriteString(sgr(is))
	for _, c := range to[first : last+1] {
		if c.style != is {
			is = c.style
			out.WriteString(sgr(is))
		}
		out.WriteRune(c.char)
	}
}
