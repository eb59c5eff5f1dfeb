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
