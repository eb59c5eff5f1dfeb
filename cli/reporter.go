package cli

import (
	"io"
	"os"
	"time"

	"golang.org/x/term"

	"reimager/report"
)

// Reporter reports to a terminal with a bar, elsewhere in whole lines.
func Reporter(w io.Writer) *report.Reporter {
	r := report.New(io.Discard, nil, time.Now())
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		r.AddScreen(w)
	} else {
		r.AddSerial(w)
	}
	return r
}

// Width is how many characters a line of the terminal w has; 0 if w is none, or does
// not say, as serial lines do not.
func Width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}
