package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"reimager/config"
	"reimager/disk"
	"reimager/report"
)

// place is a partition, or a disk without partitions, with what lies on it.
type place struct {
	disk  disk.Disk
	part  disk.Partition
	entry disk.Entry // of the partition table; zero where there is none
	fs    disk.Filesystem
}

func (p place) String() string {
	if p.fs.Type == "" {
		return p.part.Path
	}
	return fmt.Sprintf("%s (%s)", p.part.Path, p.fs.Type)
}

// places looks at every partition of every disk.
func (r *Run) places() ([]place, error) {
	disks, err := r.Disks.List()
	if err != nil {
		return nil, err
	}
	var all []place
	for _, d := range disks {
		parts := d.Partitions
		if len(parts) == 0 {
			parts = []disk.Partition{{Name: d.Name, Path: d.Path, Bytes: d.Bytes}}
		}
		table, _ := r.table(&d) // without one there are no PARTUUIDs to go by
		for _, part := range parts {
			p := place{disk: d, part: part}
			if table != nil {
				p.entry, _ = table.Entry(part.Number)
			}
			if p.fs, err = probe(part.Path); err != nil {
				r.Report.Detail("look at %s: %v", part.Path, err) // a bad partition is not the one
			}
			all = append(all, p)
		}
	}
	return all, nil
}

func readTable(d *disk.Disk) (*disk.Table, error) {
	f, err := os.Open(d.Path)
	if err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}
	defer f.Close()
	return disk.ReadTable(f, d.SectorSize)
}

func probe(path string) (disk.Filesystem, error) {
	f, err := os.Open(path)
	if err != nil {
		return disk.Filesystem{}, err
	}
	defer f.Close()
	return disk.Probe(f)
}

// identity tells what a disk is.
func identity(d *disk.Disk) config.DiskIdentity {
	id := config.DiskIdentity{Serial: d.Serial, WWN: d.WWN, Model: d.Model, Bytes: d.Bytes}
	if table, err := readTable(d); err == nil {
		id.PTUUID = table.UUID
	}
	return id
}

// matches tells whether a place is the one that is named. Partition numbers are
// those of the target, which is nil while it is not known.
func matches(p place, device config.Device, target *disk.Disk) bool {
	switch device.Kind {
	case config.ByPath:
		return p.part.Path == device.Value
	case config.ByUUID:
		return p.fs.UUID != "" && strings.EqualFold(p.fs.UUID, device.Value)
	case config.ByLabel:
		return p.fs.Label != "" && p.fs.Label == device.Value
	case config.ByPartUUID:
		return p.entry.PartUUID != "" && strings.EqualFold(p.entry.PartUUID, device.Value)
	case config.ByPartLabel:
		return p.entry.Name != "" && p.entry.Name == device.Value
	case config.ByNumber:
		return target != nil && p.disk.Name == target.Name && p.part.Number == device.Number()
	}
	return false
}

// find returns the one place that is named. A stick with a copy of the same system
// must not confuse it: of several the one on the given disk is meant, if there is
// just one.
func (r *Run) find(device config.Device, target *disk.Disk) (place, error) {
	all, err := r.places()
	if err != nil {
		return place{}, err
	}
	var found, there []place
	for _, p := range all {
		if matches(p, device, target) {
			found = append(found, p)
			if target != nil && p.disk.Name == target.Name {
				there = append(there, p)
			}
		}
	}
	if len(there) == 1 {
		return there[0], nil
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return place{}, fmt.Errorf("find %s: %s", device, seen(all))
	}
	return place{}, fmt.Errorf("find %s: %d partitions are called so: %s", device, len(found), names(found))
}

func seen(all []place) string {
	if len(all) == 0 {
		return "this machine shows no disk at all; is the driver of its controller in the initrd?"
	}
	return "this machine has " + names(all)
}

func names(all []place) string {
	var s []string
	for _, p := range all {
		s = append(s, p.String())
	}
	return strings.Join(s, ", ")
}

// await waits until the named place is there.
func (r *Run) await(ctx context.Context, device config.Device, target *disk.Disk) (place, error) {
	var p place
	err := r.Uevents.Await(ctx, device.String(), r.Config.Machine.DeviceTimeout.Duration, func() (bool, error) {
		var err error
		p, err = r.find(device, target)
		return err == nil, err
	})
	return p, err
}

// mount mounts a place on a directory of our own, which is made.
func (r *Run) mount(ctx context.Context, p place, dir string, flags uintptr) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	return r.mountOn(ctx, p, dir, flags)
}

func (r *Run) mountOn(ctx context.Context, p place, dir string, flags uintptr) error {
	kind := p.fs.Driver()
	switch {
	case kind == "":
		return fmt.Errorf("mount %s: no filesystem that is known", p.part.Path)
	case !p.fs.Mountable():
		return report.Hint(fmt.Errorf("mount %s: it is %s, which is not supported here", p.part.Path, kind),
			"reimager mounts ext2/3/4, xfs, btrfs and vfat that lie directly on a partition")
	}
	if err := r.Drivers.Filesystem(ctx, kind); err != nil {
		return fmt.Errorf("mount %s: %w", p.part.Path, err)
	}
	// Nothing on these filesystems is ever run or opened as a device by us.
	err := unix.Mount(p.part.Path, dir, kind, flags|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, "")
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s: it is in use", p.part.Path)
	}
	if err != nil {
		return fmt.Errorf("mount %s as %s: %w", p.part.Path, kind, err)
	}
	r.Report.Detail("mounted %s on %s", p, dir)
	return nil
}

// device resolves what the fstab of a system on the given disk names.
func (r *Run) device(device config.Device, on *disk.Disk) (place, error) {
	p, err := r.find(device, on)
	if device.Kind != config.ByPath || err == nil && p.disk.Name == on.Name {
		return p, err
	}
	// Letters change: /dev/sda6 may be partition 6 of this disk by another name.
	q, numberErr := r.byNumber(device, on)
	switch {
	case err == nil && numberErr == nil:
		return place{}, report.Hint(fmt.Errorf("find %s: is it %s, or %s under another letter?", device, p, q), "name it in [old] mounts, best by UUID")
	case err == nil:
		return p, nil
	case numberErr == nil:
		return q, nil
	}
	return place{}, err
}

// deviceOn is device for what is about to be written: it never leaves the disk.
func (r *Run) deviceOn(device config.Device, on *disk.Disk) (place, error) {
	if device.Kind == config.ByPath {
		return r.byNumber(device, on)
	}
	p, err := r.find(device, on)
	if err == nil && p.disk.Name != on.Name {
		err = fmt.Errorf("find %s: it is %s, which is not on %s", device, p, on.Path)
	}
	return p, err
}

// plainDevice reads what an fstab names, if it is a plain partition.
func plainDevice(spec string) (config.Device, error) {
	device, err := config.ParseDevice(spec)
	if err == nil && (strings.HasPrefix(device.Value, "/dev/mapper/") || strings.HasPrefix(device.Value, "/dev/md")) {
		err = report.Hint(fmt.Errorf("find %s: LVM, RAID and encrypted filesystems are not supported", spec), "name plain partitions in [old] or [new] mounts")
	}
	return device, err
}

func trailingDigits(s string) string { return s[len(strings.TrimRight(s, "0123456789")):] }

// byNumber takes the number off a name such as /dev/sda6 or /dev/nvme0n1p6 and
// finds that partition on the given disk.
func (r *Run) byNumber(device config.Device, on *disk.Disk) (place, error) {
	number, err := config.ParseDevice("partition " + trailingDigits(device.Value))
	if err != nil {
		return place{}, fmt.Errorf("find %s: it names no partition", device)
	}
	return r.find(number, on)
}
