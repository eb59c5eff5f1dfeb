package report

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Names of what a run leaves in the log directory of the new system.
const (
	LogName    = "reimager.log"
	RecordName = "record.json"
	// LogPointer is a link to that directory, for who does not know the configuration;
	// beneath the new root.
	LogPointer = "var/lib/reimager/log"
)

// RecordFormat is the version of record.json.
const RecordFormat = 1

// Record is the machine-readable account of a run. It never holds the contents of
// files.
type Record struct {
	Format   int       `json:"format"`
	RunID    string    `json:"run_id"`
	Version  string    `json:"version"` // of this program
	Started  time.Time `json:"started"`
	Outcome  string    `json:"outcome"` // "failed", "rehearsed", "restored"
	Stage    string    `json:"stage"`   // the last that was reached
	Error    string    `json:"error,omitempty"`
	Hints    []string  `json:"hints,omitempty"`
	Attempts int       `json:"attempts"` // how often the write was begun
	// Did is what the machine did about the end of the run: "boot the old system", …
	Did string `json:"did,omitempty"`
	// ReadBack says that every byte written was read back and compared.
	ReadBack bool `json:"read_back,omitempty"`

	Machine Machine    `json:"machine"`
	Target  Target     `json:"target"`
	Image   Image      `json:"image"`
	Stages  []Duration `json:"stages"`
	// Lifeboat is what makes a power cut harmless; nil: there was none.
	Lifeboat *Lifeboat `json:"lifeboat,omitempty"`
	// Rehearsal is what a rehearsal has measured.
	Rehearsal *Rehearsal `json:"rehearsal,omitempty"`
	Retained  any        `json:"retained,omitempty"` // what retain reports per path
	// NotThere are lines of the list that matched nothing, and were allowed to.
	NotThere []string  `json:"not_there,omitempty"`
	Hooks    []HookRun `json:"hooks,omitempty"`
	Rewrites []Rewrite `json:"rewrites,omitempty"`
	Warnings []string  `json:"warnings,omitempty"`
}

// Rehearsal is what a run up to the point of no return has measured.
type Rehearsal struct {
	Manifest      string   `json:"manifest_sha256,omitempty"` // of the release
	Devices       []string `json:"devices"`                   // disks as they were found
	Drivers       []string `json:"drivers"`                   // modules that were loaded
	FreeBytes     int64    `json:"free_bytes"`                // memory left at the end of gather
	GatherSeconds float64  `json:"gather_seconds"`
	RetainedFiles int      `json:"retained_files"`
	RetainedBytes int64    `json:"retained_bytes"`
	// DowntimeSeconds is an estimate of a whole run, from the reboot to the new system's
	// own boot: what was measured here, and the write at the rate that the disk reads.
	DowntimeSeconds float64 `json:"downtime_seconds"`
}

// Lifeboat is a run's copy of itself on the disk.
type Lifeboat struct {
	Where  string `json:"where"`
	Offset int64  `json:"offset"` // of the berth on the disk, in bytes
	Bytes  int64  `json:"bytes"`  // of the berth
	Proven bool   `json:"proven"` // the old system's boot loader has started it
	Starts int    `json:"starts"` // workers that went on from it; more than one after a power cut
}

// HookRun is a program of the new system that was run in it.
type HookRun struct {
	Run     []string `json:"run"`
	When    string   `json:"when"`
	Seconds float64  `json:"seconds"`
	Error   string   `json:"error,omitempty"`
}

// Rewrite is a file of the new system in which lines were replaced.
type Rewrite struct {
	File  string `json:"file"`
	Lines int    `json:"lines"`
	Error string `json:"error,omitempty"`
}

// Machine is what the run woke on.
type Machine struct {
	Kernel      string  `json:"kernel"`
	MemoryBytes int64   `json:"memory_bytes"`
	WakeSeconds float64 `json:"wake_seconds"` // from the first instruction of /init to gather
	PeakBytes   int64   `json:"peak_bytes"`   // resident memory of worker and supervisor at their highest
}

// Target is the disk that was written.
type Target struct {
	Path       string `json:"path"`
	Bytes      int64  `json:"bytes"`
	SectorSize int    `json:"sector_size"`
	Serial     string `json:"serial,omitempty"`
	WWN        string `json:"wwn,omitempty"`
	Model      string `json:"model,omitempty"`
}

// Image is what was written.
type Image struct {
	Source          string `json:"source"`
	Format          string `json:"format"`
	CompressedBytes int64  `json:"compressed_bytes"`
	SHA256          string `json:"sha256"` // of the compressed image
	Bytes           int64  `json:"bytes"`  // decoded
	MappedBytes     int64  `json:"mapped_bytes"`
	Name            string `json:"name,omitempty"` // of the release
	Version         string `json:"version,omitempty"`
	Counter         int64  `json:"counter,omitempty"`
	SignedBy        string `json:"signed_by,omitempty"`
}

// Duration is how long a stage took.
type Duration struct {
	Stage   string  `json:"stage"`
	Seconds float64 `json:"seconds"`
	Bytes   int64   `json:"bytes,omitempty"` // written or read back
}

// Fail notes an error and its hints.
func (r *Record) Fail(err error) {
	r.Outcome, r.Error, r.Hints = "failed", err.Error(), hints(err)
}

// Took notes how long a stage took.
func (r *Record) Took(stage string, d time.Duration, bytes int64) {
	r.Stages = append(r.Stages, Duration{stage, d.Seconds(), bytes})
}

// Spent is how long some stages took.
func (r *Record) Spent(stages ...string) (all time.Duration) {
	for _, s := range r.Stages {
		if slices.Contains(stages, s.Stage) {
			all += time.Duration(s.Seconds * float64(time.Second))
		}
	}
	return all
}

// Encode returns the record as indented JSON.
func (r *Record) Encode() ([]byte, error) {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return append(text, '\n'), nil
}
