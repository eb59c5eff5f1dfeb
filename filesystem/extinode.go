package filesystem

import "encoding/binary"

// Flags of an inode.
const (
	extInodeEncrypted = 0x800
	extInodeExtents   = 0x80000
	extInodeInline    = 0x10000000
)

// extInode is what is needed of struct ext4_inode (fs/ext4/ext4.h).
type extInode struct {
	mode  uint16
	flags uint32
	size  int64
	block []byte // 60 bytes: block numbers, extents, or a short target
}

func (e *ext) inode(number uint32) (*extInode, error) {
	n := int64(number) - 1
	if n < 0 || n >= e.groups*e.groupInodes {
		return nil, doubtf("ext inode %d does not exist", number)
	}
	g, err := e.group(n / e.groupInodes)
	if err != nil {
		return nil, err
	}
	b, err := e.p.read(g.table*e.blockSize+n%e.groupInodes*e.inodeSize, 128)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	i := &extInode{mode: le.Uint16(b), flags: le.Uint32(b[32:]), block: b[40:100]}
	i.size = int64(le.Uint32(b[4:])) | int64(le.Uint32(b[108:]))<<32
	return i, nil
}

func (i *extInode) kind() (string, error) {
	switch i.mode >> 12 {
	case 0x1:
		return "fifo", nil
	case 0x2, 0x6:
		return "device", nil
	case 0x4:
		return "directory", nil
	case 0x8:
		return "file", nil
	case 0xa:
		return "symlink", nil
	case 0xc:
		return "socket", nil
	}
	return "", doubtf("inode has mode %#o", i.mode)
}

// content returns the bytes of a file of at most max.
func (e *ext) content(i *extInode, max int64) ([]byte, error) {
	switch {
	case i.flags&extInodeEncrypted != 0:
		return nil, doubtf("it is encrypted")
	case i.flags&extInodeInline != 0:
		return nil, doubtf("it lies inside its inode (inline_data), which is not read")
	case i.size < 0 || i.size > max:
		return nil, doubtf("%d bytes are more than %d", i.size, max)
	}
	m := &extMap{e: e, content: make([]byte, ceil(i.size, e.blockSize)*e.blockSize)}
	// Every block of a tree maps something, so that there are never more of them.
	m.left = int64(len(m.content))/e.blockSize + 8
	var err error
	if i.flags&extInodeExtents != 0 {
		err = m.extents(i.block, -1)
	} else {
		err = m.indirect(i.block)
	}
	if err != nil {
		return nil, err
	}
	return m.content[:i.size], nil
}

// extMap fills a file's content from its blocks; holes stay zero.
type extMap struct {
	e       *ext
	content []byte
	left    int64 // blocks of the map that may still be read
	next    int64 // the lowest logical block that may come next
}

func (m *extMap) mapBlock(n int64) ([]byte, error) {
	if m.left--; m.left < 0 || n <= 0 || n >= m.e.blocks {
		return nil, doubtf("ext file has a map that makes no sense, at block %d", n)
	}
	return m.e.p.read(n*m.e.blockSize, m.e.blockSize)
}

// fill reads count blocks from physical to logical; what lies behind the file's end is left out.
func (m *extMap) fill(logical, physical, count int64) error {
	bs := m.e.blockSize
	count = min(count, int64(len(m.content))/bs-logical)
	if count <= 0 {
		return nil
	}
	if logical < m.next || physical <= 0 || physical > m.e.blocks-count {
		return doubtf("ext file has block %d of %d for its block %d", physical, m.e.blocks, logical)
	}
	m.next = logical + count
	b, err := m.e.p.read(physical*bs, count*bs)
	copy(m.content[logical*bs:], b)
	return err
}

// extents reads a node of an extent tree (struct ext4_extent_header and following,
// fs/ext4/ext4_extents.h); depth is what the parent expects, or -1.
func (m *extMap) extents(b []byte, depth int) error {
	le := binary.LittleEndian
	count, own := int(le.Uint16(b[2:])), int(le.Uint16(b[6:]))
	if le.Uint16(b) != 0xf30a || own > 5 || depth >= 0 && own != depth || 12+12*count > len(b) {
		return doubtf("ext file has an extent tree that makes no sense")
	}
	for i := range count {
		x := b[12+12*i:]
		if own == 0 {
			const initialised = 32768 // more: blocks that were reserved and never written
			length, physical := int64(le.Uint16(x[4:])), int64(le.Uint32(x[8:]))|int64(le.Uint16(x[6:]))<<32
			if length > initialised {
				continue
			}
			if err := m.fill(int64(le.Uint32(x)), physical, length); err != nil {
				return err
			}
			continue
		}
		child, err := m.mapBlock(int64(le.Uint32(x[4:])) | int64(le.Uint16(x[8:]))<<32)
		if err != nil {
			return err
		}
		if err := m.extents(child, own-1); err != nil {
			return err
		}
	}
	return nil
}

// indirect reads the block map of ext2 and ext3: twelve blocks, then one, two and
// three levels of blocks that hold numbers.
func (m *extMap) indirect(b []byte) error {
	logical := int64(0)
	for i := range 15 {
		if err := m.level(int64(binary.LittleEndian.Uint32(b[4*i:])), max(0, i-11), &logical); err != nil {
			return err
		}
	}
	return nil
}

func (m *extMap) level(block int64, depth int, logical *int64) error {
	if *logical >= int64(len(m.content))/m.e.blockSize {
		return nil
	}
	spans := int64(1)
	for range depth {
		spans *= m.e.blockSize / 4
	}
	switch {
	case block == 0: // a hole
		*logical += spans
		return nil
	case depth == 0:
		err := m.fill(*logical, block, 1)
		*logical++
		return err
	}
	b, err := m.mapBlock(block)
	if err != nil {
		return err
	}
	for ; len(b) > 0; b = b[4:] {
		if err := m.level(int64(binary.LittleEndian.Uint32(b)), depth-1, logical); err != nil {
			return err
		}
	}
	return nil
}
