package filesystem

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
)

// xfs is the superblock of an XFS filesystem; everything is big-endian but the
// checksums (the kernel's fs/xfs/libxfs/xfs_format.h).
type xfs struct {
	p                     *partition
	sb                    []byte
	crc                   bool // version 5: structures carry checksums
	blockSize, sectorSize int64
	blocks                int64
	groupBlocks, groups   int64
	logBlock, logBlocks   int64 // in blocks of the filesystem
	freeBlocks            int64
	uuid                  string // as structures carry it
}

func (p *partition) openXFS() (*xfs, error) {
	sb, err := p.read(0, 512)
	if err != nil {
		return nil, err
	}
	be := binary.BigEndian
	x := &xfs{
		p: p, blockSize: int64(be.Uint32(sb[4:])), blocks: int64(be.Uint64(sb[8:])), sectorSize: int64(be.Uint16(sb[102:])),
		groupBlocks: int64(be.Uint32(sb[84:])), groups: int64(be.Uint32(sb[88:])), logBlocks: int64(be.Uint32(sb[96:])),
		freeBlocks: int64(be.Uint64(sb[144:])), uuid: string(sb[32:48]),
	}
	version := be.Uint16(sb[100:]) & 0xf
	x.crc = version == 5
	switch {
	case string(sb[:4]) != "XFSB":
		return nil, doubtf("XFS superblock has no magic")
	case version != 4 && version != 5:
		return nil, doubtf("XFS has version %d, expected 4 or 5", version)
	case !powerBetween(x.sectorSize, 512, 32<<10) || !powerBetween(x.blockSize, 512, 64<<10) || x.blockSize < x.sectorSize:
		return nil, doubtf("XFS blocks of %d and sectors of %d bytes make no sense", x.blockSize, x.sectorSize)
	case x.blocks <= 0 || x.blocks > p.size/x.blockSize:
		return nil, doubtf("XFS has %d blocks of %d bytes, its partition has %d bytes", x.blocks, x.blockSize, p.size)
	case x.groupBlocks < 64 || x.groups != ceil(x.blocks, x.groupBlocks) || sb[124] > 32 || x.groupBlocks > 1<<sb[124]:
		return nil, doubtf("XFS has %d groups of %d blocks, expected %d blocks", x.groups, x.groupBlocks, x.blocks)
	}
	if x.sb, err = p.read(0, x.sectorSize); err != nil {
		return nil, err
	}
	const metaUUID = 0x4
	if x.crc && be.Uint32(sb[216:])&metaUUID != 0 {
		x.uuid = string(sb[248:264])
	}
	if !x.sum(x.sb, 224) {
		return nil, doubtf("XFS superblock has a wrong checksum")
	}
	// A block's number is the group's, shifted, and the block's in the group.
	start := be.Uint64(sb[48:])
	group, in := int64(start>>sb[124]), int64(start&(1<<sb[124]-1))
	if start != 0 && (group < 0 || group >= x.groups || in+x.logBlocks > x.groupBlocks || group*x.groupBlocks+in+x.logBlocks > x.blocks) {
		return nil, doubtf("XFS log lies at block %d of group %d, outside of it", in, group)
	}
	x.logBlock = group*x.groupBlocks + in
	return x, nil
}

// clean tells why an XFS filesystem is not in the state in which a clean unmount
// leaves it, or has a feature that might change what is free.
func (x *xfs) clean() error {
	be := binary.BigEndian
	// finobt, rmapbt, reflink, inobtcount.
	const knownRO = 0x1 | 0x2 | 0x4 | 0x8
	// ftype, sparse inodes, meta_uuid, bigtime, nrext64, exchange-range, parent pointers.
	const knownIncompat = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80
	const needsRepair = 0x10
	switch {
	case x.sb[126] != 0:
		return doubtf("XFS is still being made")
	case be.Uint64(x.sb[48:]) == 0:
		return doubtf("XFS has its log on another device")
	case be.Uint64(x.sb[16:]) != 0:
		return doubtf("XFS has a realtime section")
	}
	if x.crc {
		ro, incompat := be.Uint32(x.sb[212:]), be.Uint32(x.sb[216:])
		switch {
		case incompat&needsRepair != 0:
			return doubtf("XFS needs repair")
		case incompat&^uint32(knownIncompat) != 0:
			return doubtf("XFS has unknown incompatible features %#x", incompat&^uint32(knownIncompat))
		case ro&^uint32(knownRO) != 0:
			return doubtf("XFS has unknown read-only compatible features %#x", ro&^uint32(knownRO))
		case be.Uint32(x.sb[208:]) != 0 || be.Uint32(x.sb[220:]) != 0:
			return doubtf("XFS has unknown features of its log, or compatible ones")
		}
	}
	return x.cleanLog()
}

// xfsFree returns what the free space B+trees of all allocation groups list. The
// blocks of a group's free list stay mapped.
func (p *partition) xfsFree() ([]Extent, error) {
	x, err := p.openXFS()
	if err != nil {
		return nil, err
	}
	if err := x.clean(); err != nil {
		return nil, err
	}
	var free []Extent
	var sum int64
	for n := range x.groups {
		var counted int64
		if free, counted, err = x.group(n, free); err != nil {
			return nil, err
		}
		sum += counted
	}
	if sum != x.freeBlocks {
		return nil, doubtf("XFS has %d free blocks, its superblock says %d", sum, x.freeBlocks)
	}
	for _, f := range free {
		if f.Off < (x.logBlock+x.logBlocks)*x.blockSize && f.end() > x.logBlock*x.blockSize {
			return nil, doubtf("XFS has its log in free space")
		}
	}
	return free, nil
}

// xfsTree walks the B+tree of one group's free space by block number.
type xfsTree struct {
	x      *xfs
	group  int64
	length int64 // blocks of the group
	next   int64 // the lowest block that may come next
	sum    int64
	free   []Extent
}

// group adds a group's free extents, and returns how many blocks of it the
// superblock counts as free: those of the tree, of the free list, and of the trees
// themselves but their roots (xfs_initialize_perag_data).
func (x *xfs) group(n int64, free []Extent) ([]Extent, int64, error) {
	be := binary.BigEndian
	first := n * x.groupBlocks
	agf, err := x.p.read(first*x.blockSize+x.sectorSize, x.sectorSize)
	if err != nil {
		return nil, 0, err
	}
	length := min(x.groupBlocks, x.blocks-first)
	switch {
	case string(agf[:4]) != "XAGF" || int64(be.Uint32(agf[8:])) != n || int64(be.Uint32(agf[12:])) != length:
		return nil, 0, doubtf("XFS group %d has no header of its own", n)
	case !x.sum(agf, 216) || x.crc && string(agf[64:80]) != x.uuid:
		return nil, 0, doubtf("header of XFS group %d has a wrong checksum or UUID", n)
	}
	level := be.Uint32(agf[28:])
	if level == 0 || level > 9 {
		return nil, 0, doubtf("XFS group %d has %d levels of free space", n, level)
	}
	// Superblock, AGF, AGI and AGFL take the first four sectors.
	t := &xfsTree{x: x, group: n, length: length, next: ceil(4*x.sectorSize, x.blockSize), free: free}
	if err := t.walk(int64(be.Uint32(agf[16:])), int(level)-1, true); err != nil {
		return nil, 0, err
	}
	if t.sum != int64(be.Uint32(agf[52:])) {
		return nil, 0, doubtf("XFS group %d has %d free blocks, its header says %d", n, t.sum, be.Uint32(agf[52:]))
	}
	return t.free, t.sum + int64(be.Uint32(agf[48:])) + int64(be.Uint32(agf[60:])), nil
}

func (t *xfsTree) walk(block int64, level int, root bool) error {
	x, be := t.x, binary.BigEndian
	if block <= 0 || block >= t.length {
		return doubtf("XFS group %d points to block %d of %d", t.group, block, t.length)
	}
	at := (t.group*x.groupBlocks + block) * x.blockSize
	b, err := x.p.read(at, x.blockSize)
	if err != nil {
		return err
	}
	magic, head := "ABTB", int64(16)
	if x.crc {
		magic, head = "AB3B", 56
		if !x.sum(b, 52) || int64(be.Uint64(b[16:])) != at/512 || string(b[32:48]) != x.uuid || int64(be.Uint32(b[48:])) != t.group {
			return doubtf("free space block %d of XFS group %d has a wrong checksum or place", block, t.group)
		}
	}
	count := int64(be.Uint16(b[6:]))
	each, most := int64(8), (x.blockSize-head)/8
	if level > 0 {
		most = (x.blockSize - head) / 12
	}
	if string(b[:4]) != magic || int(be.Uint16(b[4:])) != level || count > most || count == 0 && !(root && level == 0) {
		return doubtf("free space block %d of XFS group %d makes no sense", block, t.group)
	}
	for i := range count {
		if level > 0 {
			// Keys come first, as many as fit; pointers behind them.
			err = t.walk(int64(be.Uint32(b[head+most*each+4*i:])), level-1, false)
		} else {
			err = t.record(int64(be.Uint32(b[head+each*i:])), int64(be.Uint32(b[head+each*i+4:])))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *xfsTree) record(start, count int64) error {
	if start < t.next || count == 0 || start+count > t.length {
		return doubtf("XFS group %d lists blocks %d to %d of %d as free", t.group, start, start+count-1, t.length)
	}
	t.next, t.sum = start+count, t.sum+count
	t.free = add(t.free, (t.group*t.x.groupBlocks+start)*t.x.blockSize, count*t.x.blockSize)
	return nil
}

// sum proves a structure of version 5 whose checksum lies at an offset of it,
// and was computed with that field zero.
func (x *xfs) sum(b []byte, at int) bool {
	if !x.crc {
		return true
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	crc := crc32.Update(0, table, b[:at])
	crc = crc32.Update(crc, table, make([]byte, 4))
	return crc32.Update(crc, table, b[at+4:]) == binary.LittleEndian.Uint32(b[at:])
}

func powerBetween(n, low, high int64) bool {
	return n >= low && n <= high && bits.OnesCount64(uint64(n)) == 1
}
