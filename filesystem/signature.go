package filesystem

import (
	"bytes"
	"encoding/binary"
)

type signature struct {
	name  string
	off   int64
	magic string
}

// signatures are those of filesystems whose superblock leaves alone where swap, ext
// and XFS have theirs, so that an old one of those may have survived beneath
// (util-linux, libblkid/src/superblocks).
func signatures() []signature {
	return []signature{
		{"btrfs", 64<<10 + 64, "_BHRfS_M"},
		{"bcache", 4<<10 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
		{"bcachefs", 4<<10 + 24, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"},
		{"reiserfs", 8<<10 + 52, "ReIsEr"},
		{"reiserfs", 64<<10 + 52, "ReIsEr"},
		{"jfs", 32 << 10, "JFS1"},
		{"iso9660", 32<<10 + 1, "CD001"},
		{"udf", 32<<10 + 1, "BEA01"},
		{"gfs2", 64 << 10, "\x01\x16\x19\x70"},
	}
}

// unambiguous refuses a partition that shows the signature of another filesystem too.
func (p *partition) unambiguous(kind string) error {
	head, err := p.read(0, min(p.size, 256<<10))
	if err != nil {
		return err
	}
	for _, s := range signatures() {
		if s.name != kind && s.off < int64(len(head)) && bytes.HasPrefix(head[s.off:], []byte(s.magic)) {
			return doubtf("%s or %s: it has the signatures of both", orUnknown(kind), s.name)
		}
	}
	// ZFS keeps its uberblocks in 128 slots of 1 KiB in the second half of each label, in either byte order.
	const zfs = 0x00bab10c
	for at := 128 << 10; at+8 <= len(head); at += 1024 {
		if slot := head[at:]; binary.LittleEndian.Uint64(slot) == zfs || binary.BigEndian.Uint64(slot) == zfs {
			return doubtf("%s or zfs: it has the signatures of both", orUnknown(kind))
		}
	}
	return nil
}

func orUnknown(kind string) string {
	if kind == "" {
		return "an unknown filesystem"
	}
	return kind
}
