package filesystem

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
)

// Offsets and numbers: the kernel's include/uapi/linux/btrfs_tree.h; everything is little-endian.
const (
	btrfsSuperOffset = 64 << 10
	btrfsSuperBytes  = 4 << 10
	btrfsReserved    = 1 << 20 // no chunk begins before
	btrfsHeader      = 101
	btrfsMetaUUID    = 0x400
)

// btrfs is the superblock of a btrfs filesystem and where its chunks lie.
type btrfs struct {
	p          *partition
	sb         []byte
	fsid       string // as tree blocks carry it
	csum       func([]byte) string
	device     uint64
	deviceUUID string
	bytes      int64 // of the device
	nodeSize   int64
	chunks     []btrfsChunk // ascending
}

// btrfsChunk is a run of logical addresses and where its copies lie.
type btrfsChunk struct {
	logical, bytes int64
	copies         []int64
}

func (p *partition) openBtrfs() (*btrfs, error) {
	sb, err := p.read(btrfsSuperOffset, btrfsSuperBytes)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	b := &btrfs{
		p: p, sb: sb, fsid: string(sb[32:48]), nodeSize: int64(le.Uint32(sb[148:])),
		device: le.Uint64(sb[201:]), bytes: int64(le.Uint64(sb[209:])), deviceUUID: string(sb[267:283]),
	}
	if le.Uint64(sb[188:])&btrfsMetaUUID != 0 {
		b.fsid = string(sb[571:587])
	}
	switch kind := le.Uint16(sb[196:]); kind {
	case 0:
		b.csum = func(b []byte) string {
			return string(le.AppendUint32(nil, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))))
		}
	case 2:
		b.csum = func(b []byte) string { s := sha256.Sum256(b); return string(s[:]) }
	default:
		return nil, doubtf("btrfs has checksums of type %d; only crc32c and sha256 are known", kind)
	}
	sum := b.csum(sb[32:])
	switch {
	case string(sb[64:72]) != "_BHRfS_M" || le.Uint64(sb[48:]) != btrfsSuperOffset:
		return nil, doubtf("btrfs superblock has no magic")
	case string(sb[:len(sum)]) != sum:
		return nil, doubtf("btrfs superblock has a wrong checksum")
	case !powerBetween(b.nodeSize, 4<<10, 64<<10) || !powerBetween(int64(le.Uint32(sb[144:])), 512, 64<<10):
		return nil, doubtf("btrfs nodes of %d and sectors of %d bytes make no sense", b.nodeSize, le.Uint32(sb[144:]))
	case b.bytes <= btrfsReserved || b.bytes > p.size:
		return nil, doubtf("btrfs has %d bytes, its partition has %d", b.bytes, p.size)
	}
	return b, nil
}

// clean tells why what the superblock points to is not the whole filesystem. An
// unclean unmount is no reason: trees are only ever replaced as a whole.
func (b *btrfs) clean() error {
	le := binary.LittleEndian
	// mixed_backref, default_subvol, mixed_groups, compress_lzo, compress_zstd, big_metadata, extended_iref,
	// skinny_metadata, no_holes, metadata_uuid, simple_quota.
	const knownIncompat = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200 | btrfsMetaUUID | 0x10000
	// free_space_tree, free_space_tree_valid, verity, block_group_tree.
	const knownRO = 0x1 | 0x2 | 0x4 | 0x8
	const flagWritten = 0x1
	incompat, ro := le.Uint64(b.sb[188:]), le.Uint64(b.sb[180:])
	switch {
	case le.Uint64(b.sb[96:]) != 0:
		return doubtf("btrfs needs log replay")
	case le.Uint64(b.sb[136:]) != 1:
		return doubtf("btrfs spans %d devices", le.Uint64(b.sb[136:]))
	case le.Uint64(b.sb[56:]) != flagWritten:
		return doubtf("btrfs has the flags %#x: errors, a seed, or a change that is under way", le.Uint64(b.sb[56:]))
	case incompat&^uint64(knownIncompat) != 0:
		return doubtf("btrfs has unknown incompatible features %#x", incompat&^uint64(knownIncompat))
	case ro&^uint64(knownRO) != 0:
		return doubtf("btrfs has unknown read-only compatible features %#x", ro&^uint64(knownRO))
	case le.Uint64(b.sb[172:]) != 0:
		return doubtf("btrfs has unknown compatible features %#x", le.Uint64(b.sb[172:]))
	}
	return nil
}

// btrfsFree returns what lies in no extent of the extent tree, nor in a superblock or
// the first MiB. Both copies of a duplicated extent are used; partclone.btrfs (0.3.23)
// leaves out the second ones of metadata, which scrub then reports as damaged.
func (p *partition) btrfsFree() ([]Extent, error) {
	b, err := p.openBtrfs()
	if err != nil {
		return nil, err
	}
	if err := b.clean(); err != nil {
		return nil, err
	}
	if err := b.readChunks(); err != nil {
		return nil, err
	}
	root, err := b.extentRoot()
	if err != nil {
		return nil, err
	}
	used := []Extent{{0, btrfsReserved}}
	for _, at := range []int64{64 << 20, 256 << 30} { // btrfs_sb_offset
		used = append(used, Extent{at, btrfsSuperOffset})
	}
	extents, sum, err := b.extents(root)
	if err != nil {
		return nil, err
	}
	if want := binary.LittleEndian.Uint64(b.sb[120:]); uint64(sum) != want {
		return nil, doubtf("btrfs uses %d bytes, its superblock says %d", sum, want)
	}
	for _, e := range extents {
		physical, err := b.physical(e)
		if err != nil {
			return nil, err
		}
		used = append(used, physical...)
	}
	return gaps(0, b.bytes, used), nil
}

// extents lists the logical addresses in use, ascending and merged, and their sum.
func (b *btrfs) extents(root btrfsRoot) ([]Extent, int64, error) {
	const extentItem, metadataItem = 168, 169
	var used []Extent
	var next, sum int64
	err := b.walk(root, func(k btrfsKey, _ []byte) error {
		var bytes int64
		switch k.kind {
		case extentItem:
			bytes = int64(k.offset)
		case metadataItem:
			bytes = b.nodeSize // the key's offset is the level
		default:
			return nil
		}
		off := int64(k.object)
		if off < next || bytes <= 0 || off+bytes < off {
			return doubtf("btrfs extent of %d bytes at %d makes no sense", bytes, off)
		}
		next, sum = off+bytes, sum+bytes
		// Merged only within a chunk, whose neighbour may lie elsewhere.
		if last := len(used) - 1; last >= 0 && used[last].end() == off && b.chunk(used[last].Off) != b.chunk(off) {
			used = append(used, Extent{off, bytes})
			return nil
		}
		used = add(used, off, bytes)
		return nil
	})
	return used, sum, err
}

// chunk returns the index of the chunk in which an address lies, or -1.
func (b *btrfs) chunk(logical int64) int {
	low, high := 0, len(b.chunks)
	for low < high {
		if mid := (low + high) / 2; b.chunks[mid].logical <= logical {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == 0 || logical-b.chunks[low-1].logical >= b.chunks[low-1].bytes {
		return -1
	}
	return low - 1
}

// physical returns where the copies of a run of logical addresses lie.
func (b *btrfs) physical(e Extent) ([]Extent, error) {
	i := b.chunk(e.Off)
	if i < 0 || e.Bytes > b.chunks[i].bytes-(e.Off-b.chunks[i].logical) {
		return nil, doubtf("btrfs extent of %d bytes at %d lies in no chunk", e.Bytes, e.Off)
	}
	var copies []Extent
	for _, at := range b.chunks[i].copies {
		copies = append(copies, Extent{at + e.Off - b.chunks[i].logical, e.Bytes})
	}
	return copies, nil
}
