package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"reimager/vm"
)

const (
	mib        = 1 << 20
	sectorSize = 512
)

// Label is the kind of a partition table, by sfdisk's name.
type Label string

// The partition tables that can be built.
const (
	MBR Label = "dos"
	GPT Label = "gpt"
)

// FS says what a partition is filled with.
type FS string

// The fillings that can be built.
const (
	Raw      FS = "" // the bytes of Partition.Source, if any
	Ext4     FS = "ext4"
	Swap     FS = "swap"
	FAT      FS = "vfat"
	Extended FS = "extended" // an MBR container: holds the logical partitions
)

// DiskSpec describes a whole disk.
type DiskSpec struct {
	SizeMiB    int64
	Label      Label
	ID         string // MBR: 0x and 8 hex digits; GPT: a UUID
	Partitions []Partition
	// Grub writes GRUB's BIOS boot code; nil: nothing.
	Grub *Grub
}

// Partition is one line of the table. Primary partitions are numbered from 1
// in order, logical ones from 5.
type Partition struct {
	StartMiB int64 // 0: behind the one before
	SizeMiB  int64 // 0: what is left of the disk (or of the extended partition)
	Logical  bool
	Type     string // sfdisk's type; "": by FS
	Bootable bool   // MBR only
	PartUUID string // GPT only
	Name     string // GPT only

	FS      FS
	Label   string // of the filesystem, at most 16 bytes
	UUID    string // of the filesystem; "": made from the disk's ID and the number
	Tarball string // a host's uncompressed tar archive, unpacked before Tree
	Tree    Tree
	Source  string // Raw: the host's file with the bytes
	// Features are passed to mkfs.ext4 -O, for systems older than the host.
	// The default is the host's, less metadata_csum_seed, which GRUB before
	// 2.12 cannot read.
	Features string
}

// Disk is a disk as it was built.
type Disk struct {
	Path       string
	Size       int64 // bytes
	ID         string
	Partitions []BuiltPartition
}

// BuiltPartition is a partition as it was built; offset and size in bytes.
type BuiltPartition struct {
	Number       int
	Offset, Size int64
	FS           FS
	Label, UUID  string
}

// FixedUUID makes a UUID from a name, the same one every time (RFC 9562,
// version 8).
func FixedUUID(name string) string {
	sum := sha256.Sum256([]byte(name))
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	h := hex.EncodeToString(sum[:16])
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// BuildDisk writes the disk to path, sparse. It needs neither root nor loop
// devices. An existing file is replaced when all is done.
func BuildDisk(ctx context.Context, path string, spec DiskSpec) (Disk, error) {
	parts, err := layOut(spec)
	if err != nil {
		return Disk{}, fmt.Errorf("lay out disk %s: %w", path, err)
	}
	built := Disk{Path: path, Size: spec.SizeMiB * mib, ID: spec.ID, Partitions: parts}
	err = writeAtomically(path, 0o644, func(f *os.File) error {
		if err := f.Truncate(built.Size); err != nil {
			return err
		}
		if err := writeTable(ctx, f.Name(), spec, parts); err != nil {
			return err
		}
		for i, part := range spec.Partitions {
			if err := fill(ctx, f, part, parts[i]); err != nil {
				return fmt.Errorf("fill partition %d: %w", parts[i].Number, err)
			}
		}
		if spec.Grub != nil {
			return spec.Grub.install(ctx, f, parts)
		}
		return nil
	})
	if err != nil {
		return Disk{}, fmt.Errorf("build disk: %w", err)
	}
	return built, nil
}

// layOut turns the table into numbers and bytes, all on MiB borders. Each
// logical partition has one MiB before it, for its EBR.
func layOut(spec DiskSpec) ([]BuiltPartition, error) {
	end := spec.SizeMiB
	if spec.Label == GPT {
		end-- // the backup header takes the last 33 sectors
	}
	next, primary, logical, extendedEnd := int64(1), 1, 5, int64(0)
	var parts []BuiltPartition
	for i, p := range spec.Partitions {
		limit, number := end, primary
		if p.Logical {
			if extendedEnd == 0 {
				return nil, fmt.Errorf("partition %d of the list is logical, but no extended one comes before it", i+1)
			}
			limit, number = extendedEnd, logical
			next++
			logical++
		} else {
			primary++
		}
		start := next
		if p.StartMiB != 0 {
			start = p.StartMiB
		}
		size := p.SizeMiB
		if size == 0 {
			size = limit - start
		}
		if start < next || size <= 0 || start+size > limit {
			return nil, fmt.Errorf("partition %d: %d MiB at %d MiB do not lie between %d and %d MiB", number, size, start, next, limit)
		}
		next = start + size
		if p.FS == Extended {
			extendedEnd, next = start+size, start
		}
		if p.UUID == "" {
			p.UUID = FixedUUID(fmt.Sprintf("%s/%d", spec.ID, number))
		}
		parts = append(parts, BuiltPartition{
			Number: number, Offset: start * mib, Size: size * mib, FS: p.FS, Label: p.Label, UUID: p.UUID,
		})
	}
	return parts, nil
}

func writeTable(ctx context.Context, path string, spec DiskSpec, parts []BuiltPartition) error {
	var script strings.Builder
	fmt.Fprintf(&script, "label: %s\nlabel-id: %s\nunit: sectors\n", spec.Label, spec.ID)
	for i, p := range spec.Partitions {
		typ := p.Type
		if typ == "" {
			typ = defaultType(spec.Label, p.FS)
		}
		fmt.Fprintf(&script, "%d : start=%d, size=%d, type=%s", parts[i].Number, parts[i].Offset/sectorSize, parts[i].Size/sectorSize, typ)
		if p.Bootable {
			script.WriteString(", bootable")
		}
		if spec.Label == GPT {
			uuid := p.PartUUID
			if uuid == "" {
				uuid = FixedUUID(fmt.Sprintf("%s/gpt/%d", spec.ID, parts[i].Number))
			}
			fmt.Fprintf(&script, ", uuid=%s", uuid)
			if p.Name != "" {
				fmt.Fprintf(&script, ", name=%q", p.Name)
			}
		}
		script.WriteByte('\n')
	}
	_, _, err := vm.Command{
		Stdin: strings.NewReader(script.String()), Name: "sfdisk",
		Args: []string{"--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "never", path},
	}.Run(ctx)
	if err != nil {
		return fmt.Errorf("write partition table: %w\n%s", err, script.String())
	}
	return nil
}

func defaultType(label Label, fs FS) string {
	gpt := label == GPT
	switch {
	case fs == Extended:
		return "5"
	case fs == FAT && gpt:
		return espType
	case fs == FAT:
		return "ef"
	case fs == Swap && gpt:
		return "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"
	case fs == Swap:
		return "82"
	case gpt:
		return "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	}
	return "83"
}

func fill(ctx context.Context, disk *os.File, p Partition, at BuiltPartition) error {
	switch p.FS {
	case Ext4:
		return makeExt4(ctx, disk.Name(), p, at)
	case Swap:
		return makeSwap(ctx, disk, at)
	case FAT:
		return makeFAT(ctx, disk.Name(), p, at)
	case Raw:
		return copyIn(disk, p.Source, at.Offset, at.Size)
	case Extended:
		return nil
	}
	return fmt.Errorf("make filesystem: unknown kind %q", p.FS)
}

// makeSwap lets mkswap write to a sparse file and takes the page that it
// writes: mkswap itself knows no offset in Debian 12.
func makeSwap(ctx context.Context, disk *os.File, at BuiltPartition) error {
	dir, err := os.MkdirTemp("", "lab-swap-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) // a leftover in the temporary directory harms nobody
	file := filepath.Join(dir, "swap")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(file, at.Size); err != nil {
		return err
	}
	args := []string{"--uuid", at.UUID, "--pagesize", "4096"}
	if at.Label != "" {
		args = append(args, "--label", at.Label)
	}
	if _, err := vm.Run(ctx, "mkswap", append(args, file)...); err != nil {
		return err
	}
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	return errors.Join(copyRange(disk, in, at.Offset, 0, 4096), in.Close())
}

func copyIn(disk *os.File, source string, offset, room int64) error {
	if source == "" {
		return nil
	}
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close() // read only: nothing can be lost
	n, err := io.Copy(io.NewOffsetWriter(disk, offset), io.LimitReader(in, room+1))
	if err == nil && n > room {
		err = fmt.Errorf("copy %s: larger than %d bytes", source, room)
	}
	return err
}
