package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"time"

	"reimager/boot"
	"reimager/config"
	"reimager/disk"
	"reimager/report"
)

// newJob finds out what the initrd has to know of this machine.
func newJob(r *release, out io.Writer) (*config.Job, error) {
	root, err := locate("/")
	if err != nil {
		return nil, report.Hint(err, "the root has to lie directly on a partition, not on LVM, RAID, LUKS or a network")
	}
	target, err := targetDisk(r.config.Target.Disk, root.disk)
	if err != nil {
		return nil, err
	}
	source := r.image
	if r.packed != nil {
		source = r.packed.dir
		if err := r.packed.manifest.CheckDisk(target.String(), target.Bytes, target.SectorSize); err != nil {
			return nil, err
		}
	}
	where, err := locate(source)
	if err != nil {
		return nil, report.Hint(err, "put the release on a plain partition of this machine")
	}
	img := config.JobImage{Source: config.Source{Device: config.Device{Kind: config.ByUUID, Value: where.uuid}, Path: where.path}}
	fmt.Fprintf(out, "reading %s\n", r.image)
	if img.SHA256, img.Bytes, err = digest(r.image); err != nil {
		return nil, err
	}
	if r.packed != nil {
		m := r.packed.manifest
		if img.SHA256 != m.Image.SHA256.String() {
			return nil, report.Hint(fmt.Errorf("check release: %s has the SHA-256 %s, expected %s as in the manifest", r.image, img.SHA256, m.Image.SHA256), "it was changed or cut short; copy the release again")
		}
		signed := "not signed"
		if r.packed.signedBy != nil {
			signed = "signed by " + r.packed.signedBy.ID()
		}
		fmt.Fprintf(out, "release %s, counter %d, %s\n", m, m.Counter, signed)
	}
	identity, err := identify(target)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "target  %s\nimage   %s, %s\n", target, r.image, disk.Size(img.Bytes))
	return &config.Job{
		Format: config.JobFormat, RunID: rand.Text(), Armed: time.Now().UTC().Truncate(time.Second),
		Image: img, Target: identity, OldRoot: root.uuid,
	}, nil
}

// targetDisk returns the disk that the initrd will take, by the same rules.
func targetDisk(want config.Disk, rootDisk string) (*disk.Disk, error) {
	var sys disk.Sysfs
	if want.Kind == config.HoldsOldRoot {
		return sys.Disk(rootDisk)
	}
	all, err := sys.List()
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		if want.Is(d.Path, d.Serial, d.WWN) {
			return &d, nil
		}
	}
	return nil, fmt.Errorf("find target: this machine has no disk %s", want)
}

func identify(d *disk.Disk) (config.DiskIdentity, error) {
	f, err := os.Open(d.Path)
	if err != nil {
		return config.DiskIdentity{}, fmt.Errorf("read target: %w", err)
	}
	defer f.Close()
	table, err := disk.ReadTable(f, d.SectorSize)
	if err != nil {
		return config.DiskIdentity{}, fmt.Errorf("read target %s: %w", d.Path, err)
	}
	return config.DiskIdentity{Serial: d.Serial, WWN: d.WWN, Model: d.Model, Bytes: d.Bytes, PTUUID: table.UUID}, nil
}

// location is a file as another system finds it.
type location struct {
	uuid, kind string // of the filesystem
	path       string // in the filesystem
	disk       string // kernel name of the disk
}

func locate(name string) (*location, error) {
	at, err := boot.Holding(name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(at.Device)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", at.Device, err)
	}
	defer f.Close()
	fs, err := disk.Probe(f)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", at.Device, err)
	}
	if fs.UUID == "" {
		return nil, fmt.Errorf("look at %s: its filesystem (%s) has no UUID", at.Device, at.FSType)
	}
	all, err := disk.Sysfs{}.List()
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		for _, p := range d.Partitions {
			if p.Path == at.Device {
				return &location{uuid: fs.UUID, kind: fs.Type, path: at.PathInFS, disk: d.Name}, nil
			}
		}
	}
	return nil, fmt.Errorf("look at %s: %s is not a partition of a disk", name, at.Device)
}

func digest(name string) (string, int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", 0, fmt.Errorf("digest: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return "", 0, fmt.Errorf("digest: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), n, nil
}
