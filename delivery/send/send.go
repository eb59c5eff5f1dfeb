// Package send brings a message to one place: a program's standard input, a file or
// an HTTPS endpoint. Whether and when it is tried again is its caller's to decide.
package send

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"reimager/config"
	"reimager/delivery"
	"reimager/report"
)

// refusedError is a refusal that is unlikely to change within minutes.
type refusedError struct{ error }

func (r refusedError) Unwrap() error { return r.error }

// Refused tells whether trying again soon is of no use: the endpoint has answered,
// and the answer is no. Of joined errors all have to be refusals.
func Refused(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if !Refused(e) {
				return false
			}
		}
		return true
	}
	var r refusedError
	return errors.As(err, &r)
}

// laterError is an answer that says when to come again.
type laterError struct {
	error
	after time.Duration
}

func (l laterError) Unwrap() error { return l.error }

// After is how long the place has asked to be left alone; 0 if it has not.
func After(err error) time.Duration {
	var l laterError
	if errors.As(err, &l) {
		return l.after
	}
	return 0
}

// Once makes one attempt, within to.Timeout. version is that of this program.
func Once(ctx context.Context, place delivery.Place, to config.Delivery, runID, version string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, to.Timeout.Duration)
	defer cancel()
	var err error
	switch place.Kind {
	case "command":
		err = toCommand(ctx, to, body)
	case "file":
		err = toFile(to.File, body)
	case "url":
		err = toURL(ctx, to, runID, version, body)
	default:
		err = errors.New("no such kind of place")
	}
	if err != nil {
		return fmt.Errorf("deliver to %s: %w", place, err)
	}
	return nil
}

// toFile replaces the file at once. Its folder has to be there: one that is made
// because a mount is missing hides what was to be told.
func toFile(name string, body []byte) error {
	dir := filepath.Dir(name)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return report.Hint(err, "make the folder; it is not made here, since it may be a mount that is missing")
	}
	// The temporary file beside it, never in $TMPDIR: what fits there may not fit here.
	f, err := renameio.NewPendingFile(name, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	if err == nil {
		err = f.CloseAtomicallyReplace()
	}
	if err := errors.Join(err, f.Cleanup()); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Pause returns how long to wait before the next attempt: twice as long each time up
// to the longest, and half of it by chance, so that a fleet that comes up at once does
// not ask at once. chance is from 0 to 1.
func Pause(attempt int, first, longest time.Duration, chance float64) time.Duration {
	pause := first
	for range attempt {
		if pause *= 2; pause >= longest || pause <= 0 {
			pause = longest
			break
		}
	}
	pause = min(pause, longest)
	return pause/2 + time.Duration(chance*float64(pause/2))
}
