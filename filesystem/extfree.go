package filesystem

import "slices"

// extFree returns what the block bitmaps of an ext filesystem leave. A group whose
// bitmap was never written has all but the metadata that lies in it free; in every
// other group the metadata must be marked as used, and the counts must be right.
func (p *partition) extFree() ([]Extent, error) {
	e, err := p.openExt()
	if err != nil {
		return nil, err
	}
	if err := e.clean(); err != nil {
		return nil, err
	}
	meta, err := e.metadata()
	if err != nil {
		return nil, err
	}
	var free []Extent
	var sum int64
	for n := range e.groups {
		g, err := e.group(n)
		if err != nil {
			return nil, err
		}
		used, err := e.usedClusters(n, g, &meta)
		if err != nil {
			return nil, err
		}
		first := e.firstBlock + n*e.groupBlocks
		var count int64
		for c, u := range used {
			if u {
				continue
			}
			count++
			off := first + int64(c)*e.ratio
			// The last cluster may be cut off by the filesystem's end.
			free = add(free, off*e.blockSize, min(e.ratio, e.blocks-off)*e.blockSize)
		}
		if count != g.free {
			return nil, doubtf("ext group %d has %d free clusters, its descriptor says %d", n, count, g.free)
		}
		sum += count * e.ratio
	}
	if sum != e.freeBlocks {
		return nil, doubtf("ext has %d free blocks, its superblock says %d", sum, e.freeBlocks)
	}
	return free, nil
}

// metadata lists the blocks of superblocks, descriptors, bitmaps and inode tables
// of all groups, wherever flex_bg put them; in blocks, ascending. Two that overlap
// are a doubt.
func (e *ext) metadata() ([]Extent, error) {
	var meta []Extent
	for n := range e.groups {
		g, err := e.group(n)
		if err != nil {
			return nil, err
		}
		first := e.firstBlock + n*e.groupBlocks
		base := e.baseBlocks(n)
		if first+base > e.blocks {
			return nil, doubtf("ext group %d does not hold its own descriptors", n)
		}
		for _, m := range []Extent{{first, base}, {g.bitmap, 1}, {g.inodeBitmap, 1}, {g.table, e.tableBlocks}} {
			if m.Bytes > 0 {
				meta = append(meta, m)
			}
		}
	}
	slices.SortFunc(meta, byOffset)
	for i := range meta[1:] {
		if meta[i].end() > meta[i+1].Off {
			return nil, doubtf("ext metadata overlaps in block %d", meta[i+1].Off)
		}
	}
	return meta, nil
}

// usedClusters returns the bitmap of a group, proven. It takes from meta what ends in
// this group, since groups come in order.
func (e *ext) usedClusters(n int64, g extGroup, meta *[]Extent) ([]bool, error) {
	first := e.firstBlock + n*e.groupBlocks
	end := min(first+e.groupBlocks, e.blocks)
	used := make([]bool, ceil(end-first, e.ratio))
	if !g.blockUninit {
		bits, err := e.bitmap(n, g)
		if err != nil {
			return nil, err
		}
		for c := range used {
			used[c] = bits[c/8]>>(c%8)&1 != 0
		}
	}
	for len(*meta) > 0 && (*meta)[0].Off < end {
		m := (*meta)[0]
		for b := max(m.Off, first); b < min(m.end(), end); b++ {
			c := (b - first) / e.ratio
			if !g.blockUninit && !used[c] {
				return nil, doubtf("ext group %d has its metadata in block %d marked free", n, b)
			}
			used[c] = true
		}
		if m.end() > end {
			break
		}
		*meta = (*meta)[1:]
	}
	return used, nil
}

func (e *ext) bitmap(n int64, g extGroup) ([]byte, error) {
	b, err := e.p.read(g.bitmap*e.blockSize, e.blockSize)
	if err != nil {
		return nil, err
	}
	if e.ro&extMetadataCsum == 0 {
		return b, nil
	}
	sum := rawCRC(e.seed, b[:e.groupBlocks/e.ratio/8])
	if e.descSize < 64 {
		sum &= 0xffff
	}
	if sum != g.bitmapCsum {
		return nil, doubtf("block bitmap of ext group %d has a wrong checksum", n)
	}
	return b, nil
}
