package stages

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"reimager/boot"
	"reimager/config"
	"reimager/disk"
	"reimager/report"
	"reimager/retain"
	"reimager/wake"
)

// keptDir is where a stick is mounted for its archive, while the image is read from
// another mount of it.
const keptDir = Mounts + "/kept"

// fromStick tells whether a stick of `imagebuild media` has brought this run.
func (r *Run) fromStick() bool { return r.Job != nil && r.Job.Media != nil }

// stick returns the disk that the run was brought by.
func (r *Run) stick(ctx context.Context) (*disk.Disk, error) {
	p, err := r.await(ctx, r.Job.Image.Source.Device, nil)
	if err != nil {
		return nil, fmt.Errorf("find the stick: %w", err)
	}
	return &p.disk, nil
}

// beginStick lets a run from a stick begin. A run that the stick has started by itself
// (once) is over where the gate on the stick is closed, or its system is on a disk.
func (r *Run) beginStick(ctx context.Context, once bool) error {
	stick, err := r.stick(ctx)
	if err != nil || !once {
		return err
	}
	closed, err := r.stickClosed(ctx)
	if err != nil {
		return err
	}
	if closed {
		return &OverError{Why: "the gate on the stick is closed", Closed: true}
	}
	var done *disk.Disk
	err = r.Uevents.Await(ctx, "a disk beside the stick", r.Config.Machine.DeviceTimeout.Duration, func() (bool, error) {
		all, err := r.fixedDisks(stick)
		for _, d := range all {
			if r.isDone(ctx, &d) {
				done = &d
			}
		}
		return done != nil || r.Drivers.Settled() && len(all) > 0, err
	})
	if err != nil || done == nil {
		return err
	}
	// What the power cut off: the gate is closed when all else is done.
	r.CloseStick(ctx)
	r.Job.Target = identity(done)
	return &OverError{Why: "its new system is on " + done.String(), New: true}
}

// stickClosed reads the gate of a stick that starts by itself.
func (r *Run) stickClosed(ctx context.Context) (bool, error) {
	source := r.Job.Gate
	at, err := r.await(ctx, source.Device, nil)
	if err != nil {
		return false, fmt.Errorf("check gate %s: %w", source, err)
	}
	gate, err := r.lookAt(ctx, at, source, boot.EnvSize+1)
	if err != nil {
		return false, fmt.Errorf("check gate %s: %w", source, err)
	}
	state, _, err := boot.ReadGate(r.Job.RunID, gate.begin)
	return state == boot.GateTried, err
}

// CloseStick keeps a stick from starting by itself again, once its system is on the disk.
// A stick that was pulled out or is write-protected finds the system's record instead.
func (r *Run) CloseStick(ctx context.Context) {
	p, err := ReadParameters()
	if err != nil || !p.Once {
		return
	}
	if r.Job == nil { // a worker that has taken over
		err = r.LoadJob(ctx)
	}
	if err == nil && r.Job != nil {
		_, err = r.closeGate(ctx)
	}
	if err != nil {
		r.warn("the gate of the stick: %v", err)
	}
}

// fixedDisks are those that a stick may write to.
func (r *Run) fixedDisks(stick *disk.Disk) ([]disk.Disk, error) {
	all, err := r.Disks.List()
	if err != nil {
		return nil, err
	}
	var fixed []disk.Disk
	for _, d := range all {
		named := r.Config.Target.Disk
		meant := !d.Removable
		if named.Kind != config.HoldsOldRoot {
			meant = named.Is(d.Path, d.Serial, d.WWN)
		}
		if meant && d.Name != stick.Name {
			fixed = append(fixed, d)
		}
	}
	return fixed, nil
}

// isDone tells whether this stick's system is complete on a disk.
func (r *Run) isDone(ctx context.Context, d *disk.Disk) bool {
	if r.Config.New.LogDir == config.LogOff || interrupted(d) {
		return false
	}
	record, err := r.recordOn(ctx, d)
	if err != nil {
		r.Report.Detail("look for a new system on %s: %v", d.Path, err)
	}
	return err == nil && record.RunID == r.Job.RunID && record.Outcome == "restored"
}

// interrupted tells whether a disk was half written by a run before.
func interrupted(d *disk.Disk) bool { return boot.IsHolding(sector0(d)) }

// sector0 is empty where it cannot be read.
func sector0(d *disk.Disk) []byte {
	f, err := os.Open(d.Path)
	if err != nil {
		return nil
	}
	defer f.Close()
	sector := make([]byte, boot.SectorBytes)
	if _, err := io.ReadFull(f, sector); err != nil {
		return nil
	}
	return sector
}

// checkLifeboat speaks up for a disk that goes on by itself, if only the stick is pulled:
// a run from the stick would lose what is kept in the berth.
func (r *Run) checkLifeboat(d *disk.Disk) error {
	if !boot.IsLifeboat(sector0(d)) {
		return nil
	}
	p, err := ReadParameters()
	if err != nil {
		return err
	}
	if p.Once {
		return report.Hint(fmt.Errorf("check target: %s has the lifeboat of a run that was interrupted, with the machine's own files", d),
			"start the machine without the stick: it goes on by itself; where it does not, choose the replacement in the stick's menu, which gives those files up")
	}
	r.warn("%s has the lifeboat of a run that was interrupted: the machine's own files in it are given up", d)
	return nil
}

// findForStick finds the old system, if there still is one, and the disk to rewrite:
// the one that the configuration names or that holds the old system, else the one fixed
// disk. A disk that a run has left half written holds no system, whatever its
// filesystems say.
func (r *Run) findForStick(ctx context.Context) (root *place, target *disk.Disk, err error) {
	stick, err := r.stick(ctx)
	if err != nil {
		return nil, nil, err
	}
	var half []disk.Disk
	err = r.Uevents.Await(ctx, "the old root", r.Config.Machine.DeviceTimeout.Duration, func() (bool, error) {
		if !r.Drivers.Settled() {
			return false, nil // a disk that comes late may hold a root too
		}
		all, err := r.fixedDisks(stick)
		if err != nil {
			return false, err
		}
		half = nil
		var whole []disk.Disk
		for _, d := range all {
			if interrupted(&d) {
				half = append(half, d)
			} else {
				whole = append(whole, d)
			}
		}
		if len(half) > 0 {
			return true, nil
		}
		root, err = r.rootAmong(ctx, whole)
		return root != nil, err
	})
	switch {
	case errors.Is(err, errSeveralRoots):
		return nil, nil, err
	case len(half) > 0:
		r.Report.Printf("old root none: %s was left half written", list(half))
		if target, err = r.onlyDisk(half); err == nil {
			err = r.checkLifeboat(target)
		}
	case root != nil:
		target = &root.disk
		if r.Config.Target.Disk.Kind != config.HoldsOldRoot {
			target, err = r.namedDisk(r.Config.Target.Disk)
		}
	default:
		r.Report.Printf("old root none: %v", err)
		var all []disk.Disk
		if all, err = r.fixedDisks(stick); err == nil {
			target, err = r.onlyDisk(all)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	return root, target, r.checkTarget(target)
}

// rootAmong finds the old root on some disks; nil with the reason if there is none that
// can be read.
func (r *Run) rootAmong(ctx context.Context, disks []disk.Disk) (*place, error) {
	on := map[string]bool{}
	for _, d := range disks {
		on[d.Name] = true
	}
	named := r.Config.Old.Root
	if named.IsZero() {
		p, err := r.findRoot(ctx, oldDir, func(p place) bool { return on[p.disk.Name] })
		if err != nil {
			return nil, err
		}
		return &p, nil
	}
	var target *disk.Disk
	if len(disks) == 1 {
		target = &disks[0]
	}
	p, err := r.find(named, target)
	if err != nil {
		return nil, err
	}
	if !on[p.disk.Name] {
		return nil, fmt.Errorf("find %s: it is %s, which is not on a disk that may be written", named, p)
	}
	if err := r.mount(ctx, p, oldDir, unix.MS_RDONLY); err != nil {
		return nil, err
	}
	return &p, wake.UnmountBelow(oldDir)
}

// onlyDisk returns the one disk that can be meant.
func (r *Run) onlyDisk(all []disk.Disk) (*disk.Disk, error) {
	switch len(all) {
	case 1:
		return &all[0], nil
	case 0:
		return nil, report.Hint(errors.New("find target: beside the stick there is no fixed disk, or not the one that [target] disk names"), "is it plugged in, and the driver of its controller in the initrd?")
	}
	return nil, report.Hint(fmt.Errorf("find target: no old system tells which of these disks is meant: %s", list(all)), "unplug the others, or name it in [target] disk by its serial number")
}

func list(disks []disk.Disk) string {
	var s []string
	for _, d := range disks {
		s = append(s, d.String())
	}
	return strings.Join(s, ", ")
}

// stickKeeps returns the archive to restore where the old system is lost. It says loudly
// what a machine loses that has none.
func (r *Run) stickKeeps(root *place) *config.JobKeep {
	switch {
	case !r.fromStick() || root != nil:
		return nil
	case r.Job.Media.Keep != nil:
		r.warn("no old system was found: the machine's own files come from the archive on the stick (%d files and directories)", r.Job.Media.Keep.Files)
		return r.Job.Media.Keep
	case !r.List.Empty():
		r.warn("NOTHING IS KEPT: no old system was found, and the stick has no archive. The machine comes back with the image's own identity")
	}
	return nil
}

// takeKept copies the archive from the stick into RAM and proves it there.
func (r *Run) takeKept(ctx context.Context, keep *config.JobKeep) (err error) {
	p, err := r.await(ctx, keep.Source.Device, nil)
	if err != nil {
		return err
	}
	if err := r.mount(ctx, p, keptDir, unix.MS_RDONLY); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, wake.UnmountBelow(keptDir)) }()
	archive, err := os.OpenFile(ramArchive, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("make archive: %w", err)
	}
	defer func() { err = errors.Join(err, archive.Close()) }()
	bar := r.Report.Progress("retain", keep.Bytes)
	sum := sha256.New()
	err = openBeneath(keptDir, keep.Source, func(f *os.File) error {
		// One byte more, to know a longer file from the right one.
		n, err := io.Copy(io.MultiWriter(archive, sum, countTo(bar)), io.LimitReader(f, keep.Bytes+1))
		if err == nil && n != keep.Bytes {
			err = fmt.Errorf("%d bytes or more, expected %d", n, keep.Bytes)
		}
		return err
	})
	if got := hex.EncodeToString(sum.Sum(nil)); err == nil && got != keep.SHA256 {
		err = fmt.Errorf("SHA-256 %s, expected %s as when the stick was made", got, keep.SHA256)
	}
	if err != nil {
		return report.Hint(fmt.Errorf("copy archive %s: %w", keep.Source, err), "write the stick anew, best another one")
	}
	bar.Done()
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("check archive %s: %w", keep.Source, err)
	}
	if _, err := retain.CheckArchive(archive); err != nil {
		return fmt.Errorf("check archive %s: %w", keep.Source, err)
	}
	r.Report.Printf("retain   %s, %d files and directories", keep.Source, keep.Files)
	return nil
}
