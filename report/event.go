package report

import (
	"strings"
	"time"
)

// Event is a step of a run for whoever shows how far it is. Only what it is about is
// filled in.
type Event struct {
	Run       string `json:"run,omitempty"`       // the run's id
	Rehearsal bool   `json:"rehearsal,omitempty"` // it ends before the point of no return
	Stage     string `json:"stage,omitempty"`     // one that begins
	Work      *Work  `json:"work,omitempty"`
	// Count is how far a count of bytes within the stage has come.
	Count *Count `json:"count,omitempty"`
}

// Work is how many bytes a run has to move, as far as it is known; 0: not yet.
type Work struct {
	Image    int64 `json:"image"`    // compressed: read and decoded before the write
	Mapped   int64 `json:"mapped"`   // of the disk: written, and read back
	Retained int64 `json:"retained"` // brought to RAM, and put back
}

// Count is a number of bytes on its way to a total, which is 0 if it is not known.
type Count struct {
	What  string `json:"what"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
}

// countEvery is how often a count is told of: more would not be seen.
const countEvery = 250 * time.Millisecond

// Watch has told called with each event, one at a time and from any goroutine. It has
// to be set before the reporter is used, and told must not take long.
func (r *Reporter) Watch(told func(Event)) { r.watch = told }

// Tell passes an event to whoever watches.
func (r *Reporter) Tell(e Event) {
	if r.watch == nil {
		return
	}
	r.watching.Lock()
	defer r.watching.Unlock()
	r.watch(e)
}

// SetRun says which run the stages on the kernel log belong to from now on.
func (r *Reporter) SetRun(id string) {
	r.mu.Lock()
	r.run = id
	r.mu.Unlock()
}

// Stage announces a stage on consoles and kernel log.
func (r *Reporter) Stage(name string) {
	r.Milestone("stage "+name, "stage", name)
	r.Tell(Event{Stage: name})
}

// Milestone writes a line to the log and to all consoles, and to the kernel log,
// where it stays even if everything of ours is lost, a line that programs can read:
// key=value for each pair, then run=ID. docs/formats.md promises its form.
func (r *Reporter) Milestone(text string, pairs ...string) {
	r.line("== "+text, true)
	r.mu.Lock()
	run := r.run
	r.mu.Unlock()
	if run == "" {
		run = "-"
	}
	pairs = append(pairs, "run", run)
	var fields []string
	for i := 0; i+1 < len(pairs); i += 2 {
		fields = append(fields, pairs[i]+"="+strings.Join(strings.Fields(pairs[i+1]), "-"))
	}
	r.Kernel("%s", strings.Join(fields, " "))
}
