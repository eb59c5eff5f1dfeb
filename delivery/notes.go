package delivery

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// NotesFormat is the version of the notes.
const NotesFormat = 1

// maxEarlier is how many earlier runs are remembered: the run that put this system here
// becomes the last one again when a machine that was rehearsed is armed or disarmed.
const maxEarlier = 64

// Notes are what is known of the deliveries of one run, kept beside the record so
// that each place gets it once, together with those of earlier runs.
type Notes struct {
	Format int            `json:"format"`
	RunID  string         `json:"run_id"`
	Places map[string]Try `json:"places"` // by Place.String
	// Earlier are other runs that were noted, the last one first.
	Earlier []RunNotes `json:"earlier,omitempty"`
}

// RunNotes are what is known of the deliveries of an earlier run.
type RunNotes struct {
	RunID  string         `json:"run_id"`
	Places map[string]Try `json:"places"`
}

// Try is how it went with one place.
type Try struct {
	Attempts  int       `json:"attempts"`
	Last      time.Time `json:"last,omitzero"`         // attempt
	Delivered time.Time `json:"delivered_at,omitzero"` // zero: not yet
	Error     string    `json:"error,omitempty"`       // of the last attempt
}

// Done tells whether a place has the record.
func (n Notes) Done(p Place) bool { return !n.Places[p.String()].Delivered.IsZero() }

// ReadNotes reads the notes of a run; those of a run without any are empty ones. So are
// notes that cannot be read for what they say (a power cut can leave an empty file on
// some filesystems): a record that arrives twice is better than none.
func ReadNotes(root *os.Root, runID string) (Notes, error) {
	fresh := Notes{Format: NotesFormat, RunID: runID, Places: map[string]Try{}}
	text, err := root.ReadFile(NotesPath)
	if errors.Is(err, os.ErrNotExist) {
		return fresh, nil
	}
	if err != nil {
		return fresh, fmt.Errorf("read /%s: %w", NotesPath, err)
	}
	var n Notes
	if json.Unmarshal(text, &n) != nil || n.Format != NotesFormat {
		return fresh, nil
	}
	return n.of(runID), nil
}

// of makes the notes of one of the runs the first, and all others earlier ones.
func (n Notes) of(runID string) Notes {
	is := Notes{Format: NotesFormat, RunID: runID, Places: map[string]Try{}}
	for _, r := range append([]RunNotes{{n.RunID, n.Places}}, n.Earlier...) {
		switch {
		case len(r.Places) == 0: // nothing was tried
		case r.RunID == runID:
			is.Places = r.Places
		case len(is.Earlier) < maxEarlier:
			is.Earlier = append(is.Earlier, r)
		}
	}
	return is
}

// Write keeps the notes, synced to the disk.
func (n Notes) Write(root *os.Root) error {
	text, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return fmt.Errorf("encode notes: %w", err)
	}
	return place(root, NotesPath, append(text, '\n'), 0o600)
}
