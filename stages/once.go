package stages

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"reimager/boot"
	"reimager/config"
	"reimager/disk"
	"reimager/report"
	"reimager/wake"
)

// Begun is a run that may go on: it was not done before, and the next start of this
// machine will know that it was.
type Begun struct{ begun }

type begun struct{ rehearse bool }

// Rehearse tells whether the run ends at the point of no return.
func (b *Begun) Rehearse() bool { return b.rehearse }

// OverError says that a run is not done, or not again. Nothing was written because of it.
type OverError struct {
	Why string
	// Closed says that the boot loader will not come back here.
	Closed bool
	// New says that the new system is on the disk.
	New bool
}

func (e *OverError) Error() string { return "this run is over: " + e.Why }

// Returns tells whether somebody wants the old system back whatever becomes of the run:
// it is a rehearsal, or cancelled.
func (r *Run) Returns() bool {
	if r.aboard != nil && r.aboard.Rehearse() {
		return true // the start before was told so
	}
	p, err := ReadParameters()
	return err == nil && (p.Cancel || p.Rehearse) || r.Job != nil && r.Job.Rehearse
}

// ErrCancelled says that somebody typed reimager.cancel.
var ErrCancelled = errors.New("cancelled on the kernel command line (reimager.cancel)")

// Begin reads the job and closes its gate, before anything else is looked at: whatever
// becomes of the run, the machine then boots as ever. Where the gate cannot be closed
// the run goes on only if it leaves a mark that it recognises at the next start.
func (r *Run) Begin(ctx context.Context) (*Begun, error) {
	p, err := ReadParameters()
	if err != nil {
		return nil, err
	}
	for _, name := range p.Unknown {
		r.Report.Printf("warning: kernel parameter %s is not known and was ignored", name)
	}
	if err := r.LoadJob(ctx); err != nil {
		return nil, err
	}
	if r.fromStick() {
		if err := r.beginStick(ctx, p.Once); err != nil {
			return nil, err
		}
	} else if r.Job != nil {
		closed, err := r.closeGate(ctx)
		if err != nil {
			return nil, err
		}
		if err := r.mark(ctx, closed); err != nil {
			return nil, err
		}
	}
	if p.Cancel {
		return nil, ErrCancelled
	}
	return &Begun{begun{rehearse: p.Rehearse || r.Job != nil && r.Job.Rehearse}}, nil
}

// closeGate overwrites the gate, which boot loader and job agree on, as tried.
func (r *Run) closeGate(ctx context.Context) (closed bool, err error) {
	open := func(why error) (bool, error) {
		r.warn("the gate cannot be closed, so the boot loader may start this run again: %v", why)
		return false, nil
	}
	source := r.Job.Gate
	if source.IsZero() {
		return open(errors.New("the job names none"))
	}
	at, err := r.await(ctx, source.Device, nil)
	if err != nil {
		return open(err)
	}
	gate, err := r.lookAt(ctx, at, source, boot.EnvSize+1)
	if errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("check gate %s: it is gone: this machine is not armed any more", source)
	}
	if err != nil {
		return open(err)
	}
	state, _, err := boot.ReadGate(r.Job.RunID, gate.begin)
	if err != nil {
		return false, report.Hint(fmt.Errorf("check gate %s: %w", source, err), "arm the machine again")
	}
	if state != boot.GateArmed {
		// That we are here proves that the boot loader does not heed it.
		return false, &OverError{Why: "its gate is closed"}
	}
	tried, err := boot.Gate(r.Job.RunID, boot.GateTried, 0)
	if err != nil {
		return false, err
	}
	armed := func(_ int, block []byte) bool { return bytes.Equal(block, gate.begin) }
	if err := gate.overwrite(boot.EnvSize, [][]byte{tried}, armed); err != nil {
		return open(err)
	}
	r.Report.Printf("gate     closed: the next start boots as ever")
	return true, nil
}

// mark writes into the report file that the run has begun. A file that says so already,
// or holds a report, means that the run is over; and so does a new system that has
// this run's record.
func (r *Run) mark(ctx context.Context, closed bool) error {
	trace, err := r.findTrace(ctx, closed)
	if err == nil && trace.done != nil {
		return &OverError{Why: "its new system is on the disk", Closed: closed, New: true}
	}
	if err == nil && trace.state != report.FileEmpty {
		return &OverError{Why: fmt.Sprintf("its report in the old system says %q", trace.state), Closed: closed}
	}
	if err == nil {
		var first []byte
		if first, err = report.BegunBlock(r.Job.RunID, r.Record.Version, time.Now()); err != nil {
			return err
		}
		empty := func(_ int, block []byte) bool { return bytes.Equal(block, trace.file.begin) }
		err = trace.file.overwrite(report.FileBlockBytes, [][]byte{first}, empty)
	}
	switch {
	case closed && err != nil:
		r.warn("the old system will not know of a run that ends without a report: %v", err)
	case err != nil:
		return &OverError{Why: fmt.Sprintf("it was not begun, as it could not be told afterwards that it was: %v", err)}
	case !closed && r.Config.New.LogDir == config.LogOff && !r.onTarget(ctx, r.Job.Gate.Device):
		return &OverError{Why: `it was not begun, as a new system without a record (log_dir = "off") could not be told from an old one`}
	}
	return nil
}

// trace is what an earlier start of this run may have left.
type trace struct {
	file  *placed          // the report file in the old system
	state report.FileState // of it
	done  *report.Record   // in the new system
}

// findTrace waits for the old system's report file, or, where the gate is open, for a
// new system that says it was put here by this run.
func (r *Run) findTrace(ctx context.Context, closed bool) (*trace, error) {
	source := r.Job.Report.Source
	if source.IsZero() {
		source.Device = config.Device{Kind: config.ByUUID, Value: r.Job.OldRoot}
	}
	found := &trace{}
	var last error
	err := r.Uevents.Await(ctx, source.Device.String(), r.Config.Machine.DeviceTimeout.Duration, func() (bool, error) {
		var p place
		if p, last = r.find(source.Device, nil); last == nil {
			last = r.lookAtReport(ctx, p, found)
			if last == nil || closed {
				return true, nil
			}
		}
		// A new system may have the old one's UUIDs.
		if !closed && r.Drivers.Settled() {
			found.done = r.findRecord(ctx)
		}
		return found.done != nil, last
	})
	if err != nil || found.done != nil {
		return found, err
	}
	return found, last
}

func (r *Run) lookAtReport(ctx context.Context, p place, found *trace) (err error) {
	if r.Job.Report.Source.Path == "" {
		return errors.New("the job names no report file")
	}
	if found.file, err = r.lookAt(ctx, p, r.Job.Report.Source, report.FileBlockBytes); err != nil {
		return err
	}
	found.state, err = report.FileStateOf(r.Job.RunID, found.file.begin)
	return err
}

// findRecord looks for a new system on the disk that was armed, by what does not change
// with its content. An error means that there is none.
func (r *Run) findRecord(ctx context.Context) *report.Record {
	if r.Config.New.LogDir == config.LogOff {
		return nil
	}
	for _, d := range r.targets() {
		record, err := r.recordOn(ctx, &d)
		if err == nil && record.RunID == r.Job.RunID && record.Outcome == "restored" {
			return record
		}
		if err != nil {
			r.Report.Detail("look for a new system on %s: %v", d.Path, err)
		}
	}
	return nil
}

// targets are the disks that may be the one that was armed, whatever is on them.
func (r *Run) targets() []disk.Disk {
	want := r.Job.Target
	want.PTUUID = ""
	all, err := r.Disks.List()
	if err != nil {
		return nil
	}
	var found []disk.Disk
	for _, d := range all {
		if want.Differs(identity(&d)) == "" {
			found = append(found, d)
		}
	}
	return found
}

// onTarget tells whether a filesystem lies on the disk that will be rewritten.
func (r *Run) onTarget(ctx context.Context, device config.Device) bool {
	p, err := r.await(ctx, device, nil)
	return err == nil && r.Job.Target.Differs(identity(&p.disk)) == ""
}

// recordOn reads the record of the system on a disk.
func (r *Run) recordOn(ctx context.Context, d *disk.Disk) (record *report.Record, err error) {
	s := system{named: r.Config.New.Mounts, dir: newDir, own: true}
	if named := r.Config.New.Root; !named.IsZero() {
		s.root, err = r.deviceOn(named, d)
	} else {
		s.root, err = r.findRoot(ctx, newDir, func(p place) bool { return p.disk.Name == d.Name })
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, wake.UnmountBelow(newDir)) }()
	if err := r.mountSystem(ctx, s, unix.MS_RDONLY); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(newDir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(strings.TrimPrefix(path.Join(r.Config.New.LogDir, report.RecordName), "/"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	record = &report.Record{}
	if err := json.NewDecoder(io.LimitReader(f, maxRecord)).Decode(record); err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	return record, nil
}

// maxRecord bounds a record in bytes; it names every retained file.
const maxRecord = 256 << 20
