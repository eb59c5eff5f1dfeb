package delivery

import (
	"encoding/json"
	"fmt"
	"slices"

	"reimager/report"
)

// MessageFormat is the version of what is delivered.
const MessageFormat = 1

// MaxMessageBytes bounds what is delivered; a record is a few KiB.
const MaxMessageBytes = 1 << 20

// maxTexts is how many of one kind of text are delivered; the machine's own record
// has all of them.
const maxTexts = 100

// Message is what is delivered of a run. It holds no contents of files, no secrets,
// and no log: programs of the new system write into that one, too.
type Message struct {
	Format    int    `json:"format"`
	RunID     string `json:"run_id"`
	State     string `json:"state"` // as reimager status says it
	Host      string `json:"host"`
	MachineID string `json:"machine_id,omitempty"`
	Program   string `json:"program"` // version of what delivers it
	// Record is the run's account, but for the list of retained files; of a run that was
	// interrupted at most its beginning.
	Record *report.Record `json:"record,omitempty"`
}

// Kept is what is delivered of what was kept, in place of one entry for each file.
type Kept struct {
	Files     int      `json:"files"` // and directories
	Bytes     int64    `json:"bytes"`
	Conflicts []string `json:"conflicts,omitempty"` // what was not put back, and why
	Omitted   int      `json:"conflicts_omitted,omitempty"`
	Lost      int      `json:"lost,omitempty"`     // attributes that were not put back
	Unmapped  int      `json:"unmapped,omitempty"` // owners without a name in the new system
	Accounts  string   `json:"accounts,omitempty"`
}

// Encode returns the message as JSON, with its lists cut to their bounds. One that is
// still too long, since JSON may need six bytes for one (RFC 8259, section 7), has no
// lists but says how long they are: an outcome without details is better than none.
func (m Message) Encode() ([]byte, error) {
	text, err := m.encode(maxTexts)
	if err == nil && len(text) > MaxMessageBytes {
		text, err = m.encode(0)
	}
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	if len(text) > MaxMessageBytes {
		return nil, fmt.Errorf("encode record: %d bytes, at most %d are delivered", len(text), MaxMessageBytes)
	}
	return text, nil
}

// encode encodes the message with at most so many texts of each list.
func (m Message) encode(most int) ([]byte, error) {
	m.Format = MessageFormat
	if m.Record != nil {
		r := *m.Record
		r.Warnings, r.NotThere, r.Hints = cut(r.Warnings, most), cut(r.NotThere, most), cut(r.Hints, most)
		r.Error = shorten(r.Error)
		r.Hooks, r.Rewrites = slices.Clone(r.Hooks), slices.Clone(r.Rewrites)
		for i, h := range r.Hooks {
			r.Hooks[i].Run, r.Hooks[i].Error = cut(h.Run, most), shorten(h.Error)
		}
		for i, w := range r.Rewrites {
			r.Rewrites[i].Error = shorten(w.Error)
		}
		if r.Rehearsal != nil {
			measured := *r.Rehearsal
			measured.Devices, measured.Drivers = cut(measured.Devices, most), cut(measured.Drivers, most)
			r.Rehearsal = &measured
		}
		if kept, ok := r.Retained.(Kept); ok {
			kept.Omitted = max(0, len(kept.Conflicts)-most)
			kept.Conflicts = cut(kept.Conflicts, most)
			r.Retained = kept
		} else {
			r.Retained = nil
		}
		m.Record = &r
	}
	text, err := json.MarshalIndent(m, "", "  ")
	return append(text, '\n'), err
}

// cut keeps the first of many texts, and of each what fits a line or two.
func cut(texts []string, most int) []string {
	var all []string
	for i, t := range texts {
		if i == most {
			return append(all, fmt.Sprintf("and %d more", len(texts)-most))
		}
		all = append(all, shorten(t))
	}
	return all
}

func shorten(text string) string {
	const limit = 2000
	if len(text) <= limit {
		return text
	}
	return text[:limit] + fmt.Sprintf("… (%d bytes more)", len(text)-limit)
}
