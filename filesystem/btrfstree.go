package filesystem

import (
	"cmp"
	"encoding/binary"
)

type btrfsKey struct {
	object uint64
	kind   byte
	offset uint64
}

func (k btrfsKey) compare(o btrfsKey) int {
	return cmp.Or(cmp.Compare(k.object, o.object), cmp.Compare(k.kind, o.kind), cmp.Compare(k.offset, o.offset))
}

func key(b []byte) btrfsKey {
	le := binary.LittleEndian
	return btrfsKey{le.Uint64(b), b[8], le.Uint64(b[9:])}
}

const btrfsKeyBytes = 17

// btrfsRoot points to the topmost block of a tree.
type btrfsRoot struct {
	logical    uint64
	generation uint64
	level      byte
}

// readChunks reads where logical addresses lie: first of the chunks that hold the
// chunk tree, which the superblock lists, then of all.
func (b *btrfs) readChunks() error {
	le := binary.LittleEndian
	n := le.Uint32(b.sb[160:])
	if n > 2048 {
		return doubtf("btrfs superblock lists %d bytes of chunks", n)
	}
	for list := b.sb[811 : 811+n]; len(list) > 0; {
		if len(list) < btrfsKeyBytes+48 {
			return doubtf("btrfs superblock lists a chunk that is cut off")
		}
		item := list[btrfsKeyBytes:]
		used := 48 + 32*int(le.Uint16(item[44:]))
		if used > len(item) {
			return doubtf("btrfs superblock lists a chunk that is cut off")
		}
		if err := b.addChunk(key(list), item[:used]); err != nil {
			return err
		}
		list = item[used:]
	}
	var all []btrfsChunk
	system := b.chunks
	root := btrfsRoot{le.Uint64(b.sb[88:]), le.Uint64(b.sb[164:]), b.sb[199]}
	err := b.walk(root, func(k btrfsKey, item []byte) error {
		const chunkItem = 228
		if k.kind != chunkItem {
			return nil
		}
		b.chunks = all
		err := b.addChunk(k, item)
		all, b.chunks = b.chunks, system // the walk itself goes on with those that it began with
		return err
	})
	b.chunks = all
	return err
}

// addChunk takes chunks whose copies are plain runs of this device: single and DUP.
func (b *btrfs) addChunk(k btrfsKey, item []byte) error {
	le := binary.LittleEndian
	if len(item) < 48 || len(item) != 48+32*int(le.Uint16(item[44:])) {
		return doubtf("btrfs chunk of %d bytes is cut off", len(item))
	}
	// data, system, metadata; DUP.
	const kinds, dup = 0x1 | 0x2 | 0x4, 0x20
	flags, stripes := le.Uint64(item[24:]), int64(le.Uint16(item[44:]))
	if flags&^uint64(kinds|dup) != 0 || flags&dup == 0 && stripes != 1 || flags&dup != 0 && stripes != 2 {
		return doubtf("btrfs has a chunk with the flags %#x and %d stripes; only single and DUP are known", flags, stripes)
	}
	c := btrfsChunk{logical: int64(k.offset), bytes: int64(le.Uint64(item))}
	if last := len(b.chunks) - 1; c.logical < 0 || c.bytes <= 0 || c.bytes > b.bytes || c.logical+c.bytes < 0 ||
		last >= 0 && b.chunks[last].logical+b.chunks[last].bytes > c.logical {
		return doubtf("btrfs chunk of %d bytes at %d makes no sense", c.bytes, c.logical)
	}
	for s := item[48:]; len(s) > 0; s = s[32:] {
		at := int64(le.Uint64(s[8:]))
		if le.Uint64(s) != b.device || string(s[16:32]) != b.deviceUUID {
			return doubtf("btrfs has a chunk on another device")
		}
		if at < 0 || at > b.bytes-c.bytes {
			return doubtf("btrfs chunk of %d bytes lies at byte %d of %d", c.bytes, at, b.bytes)
		}
		c.copies = append(c.copies, at)
	}
	b.chunks = append(b.chunks, c)
	return nil
}

// extentRoot finds the extent tree in the tree of roots.
func (b *btrfs) extentRoot() (btrfsRoot, error) {
	le := binary.LittleEndian
	root := btrfsRoot{le.Uint64(b.sb[80:]), le.Uint64(b.sb[72:]), b.sb[198]}
	var found []btrfsRoot
	err := b.walk(root, func(k btrfsKey, item []byte) error {
		const extentTree, rootItem = 2, 132
		if k.object != extentTree || k.kind != rootItem {
			return nil
		}
		if len(item) < 239 {
			return doubtf("btrfs root item of %d bytes is cut off", len(item))
		}
		found = append(found, btrfsRoot{le.Uint64(item[176:]), le.Uint64(item[160:]), item[238]})
		return nil
	})
	if err == nil && len(found) != 1 {
		err = doubtf("btrfs has %d extent trees, expected 1", len(found))
	}
	if err != nil {
		return btrfsRoot{}, err
	}
	return found[0], nil
}

// walk calls do with each item of a tree, in the order of keys. That keys have to
// ascend also bounds a tree that points to its own blocks again.
func (b *btrfs) walk(root btrfsRoot, do func(btrfsKey, []byte) error) error {
	w := &btrfsWalk{b: b, do: do}
	return w.block(root, nil)
}

type btrfsWalk struct {
	b     *btrfs
	do    func(btrfsKey, []byte) error
	last  btrfsKey
	began bool
}

func (w *btrfsWalk) block(at btrfsRoot, first *btrfsKey) error {
	node, err := w.b.tree(at)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	count := int64(le.Uint32(node[96:]))
	each := int64(25)
	if at.level > 0 {
		each = 33
	}
	if count > (w.b.nodeSize-btrfsHeader)/each || count == 0 && (first != nil || at.level > 0) {
		return doubtf("btrfs tree block at %d has %d items", at.logical, count)
	}
	body := node[btrfsHeader:]
	for i := range count {
		item := body[i*each:]
		k := key(item)
		if i == 0 && first != nil && k != *first {
			return doubtf("btrfs tree block at %d begins with another key than its parent says", at.logical)
		}
		if at.level > 0 {
			child := btrfsRoot{le.Uint64(item[17:]), le.Uint64(item[25:]), at.level - 1}
			if err := w.block(child, &k); err != nil {
				return err
			}
			continue
		}
		if w.began && k.compare(w.last) <= 0 {
			return doubtf("btrfs tree block at %d has its keys out of order", at.logical)
		}
		w.began, w.last = true, k
		off, size := int64(le.Uint32(item[17:])), int64(le.Uint32(item[21:]))
		if off+size > int64(len(body)) {
			return doubtf("btrfs tree block at %d has an item outside of it", at.logical)
		}
		if err := w.do(k, body[off:off+size]); err != nil {
			return err
		}
	}
	return nil
}

// tree reads and proves the first copy of a tree block.
func (b *btrfs) tree(at btrfsRoot) ([]byte, error) {
	le := binary.LittleEndian
	copies, err := b.physical(Extent{int64(at.logical), b.nodeSize})
	if err != nil {
		return nil, err
	}
	node, err := b.p.read(copies[0].Off, b.nodeSize)
	if err != nil {
		return nil, err
	}
	sum := b.csum(node[32:])
	if string(node[:len(sum)]) != sum || string(node[32:48]) != b.fsid || le.Uint64(node[48:]) != at.logical ||
		le.Uint64(node[80:]) != at.generation || node[100] != at.level || at.level >= 8 {
		return nil, doubtf("btrfs tree block at %d has a wrong checksum, place or generation", at.logical)
	}
	return node, nil
}
