package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Filesystem is what the superblock of a partition says.
type Filesystem struct {
	Type  string // as mount(8) names it: ext4, xfs, btrfs, vfat, swap; or crypto_LUKS, LVM2_member, linux_raid_member, swsuspend
	UUID  string
	Label string
}

// Driver is the kernel's filesystem type that mounts it: ext4's driver serves all
// three of its family (CONFIG_EXT4_USE_FOR_EXT2).
func (f Filesystem) Driver() string {
	if f.Type == "ext2" || f.Type == "ext3" {
		return "ext4"
	}
	return f.Type
}

// MayHoldRoot tells whether a Linux root can lie on it.
func (f Filesystem) MayHoldRoot() bool { return f.Mountable() && f.Type != "vfat" }

// Mountable tells whether a Linux root or its data can lie on it.
func (f Filesystem) Mountable() bool {
	switch f.Type {
	case "ext2", "ext3", "ext4", "xfs", "btrfs", "vfat":
		return true
	}
	return false
}

// ProbeBytes is how far into a partition Probe looks: the end of the btrfs
// superblock, which lies at 64 KiB.
const ProbeBytes = 68 << 10

// Probe reads the superblock at the beginning of a partition. A partition with
// none that is known gives a Filesystem with an empty Type.
// Offsets and magics: the kernel's fs/*/ headers and util-linux's libblkid.
func Probe(r io.ReaderAt) (Filesystem, error) {
	b := make([]byte, ProbeBytes)
	n, err := r.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Filesystem{}, fmt.Errorf("read superblock: %w", err)
	}
	clear(b[n:])
	switch {
	case string(b[:6]) == "LUKS\xba\xbe":
		return Filesystem{Type: "crypto_LUKS", UUID: cString(b[168:208])}, nil
	case hasAt(b, "LABELONE", 0, 512, 1024, 1536):
		return Filesystem{Type: "LVM2_member"}, nil
	case hasAt(b, "\xfc\x4e\x2b\xa9", 0, 4096):
		return Filesystem{Type: "linux_raid_member"}, nil
	case string(b[:4]) == "XFSB":
		return Filesystem{Type: "xfs", UUID: uuid(b[32:48]), Label: cString(b[108:120])}, nil
	case binary.LittleEndian.Uint16(b[1024+56:]) == 0xef53:
		return ext(b[1024:]), nil
	case b[510] == 0x55 && b[511] == 0xaa && (string(b[82:87]) == "FAT32" || string(b[54:57]) == "FAT"):
		// Before swap: mkfs.vfat leaves an old swap signature, mkswap clears an old boot sector.
		return fat(b), nil
	case hasAt(b, "SWAPSPACE2", 4086, 65526):
		return swap(b, "swap"), nil
	case HibernationSignature(b[4086:]) || HibernationSignature(b[65526:]):
		return swap(b, Hibernated), nil
	case string(b[64<<10+64:][:8]) == "_BHRfS_M":
		sb := b[64<<10:]
		return Filesystem{Type: "btrfs", UUID: uuid(sb[32:48]), Label: cString(sb[0x12b:][:256])}, nil
	}
	return Filesystem{}, nil
}

// ext tells ext2, 3 and 4 apart as libblkid does: by the journal and by features
// that only ext4 has.
func ext(sb []byte) Filesystem {
	const hasJournal = 0x4
	// filetype, recover, meta_bg: the incompatible features that ext3 knows.
	const ext3Incompat, ext3ROCompat = 0x2 | 0x4 | 0x10, 0x1 | 0x2 | 0x4
	compat, incompat, ro := binary.LittleEndian.Uint32(sb[92:]), binary.LittleEndian.Uint32(sb[96:]), binary.LittleEndian.Uint32(sb[100:])
	f := Filesystem{Type: "ext2", UUID: uuid(sb[104:120]), Label: cString(sb[120:136])}
	switch {
	case incompat&^ext3Incompat != 0 || ro&^ext3ROCompat != 0:
		f.Type = "ext4"
	case compat&hasJournal != 0:
		f.Type = "ext3"
	}
	return f
}

// WritableMounts returns a text that changes whenever the filesystem is mounted for
// writing, and not when it is mounted read-only: when that was last, and how often, from
// ext4's superblock (s_mtime, s_mnt_count: Documentation/filesystems/ext4/super.rst). It
// is empty for other filesystems, which keep no such count.
func WritableMounts(r io.ReaderAt, f Filesystem) (string, error) {
	if f.Driver() != "ext4" {
		return "", nil
	}
	b := make([]byte, 54)
	if _, err := r.ReadAt(b, 1024); err != nil {
		return "", fmt.Errorf("read superblock: %w", err)
	}
	return fmt.Sprintf("mount %d at %d", binary.LittleEndian.Uint16(b[52:]), binary.LittleEndian.Uint32(b[44:])), nil
}

func fat(b []byte) Filesystem {
	id, label := b[39:43], b[43:54]
	if string(b[82:87]) == "FAT32" {
		id, label = b[67:71], b[71:82]
	}
	f := Filesystem{Type: "vfat", UUID: fmt.Sprintf("%02X%02X-%02X%02X", id[3], id[2], id[1], id[0])}
	if l := strings.TrimRight(string(label), " \x00"); l != "NO NAME" {
		f.Label = l
	}
	return f
}

// Hibernated is the Type of a swap area that holds a hibernated system, as libblkid calls it.
const Hibernated = "swsuspend"

func swap(b []byte, kind string) Filesystem {
	return Filesystem{Type: kind, UUID: uuid(b[1036:1052]), Label: cString(b[1052:1068])}
}

// HibernationSignature tells whether the ten bytes that end the first page of a swap area
// are what swsusp, its older forms, uswsusp or TuxOnIce write in place of swap's own:
// kernel/power/swap.c; util-linux, libblkid/src/superblocks/swap.c.
func HibernationSignature(b []byte) bool {
	for _, magic := range []string{"S1SUSPEND", "S2SUSPEND", "ULSUSPEND", "LINHIB0001", "\xed\xc3\x02\xe9\x98\x56\xe5\x0c"} {
		if bytes.HasPrefix(b, []byte(magic)) {
			return true
		}
	}
	return false
}

func hasAt(b []byte, magic string, offsets ...int) bool {
	for _, o := range offsets {
		if bytes.HasPrefix(b[o:], []byte(magic)) {
			return true
		}
	}
	return false
}

func uuid(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func cString(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}
