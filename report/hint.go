package report

import (
	"errors"
	"fmt"
	"strings"
)

// Hint returns err with a sentence for the operator: what to do about it.
// The text of the error itself stays as it is; Explain prints both.
// A nil err stays nil.
func Hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hinted{err: err, hint: fmt.Sprintf(format, args...)}
}

// Explain returns the error as an operator should read it: its text, then each
// hint that was attached on the way, outermost first, on lines of their own.
func Explain(err error) string {
	if err == nil {
		return ""
	}
	lines := []string{err.Error()}
	for _, h := range hints(err) {
		lines = append(lines, "hint: "+h)
	}
	return strings.Join(lines, "\n")
}

type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// hints walks the whole tree of wrapped errors, so that a hint inside
// errors.Join is not lost.
func hints(err error) []string {
	var found []string
	var h *hinted
	switch e := err.(type) {
	case *hinted:
		h = e
		found = append(found, h.hint)
		return append(found, hints(h.err)...)
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			found = append(found, hints(inner)...)
		}
		return found
	}
	if inner := errors.Unwrap(err); inner != nil {
		return hints(inner)
	}
	return nil
}
