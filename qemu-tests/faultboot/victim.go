package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"reimager/boot"
	"reimager/disk"
	"reimager/lifeboat"
	"reimager/report"
)

// The disk that is reimaged again and again: the kernel's scsi_debug has it in memory.
const (
	victimPath  = "/dev/sda"
	mountDir    = ownDir + "/mnt"
	blockBytes  = 4096
	sectorBytes = 512
	chunkBytes  = 1 << 20
	// Its partitions; both systems have them alike.
	bootPartition, rootPartition, kioskPartition = 1, 2, 6
	containerPartition                           = 4
	reportPath                                   = "var/lib/reimager/report"
	gatePath                                     = "reimager/gate"
)

// victim knows what the disk may look like.
type victim struct {
	old     []byte // before a run
	now     []byte // as it was read last
	new     []byte // after a clean run
	tree    map[string]string
	holding []byte         // sector 0 between casting off and landing
	stated  map[int64]bool // sectors that a run may overwrite and go back, by offset
	parts   map[int]region // by number
	talks   bool           // each run's log is shown
	warned  int            // warnings in the record of a clean run
	// lifeboat is what the old disk starts, and has in a place of its own; nil: nothing.
	lifeboat *lifeboat.Header
	boards   bool // a lifeboat boards in each run
}

type region struct{ start, bytes int64 }

// open opens the disk as soon as nothing holds it.
func openVictim() (*disk.Device, error) {
	deadline := time.Now().Add(20 * time.Second)
	for {
		dev, err := disk.Open(victimPath)
		if err == nil || time.Now().After(deadline) {
			return dev, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// read reads the whole disk past every cache.
func (v *victim) read() (err error) {
	dev, err := openVictim()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	buf, err := disk.Buffer(chunkBytes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.FreeBuffer(buf)) }()
	for off := 0; off < len(v.now); off += chunkBytes {
		if err := dev.ReadAt(buf, int64(off)); err != nil {
			return err
		}
		copy(v.now[off:], buf)
	}
	return nil
}

// restore makes the disk the old one again.
func (v *victim) restore() (err error) {
	dev, err := openVictim()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	buf, err := disk.Buffer(chunkBytes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.FreeBuffer(buf)) }()
	for off := 0; off < len(v.old); off += chunkBytes {
		if bytes.Equal(v.old[off:off+chunkBytes], v.now[off:off+chunkBytes]) {
			continue
		}
		copy(buf, v.old[off:off+chunkBytes])
		if err := dev.WriteAt(buf, int64(off)); err != nil {
			return err
		}
	}
	copy(v.now, v.old)
	// The kernel's view of the partitions, too.
	return dev.Reread(context.Background())
}

// isOld tells where the disk differs from the old one outside the stated places; "" if
// it does not.
func (v *victim) isOld() string {
	if v.boards { // nobody needs the space behind the last partition
		v.lifeboat = &lifeboat.Header{Berth: v.tail()}
		defer func() { v.lifeboat = nil }()
	}
	for off := 0; off < len(v.old); off += blockBytes {
		if bytes.Equal(v.old[off:off+blockBytes], v.now[off:off+blockBytes]) || v.inBerth(int64(off)) {
			continue
		}
		for at := off; at < off+blockBytes; at += sectorBytes {
			if !bytes.Equal(v.old[at:at+sectorBytes], v.now[at:at+sectorBytes]) && !v.stated[int64(at)] {
				return fmt.Sprintf("byte %d of the disk is not as it was", at)
			}
		}
	}
	return ""
}

// isNew tells in what the disk differs from that of a clean run; "" if it does not.
// Filesystems that a run mounts for writing are compared by what is in them.
func (v *victim) isNew() string {
	root, kiosk := v.parts[rootPartition], v.parts[kioskPartition]
	for off := int64(0); off < int64(len(v.new)); off += blockBytes {
		if off >= root.start && off < root.start+root.bytes || off >= kiosk.start && off < kiosk.start+kiosk.bytes || v.inBerth(off) {
			continue
		}
		if !bytes.Equal(v.new[off:off+blockBytes], v.now[off:off+blockBytes]) {
			return fmt.Sprintf("byte %d of the disk is not as after a clean run", off)
		}
	}
	got, err := v.readTree()
	if err != nil {
		return err.Error()
	}
	var all []string
	for path, want := range v.tree {
		if got[path] != want {
			all = append(all, fmt.Sprintf("%s is %q, expected %q", path, got[path], want))
		}
	}
	for path := range got {
		if _, ok := v.tree[path]; !ok {
			all = append(all, fmt.Sprintf("%s is %q, expected nothing", path, got[path]))
		}
	}
	return strings.Join(all, "; ")
}

// sector0 names what a machine would boot.
func (v *victim) sector0() string {
	const sector = 512
	switch now := v.now[:sector]; {
	case bytes.Equal(now, v.old[:sector]):
		return "old"
	case v.new != nil && bytes.Equal(now, v.new[:sector]):
		return "new"
	case v.holding != nil && bytes.Equal(now, v.holding):
		return "holding"
	}
	return "unknown"
}

// keepNew takes the disk as it is for that of a clean run.
func (v *victim) keepNew() (err error) {
	v.new = bytes.Clone(v.now)
	if v.lifeboat == nil { // or else it is known
		if v.holding, err = boot.HoldingSector(v.new[:512]); err != nil {
			return err
		}
	}
	v.tree, err = v.readTree()
	return err
}

// mounted mounts a partition read-only while use runs.
func mounted(partition int, use func(dir string) error) error {
	if err := os.MkdirAll(mountDir, 0o700); err != nil {
		return err
	}
	device := fmt.Sprintf("%s%d", victimPath, partition)
	if err := unix.Mount(device, mountDir, "ext4", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	return errors.Join(use(mountDir), unix.Unmount(mountDir, 0))
}

// look finds partitions and stated places of the old system. A report file or gate that
// is not there, or has holes, is no such place.
func (v *victim) look() error {
	d, err := disk.Sysfs{}.Disk(filepath.Base(victimPath))
	if err != nil {
		return err
	}
	v.parts, v.stated = map[int]region{}, map[int64]bool{}
	for _, p := range d.Partitions {
		v.parts[p.Number] = region{p.Start, p.Bytes}
	}
	return errors.Join(v.state(rootPartition, reportPath), v.state(bootPartition, gatePath))
}

// state makes the blocks of a file stated places.
func (v *victim) state(partition int, path string) error {
	return mounted(partition, func(dir string) error {
		f, err := os.Open(filepath.Join(dir, path))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		extents, err := disk.Extents(f)
		if err != nil {
			return nil // it cannot be overwritten in place, and must not be
		}
		info, err := f.Stat()
		for _, e := range extents {
			for off := int64(0); off < e.Bytes && e.Logical+off < info.Size(); off += sectorBytes {
				v.stated[v.parts[partition].start+e.Physical+off] = true
			}
		}
		return err
	})
}

// lastRun reads the report file of the old system.
func lastRun() (last *report.LastRun, err error) {
	err = mounted(rootPartition, func(dir string) error {
		last, err = report.ReadFile(filepath.Join(dir, reportPath))
		return err
	})
	return last, err
}

// readTree describes the files of the filesystems that a run writes to: type, mode,
// owner, content, and time of what is no directory. What a run says of itself is left
// out, since it tells of times.
func (v *victim) readTree() (map[string]string, error) {
	tree := map[string]string{}
	for _, number := range []int{rootPartition, kioskPartition} {
		err := mounted(number, func(dir string) error {
			return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				name := fmt.Sprintf("%d:%s", number, strings.TrimPrefix(path, dir))
				switch e.Name() {
				case report.LogName, report.RecordName:
					return nil
				}
				tree[name], err = describe(path)
				return err
			})
		})
		if err != nil {
			return nil, err
		}
	}
	return tree, nil
}

func describe(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", path, err)
	}
	text := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return text, nil
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		return text + " -> " + target, err
	case unix.S_IFREG:
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		sum := sha256.New()
		if _, err := io.Copy(sum, f); err != nil {
			return "", err
		}
		text += fmt.Sprintf(" %d bytes %x", st.Size, sum.Sum(nil)[:8])
	}
	return fmt.Sprintf("%s %d.%09d", text, st.Mtim.Sec, st.Mtim.Nsec), nil
}
