package filesystem

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
)

// Features of ext2, 3 and 4 (the kernel's fs/ext4/ext4.h).
const (
	extHasJournal    = 0x4
	extResizeInode   = 0x10
	extSparseSuper2  = 0x200
	extKnownCompat   = 0x1 | extHasJournal | 0x8 | extResizeInode | 0x20 | extSparseSuper2 | 0x400 | 0x800 | 0x1000
	extRecover       = 0x4
	extJournalDevice = 0x8
	extMetaBG        = 0x10
	ext64Bit         = 0x80
	extMMP           = 0x100
	extCsumSeed      = 0x2000
	extInlineData    = 0x8000
	// filetype, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed, large_dir, inline_data, encrypt, casefold.
	extKnownIncompat = 0x2 | extMetaBG | 0x40 | ext64Bit | extMMP | 0x200 | 0x400 | extCsumSeed | 0x4000 | extInlineData | 0x10000 | 0x20000
	extSparseSuper   = 0x1
	extGDTCsum       = 0x10
	extBigalloc      = 0x200
	extMetadataCsum  = 0x400
	extOrphanPresent = 0x10000
	// sparse_super, large_file, btree_dir, huge_file, gdt_csum, dir_nlink, extra_isize, quota, bigalloc, metadata_csum, project, verity.
	extKnownRO = extSparseSuper | 0x2 | 0x4 | 0x8 | extGDTCsum | 0x20 | 0x40 | 0x100 | extBigalloc | extMetadataCsum | 0x2000 | 0x8000
)

// ext is the superblock of an ext2, 3 or 4 filesystem. Block numbers count from
// the beginning of the partition; a cluster is a block unless bigalloc is set.
type ext struct {
	p                       *partition
	sb                      []byte
	compat, incompat, ro    uint32
	blockSize               int64
	blocks, firstBlock      int64
	ratio                   int64 // blocks of a cluster
	groupBlocks, groups     int64
	groupInodes, inodeSize  int64
	descSize, firstMeta     int64
	seed                    uint32 // of metadata_csum
	reservedGDT, descBlocks int64
	freeBlocks, freeInodes  int64
	tableBlocks             int64 // of a group's inode table
	descriptorCache         []byte
	descriptorBlock         int64
	backups                 [2]uint32
}

// openExt reads the superblock and refuses a geometry that makes no sense.
func (p *partition) openExt() (*ext, error) {
	sb, err := p.read(1024, 1024)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	e := &ext{p: p, sb: sb, compat: le.Uint32(sb[0x5c:]), incompat: le.Uint32(sb[0x60:]), ro: le.Uint32(sb[0x64:]), descriptorBlock: -1}
	logBlock, logCluster := le.Uint32(sb[0x18:]), le.Uint32(sb[0x1c:])
	if le.Uint16(sb[0x38:]) != 0xef53 {
		return nil, doubtf("ext superblock has no magic")
	}
	if rev := le.Uint32(sb[0x4c:]); rev != 1 {
		return nil, doubtf("ext has revision %d, expected 1", rev)
	}
	if logBlock > 6 {
		return nil, doubtf("ext block size 2^%d makes no sense", uint64(logBlock)+10)
	}
	e.blockSize, e.ratio, e.descSize = 1024<<logBlock, 1, 32
	e.blocks, e.freeBlocks = int64(le.Uint32(sb[4:])), int64(le.Uint32(sb[0xc:]))
	if e.incompat&ext64Bit != 0 {
		e.descSize = int64(le.Uint16(sb[0xfe:]))
		e.blocks |= int64(le.Uint32(sb[0x150:])) << 32
		e.freeBlocks |= int64(le.Uint32(sb[0x158:])) << 32
	}
	if e.ro&extBigalloc != 0 {
		if logCluster < logBlock || logCluster > 20 {
			return nil, doubtf("ext cluster size 2^%d makes no sense", uint64(logCluster)+10)
		}
		e.ratio = 1 << (logCluster - logBlock)
	}
	e.freeInodes, e.firstBlock = int64(le.Uint32(sb[0x10:])), int64(le.Uint32(sb[0x14:]))
	e.groupBlocks, e.groupInodes = int64(le.Uint32(sb[0x20:])), int64(le.Uint32(sb[0x28:]))
	e.inodeSize, e.reservedGDT = int64(le.Uint16(sb[0x58:])), int64(le.Uint16(sb[0xce:]))
	e.backups = [2]uint32{le.Uint32(sb[0x24c:]), le.Uint32(sb[0x250:])}
	e.seed = rawCRC(^uint32(0), sb[0x68:0x78])
	if e.incompat&extCsumSeed != 0 {
		e.seed = le.Uint32(sb[0x270:])
	}
	return e, e.geometry()
}

func (e *ext) geometry() error {
	le, bs := binary.LittleEndian, e.blockSize
	switch {
	case e.ro&extMetadataCsum != 0 && rawCRC(^uint32(0), e.sb[:0x3fc]) != le.Uint32(e.sb[0x3fc:]):
		return doubtf("ext superblock has a wrong checksum")
	case e.blocks <= 0 || e.blocks > e.p.size/bs:
		return doubtf("ext has %d blocks of %d bytes, its partition has %d bytes", e.blocks, bs, e.p.size)
	case e.firstBlock != 0 && (e.firstBlock != 1 || bs != 1024) || e.firstBlock == 0 && bs == 1024 || e.firstBlock >= e.blocks:
		// With bigalloc and blocks of 1024 bytes the first block is 0; e2fsprogs and the kernel disagree over what follows.
		return doubtf("ext begins at block %d with blocks of %d bytes", e.firstBlock, bs)
	case e.groupBlocks < 256 || e.groupBlocks%(8*e.ratio) != 0 || e.groupBlocks/e.ratio > 8*bs || int64(le.Uint32(e.sb[0x24:])) != e.groupBlocks/e.ratio:
		return doubtf("ext groups of %d blocks make no sense", e.groupBlocks)
	case e.inodeSize < 128 || e.inodeSize > bs || bits.OnesCount64(uint64(e.inodeSize)) != 1:
		return doubtf("ext inodes of %d bytes make no sense", e.inodeSize)
	case e.groupInodes == 0 || e.groupInodes > 8*bs:
		return doubtf("ext groups of %d inodes make no sense", e.groupInodes)
	case e.descSize < 32 || e.descSize > 1024 || bits.OnesCount64(uint64(e.descSize)) != 1 || e.incompat&ext64Bit != 0 && e.descSize < 64:
		return doubtf("ext group descriptors of %d bytes make no sense", e.descSize)
	}
	e.groups = ceil(e.blocks-e.firstBlock, e.groupBlocks)
	e.descBlocks = ceil(e.groups, bs/e.descSize)
	e.tableBlocks = ceil(e.groupInodes*e.inodeSize, bs)
	e.firstMeta = e.descBlocks
	if e.incompat&extMetaBG != 0 {
		e.firstMeta = int64(le.Uint32(e.sb[0x104:]))
	}
	if inodes := int64(le.Uint32(e.sb[0:])); inodes != e.groups*e.groupInodes {
		return doubtf("ext has %d inodes, expected %d", inodes, e.groups*e.groupInodes)
	}
	return nil
}

// clean tells why an ext filesystem is not in the state in which a clean unmount
// leaves it, or has a feature that might change what a bitmap means.
func (e *ext) clean() error {
	le := binary.LittleEndian
	unknown := func(set string, bits uint32) error { return doubtf("ext has unknown %s features %#x", set, bits) }
	switch {
	case e.incompat&extRecover != 0:
		return doubtf("ext4 needs journal recovery")
	case e.incompat&extJournalDevice != 0:
		return doubtf("ext journal device")
	case e.ro&extOrphanPresent != 0:
		return doubtf("ext4 has files in its orphan file")
	case e.incompat&^extKnownIncompat != 0:
		return unknown("incompatible", e.incompat&^extKnownIncompat)
	case e.ro&^extKnownRO != 0:
		return unknown("read-only compatible", e.ro&^extKnownRO)
	case e.compat&^extKnownCompat != 0:
		return unknown("compatible", e.compat&^extKnownCompat)
	case le.Uint16(e.sb[0x3a:]) != 1:
		return doubtf("ext was not cleanly unmounted, or has errors (state %#x)", le.Uint16(e.sb[0x3a:]))
	case le.Uint32(e.sb[0x194:]) != 0:
		return doubtf("ext has recorded %d errors", le.Uint32(e.sb[0x194:]))
	case le.Uint32(e.sb[0xe8:]) != 0:
		return doubtf("ext has orphaned inodes")
	case e.compat&extHasJournal != 0 && le.Uint32(e.sb[0xe4:]) != 0:
		return doubtf("ext has its journal on another device")
	case e.ro&extMetadataCsum != 0 && e.sb[0x175] != 1:
		return doubtf("ext has checksums of unknown type %d", e.sb[0x175])
	}
	return e.multipleMount()
}

// multipleMount looks whether somebody has the filesystem mounted
// (struct mmp_struct in fs/ext4/ext4.h).
func (e *ext) multipleMount() error {
	if e.incompat&extMMP == 0 {
		return nil
	}
	block := int64(binary.LittleEndian.Uint64(e.sb[0x168:]))
	if block <= 0 || block >= e.blocks {
		return doubtf("ext keeps its multiple mount protection in block %d of %d", block, e.blocks)
	}
	b, err := e.p.read(block*e.blockSize, 1024)
	if err != nil {
		return err
	}
	const magic, seqClean = 0x004d4d50, 0xff4d4d50
	if binary.LittleEndian.Uint32(b) != magic || binary.LittleEndian.Uint32(b[4:]) != seqClean {
		return doubtf("ext4's multiple mount protection says that it is in use")
	}
	if e.ro&extMetadataCsum != 0 && rawCRC(e.seed, b[:1020]) != binary.LittleEndian.Uint32(b[1020:]) {
		return doubtf("ext4's multiple mount protection has a wrong checksum")
	}
	return nil
}

// rawCRC is the kernel's crc32c: without inversion at either end.
func rawCRC(seed uint32, b []byte) uint32 {
	return ^crc32.Update(^seed, crc32.MakeTable(crc32.Castagnoli), b)
}

func ceil(a, b int64) int64 { return (a + b - 1) / b }
