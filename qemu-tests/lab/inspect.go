package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"reimager/vm"
)

// TableEntry is a partition as the disk's own table has it now.
type TableEntry struct {
	Number       int
	Offset, Size int64 // bytes
	Type         string
	UUID, Name   string // GPT only
	Bootable     bool
}

// Table is a disk's partition table.
type Table struct {
	Label   Label
	ID      string
	Entries []TableEntry
}

// ReadTable reads the partition table of a disk image.
func ReadTable(ctx context.Context, disk string) (Table, error) {
	out, err := vm.Run(ctx, "sfdisk", "-J", disk)
	if err != nil {
		return Table{}, fmt.Errorf("read partition table of %s: %w", disk, err)
	}
	var dump struct {
		PartitionTable struct {
			Label      Label
			ID         string
			SectorSize int64
			Partitions []struct {
				Node, Type, UUID, Name string
				Start, Size            int64
				Bootable               bool
			}
		}
	}
	if err := json.Unmarshal(out, &dump); err != nil {
		return Table{}, fmt.Errorf("read partition table of %s: %w", disk, err)
	}
	table := Table{Label: dump.PartitionTable.Label, ID: dump.PartitionTable.ID}
	sector := dump.PartitionTable.SectorSize
	if sector == 0 {
		sector = sectorSize
	}
	for _, p := range dump.PartitionTable.Partitions {
		// sfdisk names them as the kernel would: FILE5, or FILE1p5 when the
		// file's name ends in a digit.
		digits := strings.TrimPrefix(strings.TrimPrefix(p.Node, disk), "p")
		number, err := strconv.Atoi(digits)
		if err != nil {
			return Table{}, fmt.Errorf("read partition table of %s: number of %q: %w", disk, p.Node, err)
		}
		table.Entries = append(table.Entries, TableEntry{
			Number: number, Offset: p.Start * sector, Size: p.Size * sector,
			Type: p.Type, UUID: p.UUID, Name: p.Name, Bootable: p.Bootable,
		})
	}
	return table, nil
}

// Entry returns the partition of that number.
func (t Table) Entry(number int) (TableEntry, error) {
	for _, e := range t.Entries {
		if e.Number == number {
			return e, nil
		}
	}
	return TableEntry{}, fmt.Errorf("find partition %d: the table has none", number)
}

// view is an ext4 filesystem as a mount would show it.
type view struct {
	path   string // a disk image, or a copy of one partition
	offset int64
	size   int64
	close  func() error
}

// device is e2fsprogs' way to say where in a file the filesystem starts.
func (v view) device() string { return deviceAt(v.path, v.offset) }

func deviceAt(path string, offset int64) string {
	return path + "?offset=" + strconv.FormatInt(offset, 10)
}

// openView returns the partition itself, or, when its journal has to be
// replayed (the VM was killed), a copy in which it was: nothing that inspects
// a disk may change it.
func openView(ctx context.Context, disk string, partition int) (view, error) {
	table, err := ReadTable(ctx, disk)
	if err != nil {
		return view{}, err
	}
	entry, err := table.Entry(partition)
	if err != nil {
		return view{}, fmt.Errorf("open %s: %w", disk, err)
	}
	dirty, err := needsRecovery(disk, entry.Offset)
	if err != nil {
		return view{}, fmt.Errorf("open partition %d of %s: %w", partition, disk, err)
	}
	if !dirty {
		return view{disk, entry.Offset, entry.Size, func() error { return nil }}, nil
	}
	dir, err := os.MkdirTemp("", "lab-replay-")
	if err != nil {
		return view{}, err
	}
	v := view{filepath.Join(dir, "fs"), 0, entry.Size, func() error { return os.RemoveAll(dir) }}
	if err := errors.Join(extract(v.path, disk, entry), replay(ctx, v.path)); err != nil {
		return view{}, errors.Join(fmt.Errorf("replay journal of partition %d of %s: %w", partition, disk, err), v.close())
	}
	return v, nil
}

func extract(path, disk string, entry TableEntry) error {
	in, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer in.Close() // read only: nothing can be lost
	return writeAtomically(path, 0o600, func(out *os.File) error {
		return copyExtents(out, in, entry.Offset, entry.Size)
	})
}

func replay(ctx context.Context, path string) error {
	// The superblock still says "not clean" afterwards; only its journal
	// matters here.
	_, err := vm.Run(ctx, "e2fsck", "-y", "-E", "journal_only", path)
	return err
}

// needsRecovery reads the ext4 superblock: s_magic, and
// EXT4_FEATURE_INCOMPAT_RECOVER in s_feature_incompat (fs/ext4/ext4.h).
func needsRecovery(disk string, offset int64) (bool, error) {
	f, err := os.Open(disk)
	if err != nil {
		return false, err
	}
	defer f.Close() // read only: nothing can be lost
	var super [1024]byte
	if _, err := f.ReadAt(super[:], offset+1024); err != nil {
		return false, err
	}
	if magic := binary.LittleEndian.Uint16(super[0x38:]); magic != 0xef53 {
		return false, fmt.Errorf("no ext4 filesystem: superblock magic is %#x, want 0xef53", magic)
	}
	return binary.LittleEndian.Uint32(super[0x60:])&0x4 != 0, nil
}

// debugfs runs one request; debugfs exits 0 whatever happens.
func debugfs(ctx context.Context, device string, writable bool, request ...string) ([]byte, error) {
	args := []string{"-R", "", device}
	if writable {
		args = append([]string{"-w"}, args...)
	}
	for i, word := range request {
		if strings.ContainsAny(word, " \t\n\"") {
			request[i] = `"` + strings.ReplaceAll(word, `"`, `""`) + `"`
		}
	}
	args[len(args)-2] = strings.Join(request, " ")
	out, stderr, err := vm.Command{Name: "debugfs", Args: args, Env: fakeTime()}.Run(ctx)
	return out, errors.Join(err, debugfsComplaint(stderr))
}

// debugfsComplaint is an error when debugfs said more than its name.
func debugfsComplaint(stderr []byte) error {
	for _, line := range strings.Split(string(stderr), "\n") {
		if line != "" && !strings.HasPrefix(line, "debugfs 1.") {
			return errors.New(strings.TrimSpace(line))
		}
	}
	return nil
}

// ReadFile reads a file out of an ext4 partition, without root.
func ReadFile(ctx context.Context, disk string, partition int, path string) (content []byte, err error) {
	v, err := openView(ctx, disk, partition)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, v.close()) }()
	out, err := debugfs(ctx, v.device(), false, "cat", "/"+cleanPath(path))
	if err != nil {
		return nil, fmt.Errorf("read %q of partition %d of %s: %w", path, partition, disk, err)
	}
	return out, nil
}

// Dump copies everything of an ext4 partition into a directory, without root
// and therefore without owners.
func Dump(ctx context.Context, disk string, partition int, dir string) (err error) {
	v, err := openView(ctx, disk, partition)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.close()) }()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	_, err = debugfs(ctx, v.device(), false, "rdump", "/", dir)
	if err != nil && os.Geteuid() != 0 && strings.Contains(err.Error(), "changing ownership") {
		err = nil // the owners that only root could set
	}
	if err != nil {
		return fmt.Errorf("dump partition %d of %s: %w", partition, disk, err)
	}
	return nil
}

// OverwriteFile gives a file of an ext4 partition new content of the same
// length, in the blocks that it has, as GRUB's save_env does.
func OverwriteFile(ctx context.Context, disk string, partition int, path string, content []byte) error {
	if err := overwrite(ctx, disk, partition, path, content); err != nil {
		return fmt.Errorf("overwrite %q of partition %d of %s: %w", path, partition, disk, err)
	}
	return nil
}

func overwrite(ctx context.Context, disk string, partition int, path string, content []byte) (err error) {
	old, err := ReadFile(ctx, disk, partition, path)
	if err != nil {
		return err
	}
	if len(old) != len(content) {
		return fmt.Errorf("it has %d bytes, want %d", len(old), len(content))
	}
	table, err := ReadTable(ctx, disk)
	if err != nil {
		return err
	}
	entry, err := table.Entry(partition)
	if err != nil {
		return err
	}
	out, err := debugfs(ctx, deviceAt(disk, entry.Offset), false, "blocks", "/"+cleanPath(path))
	if err != nil {
		return err
	}
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var logSize [4]byte
	if _, err := f.ReadAt(logSize[:], entry.Offset+1024+0x18); err != nil {
		return err
	}
	blockSize := int64(1024) << binary.LittleEndian.Uint32(logSize[:])
	for _, field := range bytes.Fields(out) {
		block, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil || block == 0 {
			return fmt.Errorf("no plain data block: %q", field)
		}
		n := min(blockSize, int64(len(content)))
		if _, err := f.WriteAt(content[:n], entry.Offset+block*blockSize); err != nil {
			return err
		}
		content = content[n:]
	}
	if len(content) > 0 {
		return fmt.Errorf("%d bytes have no block", len(content))
	}
	return nil
}
