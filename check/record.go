package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"reimager/config"
	"reimager/delivery"
	"reimager/disk"
	"reimager/image"
	"reimager/report"
)

// Files of ours on the machine.
const (
	// ReportPath is the file that a failed run, or a rehearsal, fills.
	ReportPath = "/var/lib/reimager/report"
	// RehearsalPath keeps the record of a rehearsal when the report file is made anew.
	RehearsalPath = "/var/lib/reimager/rehearsal.json"
)

// LogDirs are the folders where the run that brought the system beneath root may have
// left its record; the first that has one counts. A run leaves a pointer only if its
// folder is not the usual one, and a program that delivers its record knows it, too.
func LogDirs(root string) []string {
	dirs := []string{filepath.Join(root, report.LogPointer)}
	if r, err := os.OpenRoot(root); err == nil {
		if s, err := delivery.ReadSettings(r); err == nil {
			dirs = append(dirs, filepath.Join(root, s.LogDir))
		}
		r.Close()
	}
	return append(dirs, filepath.Join(root, config.Default().New.LogDir))
}

// cameFrom returns the record of the run that brought this system; nil if none did.
func (h Host) cameFrom() (*report.Record, error) {
	for _, dir := range LogDirs(h.root("")) {
		r, err := readRecord(filepath.Join(dir, report.RecordName))
		if r != nil || err != nil {
			return r, err
		}
	}
	return nil, nil
}

func readRecord(name string) (*report.Record, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	r := &report.Record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("read record %s: %w", name, err)
	}
	return r, nil
}

// judgeDowngrade holds a release against the one that this system came from.
func judgeDowngrade(m *image.Manifest, last *report.Record, err error, rule config.Choice) Result {
	switch {
	case m == nil:
		return pass(Downgrade, "not compared: a bare image has no counter")
	case err != nil:
		return warn(Downgrade, "correct or remove the record", "not compared: %v", err)
	case last == nil || last.Image.Name == "":
		return pass(Downgrade, "not compared: no release has brought this system")
	case last.Image.Name != m.Name:
		return pass(Downgrade, "not compared: this system came from another kind of release, %s %s", last.Image.Name, last.Image.Version)
	case m.Counter < last.Image.Counter:
		found := fmt.Sprintf("counter %d, but this system came from %s %s with counter %d", m.Counter, last.Image.Name, last.Image.Version, last.Image.Counter)
		if rule == "allow" {
			return warn(Downgrade, "", `%s; machine.downgrade = "allow"`, found)
		}
		return fail(Downgrade, `use a newer release, or allow it: --force downgrade, or machine.downgrade = "allow" in the initrd`, "%s", found)
	case m.Counter == last.Image.Counter:
		return pass(Downgrade, "counter %d, the same as of this system", m.Counter)
	}
	return pass(Downgrade, "counter %d, this system has %d", m.Counter, last.Image.Counter)
}

// rehearsed returns the record of the last rehearsal on this machine, wherever it
// lies; nil if there is none. The newest counts, also one that failed. job is what the
// machine was armed for last, or nil.
func (h Host) rehearsed(job *config.Job) (*report.Record, error) {
	for _, name := range []string{h.root(ReportPath), LastReport(h.root(ReportPath))} {
		last, err := report.ReadFile(name)
		switch {
		case err == nil && (last.Record.Outcome == "rehearsed" || RehearsalFailed(job, name)):
			return &last.Record, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, report.ErrNoReport):
			return nil, err
		}
	}
	return readRecord(h.root(RehearsalPath))
}

// LastReport is where a report lies while the machine is armed anew. It comes back if
// that is taken back.
func LastReport(name string) string { return name + ".last" }

// RehearsalFailed tells whether a report file is that of a job which was to rehearse, and
// has begun without passing. Neither says so alone.
func RehearsalFailed(job *config.Job, name string) bool {
	if job == nil || !job.Rehearse || !report.Begun(name, job.RunID) {
		return false
	}
	last, err := report.ReadFile(name)
	return err != nil || last.Record.Outcome != "rehearsed"
}

// judgeRehearsal asks for a passed rehearsal of the very release, where the
// configuration wants one and this is none.
func judgeRehearsal(r *Release, last *report.Record, err error, rehearse bool) Result {
	const hint = "run: reimager arm --rehearse --reboot RELEASE"
	required := r.Baked.Config.Arm.Rehearsal == "require"
	refuse := func(format string, args ...any) Result {
		if required {
			return fail(Rehearsal, hint, `arm.rehearsal = "require": `+format, args...)
		}
		return pass(Rehearsal, "not required; "+format, args...)
	}
	switch {
	case rehearse:
		return pass(Rehearsal, "this is one")
	case err != nil:
		return refuse("the report of the last one cannot be read: %v", err)
	case last == nil || last.Outcome != "rehearsed" || last.Rehearsal == nil:
		return refuse("this machine has rehearsed nothing")
	case r.Manifest == nil:
		return refuse("a bare image cannot be told from another")
	case last.Rehearsal.Manifest != r.Digest.String():
		return refuse("this machine has rehearsed another release, %s %s", last.Image.Name, last.Image.Version)
	}
	return pass(Rehearsal, "passed at %s, with %s of memory left; downtime about %s", last.Started.Local().Format("2006-01-02 15:04"),
		disk.Size(last.Rehearsal.FreeBytes), (time.Duration(last.Rehearsal.DowntimeSeconds) * time.Second).String())
}

// reportPlace is where the report file will lie.
type reportPlace struct {
	free int64
	on   *Location
	err  error
}

// judgeReport makes sure that a failed run can tell of itself: it overwrites the file
// where it lies, without mounting the filesystem for writing.
func judgeReport(p reportPlace) Result {
	// The new file is written beside the old one, which is then replaced.
	const need = 2 * report.FileBytes
	switch {
	case p.err != nil:
		return failed(ReportFile, p.err)
	case p.free < need:
		return fail(ReportFile, "make room", "%s free for %s, expected %s", disk.Size(p.free), ReportPath, disk.Size(need))
	case p.on != nil && !disk.InPlace(disk.Filesystem{Type: p.on.Type}):
		return warn(ReportFile, "it shows what happened on its consoles only", "%s is on %s, where a failed run cannot leave its report", ReportPath, p.on.Type)
	}
	return pass(ReportFile, "%s free for %s", disk.Size(p.free), ReportPath)
}
