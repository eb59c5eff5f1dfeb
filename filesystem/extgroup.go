package filesystem

import "encoding/binary"

// extGroup is a block group's descriptor.
type extGroup struct {
	bitmap, inodeBitmap, table int64 // blocks
	free                       int64 // clusters
	blockUninit                bool  // its bitmap was never written
	bitmapCsum                 uint32
}

// group reads and proves a group's descriptor.
func (e *ext) group(n int64) (extGroup, error) {
	perBlock := e.blockSize / e.descSize
	block := n / perBlock
	if block != e.descriptorBlock {
		b, err := e.p.read(e.descriptorAt(block)*e.blockSize, e.blockSize)
		if err != nil {
			return extGroup{}, err
		}
		e.descriptorCache, e.descriptorBlock = b, block
	}
	d := e.descriptorCache[n%perBlock*e.descSize:][:e.descSize]
	le := binary.LittleEndian
	const blockUninit = 0x2
	g := extGroup{
		bitmap: int64(le.Uint32(d)), inodeBitmap: int64(le.Uint32(d[4:])), table: int64(le.Uint32(d[8:])),
		free: int64(le.Uint16(d[12:])), blockUninit: le.Uint16(d[18:])&blockUninit != 0, bitmapCsum: uint32(le.Uint16(d[24:])),
	}
	if e.descSize >= 64 {
		g.bitmap |= int64(le.Uint32(d[32:])) << 32
		g.inodeBitmap |= int64(le.Uint32(d[36:])) << 32
		g.table |= int64(le.Uint32(d[40:])) << 32
		g.free |= int64(le.Uint16(d[44:])) << 16
		g.bitmapCsum |= uint32(le.Uint16(d[56:])) << 16
	}
	if sum, ok := e.descriptorSum(n, d); ok && sum != le.Uint16(d[30:]) {
		return g, doubtf("descriptor of ext group %d has a wrong checksum", n)
	} else if !ok && g.blockUninit {
		return g, doubtf("ext group %d has no bitmap, but descriptors have no checksums", n)
	}
	for _, b := range []int64{g.bitmap, g.inodeBitmap, g.table, g.table + e.tableBlocks - 1} {
		if b <= e.firstBlock || b >= e.blocks {
			return g, doubtf("ext group %d points to block %d of %d", n, b, e.blocks)
		}
	}
	return g, nil
}

// descriptorAt is the block in which the i-th block of descriptors lies
// (descriptor_loc in fs/ext4/super.c).
func (e *ext) descriptorAt(i int64) int64 {
	if e.incompat&extMetaBG == 0 || i < e.firstMeta {
		return e.firstBlock + 1 + i
	}
	group := i * (e.blockSize / e.descSize)
	at := e.firstBlock + group*e.groupBlocks
	if e.hasSuper(group) {
		at++
	}
	return at
}

// descriptorSum computes a descriptor's checksum, if it has one
// (ext4_group_desc_csum in fs/ext4/super.c).
func (e *ext) descriptorSum(n int64, d []byte) (uint16, bool) {
	number := binary.LittleEndian.AppendUint32(nil, uint32(n))
	switch {
	case e.ro&extMetadataCsum != 0:
		crc := rawCRC(rawCRC(e.seed, number), d[:30])
		return uint16(rawCRC(rawCRC(crc, []byte{0, 0}), d[32:])), true
	case e.ro&extGDTCsum != 0:
		crc := crc16(crc16(crc16(0xffff, e.sb[0x68:0x78]), number), d[:30])
		return crc16(crc, d[32:]), true
	}
	return 0, false
}

// crc16 is the kernel's lib/crc16.c: polynomial 0x8005, reflected.
func crc16(crc uint16, b []byte) uint16 {
	for _, c := range b {
		crc ^= uint16(c)
		for range 8 {
			crc = crc>>1 ^ 0xa001*(crc&1)
		}
	}
	return crc
}

// hasSuper tells whether a group begins with a copy of the superblock
// (ext4_bg_has_super in fs/ext4/balloc.c).
func (e *ext) hasSuper(group int64) bool {
	switch {
	case group == 0:
		return true
	case e.compat&extSparseSuper2 != 0:
		return group == int64(e.backups[0]) || group == int64(e.backups[1])
	case group == 1 || e.ro&extSparseSuper == 0:
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		power := base
		for power < group {
			power *= base
		}
		if power == group {
			return true
		}
	}
	return false
}

// baseBlocks is how many blocks at a group's beginning hold superblock,
// descriptors and room for more descriptors (ext2fs_super_and_bgd_loc2 of e2fsprogs).
func (e *ext) baseBlocks(group int64) int64 {
	var n int64
	if e.hasSuper(group) {
		n = 1
	}
	perBlock := e.blockSize / e.descSize
	if e.incompat&extMetaBG == 0 || group/perBlock < e.firstMeta {
		if n == 0 {
			return 0
		}
		if e.incompat&extMetaBG != 0 {
			return n + e.firstMeta
		}
		return n + e.descBlocks + e.reservedGDT
	}
	if in := group % perBlock; in == 0 || in == 1 || in == perBlock-1 {
		n++
	}
	return n
}
