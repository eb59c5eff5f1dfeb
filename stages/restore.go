package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"reimager/accounts"
	"reimager/config"
	"reimager/disk"
	"reimager/fault"
	"reimager/lifeboat"
	"reimager/report"
	"reimager/retain"
	"reimager/wake"
)

// Restored is a disk with the machine's own files on it, compared with the
// archive, unmounted and flushed. Only what firmware boots it by is missing.
type Restored struct{ *Written }

// Restore puts the retained files back and leaves log and record. With an empty
// list and log_dir = "off" it mounts nothing, so that the disk stays the image.
func (r *Run) Restore(ctx context.Context, w *Written) (*Restored, error) {
	if w.voyage.Done().Reached(lifeboat.Restored) {
		return &Restored{w}, nil
	}
	done := r.stage("restore")
	if !r.restores() && w.ArchiveBytes == 0 {
		done(0)
		return &Restored{w}, r.onTargetDisk(ctx, w, w.voyage.BeginRestore, w.voyage.EndRestore)
	}
	if err := r.onTargetDisk(ctx, w, w.voyage.BeginRestore); err != nil {
		return nil, err
	}
	root, err := r.findNewSystem(ctx, &w.Disk)
	if err != nil {
		return nil, err
	}
	r.Report.Printf("new root %s", root.root)
	err = r.guarded(ctx, w, func() error {
		if err := r.before(ctx, root, w); err != nil {
			return err
		}
		var put *retain.Report
		if w.ArchiveBytes > 0 {
			var err error
			if put, err = r.putBack(ctx, root, w); err != nil {
				return err
			}
			if err := r.compare(ctx, root, put); err != nil {
				return err
			}
		}
		return r.adapt(ctx, root, w, put)
	})
	if err != nil {
		return nil, err
	}
	done(w.ArchiveBytes)
	r.Record.Outcome, r.Record.Did = "restored", "boot the new system"
	r.notePeak()
	if err := r.leaveLog(ctx, root, w); err != nil {
		return nil, err
	}
	return &Restored{w}, r.onTargetDisk(ctx, w, w.voyage.EndRestore)
}

// onTargetDisk opens the disk, on which nothing is mounted, for a step of the voyage.
func (r *Run) onTargetDisk(ctx context.Context, w *Written, steps ...func(*disk.Device) error) (err error) {
	dev, err := r.openDisk(ctx, w.Disk.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	for _, step := range steps {
		if err := step(dev); err != nil {
			return err
		}
	}
	return nil
}

// findNewSystem finds the root that the image brought, and what its fstab mounts, before
// anything changes that.
func (r *Run) findNewSystem(ctx context.Context, target *disk.Disk) (system, error) {
	root, err := r.findNewRoot(ctx, target)
	s := system{root: root, named: r.Config.New.Mounts, dir: newDir, own: true}
	if err != nil || len(s.named) > 0 {
		return s, err
	}
	if err := r.mount(ctx, root, newDir, unix.MS_RDONLY); err != nil {
		return s, err
	}
	if s.fstab, err = readFstab(newDir); err != nil {
		err = fmt.Errorf("read fstab of %s: %w", root.part.Path, err)
	}
	return s, errors.Join(err, wake.UnmountBelow(newDir))
}

// findNewRoot waits for the root that the image brought.
func (r *Run) findNewRoot(ctx context.Context, target *disk.Disk) (place, error) {
	var root place
	if named := r.Config.New.Root; !named.IsZero() {
		err := r.Uevents.Await(ctx, named.String(), r.Config.Machine.DeviceTimeout.Duration, func() (bool, error) {
			var err error
			root, err = r.deviceOn(named, target)
			return err == nil, err
		})
		return root, err
	}
	err := r.Uevents.Await(ctx, "the new root", r.Config.Machine.DeviceTimeout.Duration, func() (bool, error) {
		var err error
		root, err = r.findRoot(ctx, newDir, func(p place) bool { return p.disk.Name == target.Name })
		return err == nil, err
	})
	return root, err
}

// onNewSystem mounts the new system, calls use, and unmounts and flushes it.
func (r *Run) onNewSystem(ctx context.Context, root system, flags uintptr, use func() error) error {
	err := r.mountSystem(ctx, root, flags)
	if err == nil {
		fault.At("new system mounted")
		err = use()
	}
	if flags&unix.MS_RDONLY == 0 {
		// Delayed writes fail here, where they can still be told of.
		err = errors.Join(err, syncAll(newDir))
	}
	return errors.Join(err, wake.UnmountBelow(newDir))
}

// syncAll syncs every filesystem that is mounted at or below dir.
func syncAll(dir string) error {
	points, err := wake.MountsBelow(dir)
	all := []error{err}
	for _, p := range points {
		all = append(all, syncOne(p))
	}
	return errors.Join(all...)
}

func syncOne(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	// syncfs reports errors of delayed writes from Linux 5.8 on: syncfs(2).
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return errors.Join(fmt.Errorf("sync %s: %w", dir, err), f.Close())
	}
	return f.Close()
}

func (r *Run) options() retain.Options {
	o := retain.Options{Owners: retain.ByName}
	if r.Config.Retain.Owners == "id" {
		o.Owners = retain.ByID
	}
	return o
}

func (r *Run) putBack(ctx context.Context, root system, w *Written) (*retain.Report, error) {
	archive, err := os.Open(ramArchive)
	if err != nil {
		return nil, fmt.Errorf("open archive: %w", err)
	}
	defer archive.Close()
	bar := r.Report.Progress("restore", w.ArchiveBytes)
	o := r.options()
	last := int64(0)
	o.Progress = func(n int64) { bar.Add(n - last); last = n }
	var put *retain.Report
	err = r.onNewSystem(ctx, root, 0, func() error {
		var err error
		put, err = retain.Restore(ctx, newDir, archive, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	bar.Done()
	r.Record.Retained = put
	var conflicts, lost, unmapped []string
	for _, c := range put.Conflicts {
		conflicts = append(conflicts, fmt.Sprintf("%s was not put back: %s", c.Path, c.Why))
	}
	for _, l := range put.Lost {
		lost = append(lost, fmt.Sprintf("%s lost its %s: %s", l.Path, l.Attribute, l.Why))
	}
	for _, u := range put.Unmapped {
		unmapped = append(unmapped, fmt.Sprintf("the new system has no %s %q; %d files keep the number %d", u.Kind, u.Name, u.Files, u.ID))
	}
	for _, texts := range [][]string{conflicts, lost, unmapped} {
		r.warnAll(texts)
	}
	if put.Accounts != nil {
		r.Report.Printf("accounts %s", put.Accounts.Summary())
		var skipped []string
		for _, e := range put.Accounts.Entries {
			r.Report.Detail("accounts %s", e)
			if e.Did == accounts.Skipped {
				skipped = append(skipped, fmt.Sprintf("accounts: %s", e))
			}
		}
		r.warnAll(skipped)
	}
	r.Report.Printf("restore  %d files and directories are back", len(put.Entries))
	return put, nil
}

// compare mounts the new system anew and compares it with the archive. What the
// restore reported itself is no news.
func (r *Run) compare(ctx context.Context, root system, put *retain.Report) error {
	archive, err := os.Open(ramArchive)
	if err != nil {
		return fmt.Errorf("open archive: %w", err)
	}
	defer archive.Close()
	var differences []retain.Difference
	err = r.onNewSystem(ctx, root, unix.MS_RDONLY, func() error {
		var err error
		differences, err = retain.Verify(ctx, newDir, archive, r.options())
		return err
	})
	if err != nil {
		return err
	}
	conflicts, lost := map[retain.Path]bool{}, map[retain.Path]bool{}
	for _, c := range put.Conflicts {
		conflicts[c.Path] = true
	}
	for _, l := range put.Lost {
		lost[l.Path] = true
	}
	var all []error
	var others []string
	for _, d := range differences {
		switch {
		case conflicts[d.Path]:
		case decisive(d.What):
			all = append(all, fmt.Errorf("compare %s: %s is %s, expected %s", d.Path, d.What, d.Got, d.Want))
		case !lost[d.Path]:
			others = append(others, fmt.Sprintf("%s: %s is %s, expected %s; its filesystem may not be able to keep that", d.Path, d.What, d.Got, d.Want))
		}
	}
	r.warnAll(others)
	if len(all) > maxTold {
		all = append(all[:maxTold], fmt.Errorf("and %d more", len(all)-maxTold))
	}
	if len(all)+len(others)+len(conflicts)+len(lost) == 0 {
		r.Report.Printf("restore  every one was read back and is as it was")
	}
	return errors.Join(all...)
}

// maxTold is how many of one kind an error or the warnings name; the record has all
// that were not put back.
const maxTold = 50

// warnAll warns of the first of many.
func (r *Run) warnAll(texts []string) {
	for i, text := range texts {
		if i == maxTold {
			r.warn("and %d more of this kind", len(texts)-maxTold)
			return
		}
		r.warn("%s", text)
	}
}

// decisive tells whether a difference means that a file was not put back, so that
// writing again may help. Times, owners, modes and attributes may be what the new
// filesystem cannot keep (vfat, ext4 with small inodes): that would be so each
// time, and is no reason to keep a machine from its new system.
func decisive(what string) bool {
	switch what {
	case "accounts", "existence", "type", "content", "link target", "device", "hard link":
		return true
	}
	return false
}

// leaveLog puts log and record into the new system. A disk too full for them does
// not keep a machine from landing.
func (r *Run) leaveLog(ctx context.Context, root system, w *Written) error {
	dir := r.Config.New.LogDir
	if dir == config.LogOff {
		return nil
	}
	return r.onNewSystem(ctx, root, 0, func() error {
		r.leaveReporter()
		err := r.writeLog(dir)
		if err != nil { // the account of the run is worth a second try
			err = r.writeLog(dir)
		}
		if err != nil {
			r.warn("leave the log in %s: %v", dir, err)
		} else {
			r.Report.Printf("log      %s and %s", path.Join(dir, report.LogName), path.Join(dir, report.RecordName))
		}
		return nil
	})
}

func (r *Run) writeLog(dir string) error {
	system, err := os.OpenRoot(newDir)
	if err != nil {
		return err
	}
	defer system.Close()
	dir = strings.TrimPrefix(dir, "/")
	if err := system.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// Before the record, which is to tell of it.
	if err := pointTo(system, "/"+dir); err != nil {
		r.warn("leave the link %s: %v", report.LogPointer, err)
	}
	log, err := r.wholeLog()
	if err != nil {
		return err
	}
	record, err := r.Record.Encode()
	if err != nil {
		return err
	}
	return errors.Join(
		report.WriteFile(system, path.Join(dir, report.LogName), log, 0o600),
		report.WriteFile(system, path.Join(dir, report.RecordName), record, 0o600))
}

// pointTo leaves a link to the log directory where `reimager status` looks. It is left
// for the default one, too: a log directory that is not mounted is told by it from a
// system that no run has put here.
func pointTo(system *os.Root, dir string) error {
	if err := system.MkdirAll(path.Dir(report.LogPointer), 0o755); err != nil {
		return err
	}
	if err := system.Remove(report.LogPointer); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return system.Symlink(dir, report.LogPointer)
}
