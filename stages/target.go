package stages

import (
	"context"
	"fmt"
	"strings"

	"reimager/config"
	"reimager/disk"
	"reimager/report"
)

// findMachine finds the root that is to be replaced, nil where a stick replaces what is
// lost, and the disk to rewrite.
func (r *Run) findMachine(ctx context.Context) (*place, *disk.Disk, error) {
	if r.fromStick() {
		return r.findForStick(ctx)
	}
	root, err := r.findOldRoot(ctx)
	if err != nil {
		return nil, nil, err
	}
	if r.Job != nil && r.Job.OldRoot != root.fs.UUID {
		return nil, nil, report.Hint(fmt.Errorf("check old root: %s has the UUID %s, but %s was armed", root, root.fs.UUID, r.Job.OldRoot), "does [old] root in the configuration name the system that armed?")
	}
	target, err := r.findTarget(ctx, root)
	return &root, target, err
}

// findOldRoot finds the root that is to be replaced: by name, by the job, or by its fstab.
func (r *Run) findOldRoot(ctx context.Context) (place, error) {
	named := r.Config.Old.Root
	if named.IsZero() && r.Job != nil && r.Job.OldRoot != "" {
		named = config.Device{Kind: config.ByUUID, Value: r.Job.OldRoot}
	}
	target := r.Config.Target.Disk
	if target.Kind != config.HoldsOldRoot {
		// The named disk first: its absence is the better explanation.
		if _, err := r.awaitDisk(ctx, target); err != nil {
			return place{}, err
		}
	}
	if !named.IsZero() {
		d, err := r.namedDisk(target)
		if err != nil {
			return place{}, err
		}
		return r.await(ctx, named, d)
	}
	var root place
	err := r.Uevents.Await(ctx, "the old root", r.Config.Machine.DeviceTimeout.Duration, func() (bool, error) {
		var err error
		if !r.Drivers.Settled() {
			return false, nil // a disk that comes late may hold a root too
		}
		root, err = r.findRoot(ctx, oldDir, func(p place) bool {
			if target.Kind == config.HoldsOldRoot {
				return !p.disk.Removable
			}
			return target.Is(p.disk.Path, p.disk.Serial, p.disk.WWN)
		})
		return err == nil, err
	})
	return root, err
}

// namedDisk returns the disk that the configuration names, or nil if it names none.
func (r *Run) namedDisk(want config.Disk) (*disk.Disk, error) {
	if want.Kind == config.HoldsOldRoot {
		return nil, nil
	}
	all, err := r.Disks.List()
	if err != nil {
		return nil, err
	}
	var found []disk.Disk
	there := ""
	for _, d := range all {
		there += "; " + d.String()
		if want.Is(d.Path, d.Serial, d.WWN) {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 1:
		return &found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("find disk %s: %d disks are it%s", want, len(found), there)
	case len(all) == 0:
		return nil, fmt.Errorf("find disk %s: this machine shows no disk at all; is the driver of its controller in the initrd?", want)
	}
	return nil, fmt.Errorf("find disk %s: this machine has other ones%s", want, there)
}

func (r *Run) awaitDisk(ctx context.Context, want config.Disk) (*disk.Disk, error) {
	var d *disk.Disk
	err := r.Uevents.Await(ctx, "disk "+want.String(), r.Config.Machine.DeviceTimeout.Duration, func() (bool, error) {
		var err error
		d, err = r.namedDisk(want)
		return err == nil, err
	})
	return d, err
}

// findTarget returns the disk to rewrite and refuses one that is not what was
// configured or armed.
func (r *Run) findTarget(ctx context.Context, root place) (*disk.Disk, error) {
	target := &root.disk
	if want := r.Config.Target.Disk; want.Kind != config.HoldsOldRoot {
		d, err := r.awaitDisk(ctx, want)
		if err != nil {
			return nil, err
		}
		target = d
	} else if target.Removable {
		return nil, report.Hint(fmt.Errorf("find target: %s holds the old root but is removable", target), "name it in [target] disk if it is meant")
	}
	return target, r.checkTarget(target)
}

// checkTarget refuses a disk that is not the one that was armed, or cannot be written.
func (r *Run) checkTarget(target *disk.Disk) error {
	if r.Job != nil {
		if diff := r.Job.Target.Differs(identity(target)); diff != "" {
			return report.Hint(fmt.Errorf("check target: %s is not the disk that was armed: %s", target, diff), "was the disk moved or repartitioned? arm the machine again")
		}
	}
	if holders := r.Disks.Holders(target); len(holders) > 0 {
		return report.Hint(fmt.Errorf("check target: %s is held by %s", target, strings.Join(holders, ", ")), "LVM, RAID and encrypted disks are not supported")
	}
	if target.ReadOnly {
		return fmt.Errorf("check target: %s is write-protected", target)
	}
	return nil
}
