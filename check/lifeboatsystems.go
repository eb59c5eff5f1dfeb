package check

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/lifeboat"
	"reimager/stages"
)

// oldSystem reads what the running system has on a disk.
func (h Host) oldSystem(d *disk.Disk) (lifeboat.System, error) {
	s := lifeboat.System{Filesystems: map[int]disk.Filesystem{}}
	f, err := os.Open(d.Path)
	if err != nil {
		return s, fmt.Errorf("read target: %w", err)
	}
	defer f.Close()
	if s.Table, err = disk.ReadTable(f, d.SectorSize); err != nil {
		return s, fmt.Errorf("read target %s: %w", d.Path, err)
	}
	for _, e := range s.Table.Entries {
		p, ok := d.Partition(e.Number)
		switch {
		case e.Extended:
			continue
		case !ok || p.Start != e.Start || p.Bytes != e.Bytes:
			return s, fmt.Errorf("read target %s: partition %d is another one for the kernel than in the table", d.Path, e.Number)
		}
		if s.Filesystems[e.Number], err = probe(p.Path); err != nil {
			return s, err
		}
	}
	return s, nil
}

func probe(path string) (disk.Filesystem, error) {
	f, err := os.Open(path)
	if err != nil {
		return disk.Filesystem{}, fmt.Errorf("look at %s: %w", path, err)
	}
	defer f.Close()
	fs, err := disk.Probe(f)
	if err != nil {
		return fs, fmt.Errorf("look at %s: %w", path, err)
	}
	return fs, nil
}

// inUse says which partitions the running system needs: those that are mounted or part of
// something, and those that its fstab mounts or, if it names some, the configuration. Swap
// is not among them: nothing is in it once the machine is started anew.
func (h Host) inUse(d *disk.Disk, named map[string]config.Device, old lifeboat.System) (map[int]string, error) {
	mounts := named
	if len(mounts) == 0 {
		entries, err := h.fstab()
		if err != nil {
			return nil, err
		}
		mounts = stages.MountsOf(entries)
	}
	all := stages.Mounted(mounts, old)
	users, err := h.disks().Users(d)
	if err != nil {
		return nil, err
	}
	for _, p := range d.Partitions {
		for _, u := range users {
			if use, ok := strings.CutPrefix(u, p.Path+" "); ok && use != "is swap" {
				all[p.Number] = "it " + use
			}
		}
	}
	return all, nil
}

func (h Host) fstab() ([]disk.FstabEntry, error) {
	f, err := os.Open(h.root("etc/fstab"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return disk.ParseFstab(f)
}

// newSystem is what a release says of its partitions; nil if it says nothing.
func newSystem(m *image.Manifest) *lifeboat.System {
	if m == nil || len(m.Disk.Partitions) == 0 || m.System == nil {
		return nil
	}
	s := &lifeboat.System{Table: &disk.Table{Kind: m.Disk.Table, EBRs: m.Disk.EBRs}, Filesystems: map[int]disk.Filesystem{}}
	for _, p := range m.Disk.Partitions {
		s.Table.Entries = append(s.Table.Entries, disk.Entry{Number: p.Number, Start: p.Start, Bytes: p.Bytes, Type: p.Type, Extended: p.Extended})
	}
	for _, f := range m.System.Filesystems {
		s.Filesystems[f.Partition] = disk.Filesystem{Type: f.Type, UUID: f.UUID, Label: f.Label}
	}
	return s
}
