package filesystem

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"

	"reimager/disk"
)

// Facts are what a new system's partition holds.
type Facts struct {
	Type      string `json:"type"`
	UUID      string `json:"uuid,omitempty"`
	Label     string `json:"label,omitempty"`
	Bytes     int64  `json:"bytes,omitempty"`      // of the filesystem, by its superblock
	BlockSize int64  `json:"block_size,omitempty"` // of allocation: a cluster of vfat, a page of swap
	// Free bytes, and how many more files fit. Nil: the filesystem has no such limit
	// or does not say. Those that ext reserves for root count as free.
	FreeBytes  *int64 `json:"free_bytes,omitempty"`
	FreeInodes *int64 `json:"free_inodes,omitempty"`
	// Root is nil where there is no /etc/fstab.
	Root *Root `json:"root,omitempty"`
	// Missing says why something is not known.
	Missing []string `json:"missing,omitempty"`
}

// Look reads the facts of the partition at off. What it cannot find out is named in
// Facts.Missing; an error means that the image could not be read, or ctx has ended.
// The files of XFS and btrfs are read through the kernel, which takes root.
func Look(ctx context.Context, image *os.File, off, size int64, fs disk.Filesystem) (Facts, error) {
	l := &look{
		p:     &partition{ctx: ctx, r: image, off: off, size: size},
		image: image,
		facts: Facts{Type: fs.Type, UUID: fs.UUID, Label: fs.Label},
	}
	for _, step := range l.steps(fs.Type) {
		if err := step(); err != nil {
			var d *doubt
			if !errors.As(err, &d) {
				return Facts{}, err
			}
			l.facts.Missing = append(l.facts.Missing, d.text)
		}
	}
	return l.facts, nil
}

type look struct {
	p     *partition
	image *os.File
	facts Facts
}

func (l *look) steps(kind string) []func() error {
	switch kind {
	case "ext2", "ext3", "ext4":
		return []func() error{l.extSizes, l.extFiles}
	case "xfs":
		return []func() error{l.xfsSizes, l.mountedFiles}
	case "btrfs":
		return []func() error{l.btrfsSizes, l.mountedFiles}
	case "vfat":
		return []func() error{l.fatSizes}
	case "swap":
		return []func() error{l.swapSizes}
	}
	return nil
}

func (l *look) sizes(blocks, blockSize int64) {
	l.facts.Bytes, l.facts.BlockSize = blocks*blockSize, blockSize
}

func (l *look) extSizes() error {
	e, err := l.p.openExt()
	if err != nil {
		return err
	}
	l.sizes(e.blocks, e.blockSize)
	if e.freeBlocks < 0 || e.freeBlocks > e.blocks || e.freeInodes > e.groups*e.groupInodes {
		return doubtf("ext has more free blocks or inodes than it has at all")
	}
	if e.incompat&extRecover != 0 {
		l.facts.Missing = append(l.facts.Missing, "ext4 needs journal recovery: what was read is from before it")
	}
	l.facts.FreeBytes, l.facts.FreeInodes = new(e.freeBlocks*e.blockSize), &e.freeInodes
	return nil
}

func (l *look) extFiles() error {
	e, err := l.p.openExt()
	if err != nil {
		return nil // extSizes has said so
	}
	l.facts.Root, err = collect(newExtTree(e))
	return err
}

// xfsSizes counts inodes as statfs does: those there are, and those that fit into
// free space up to the share that inodes may take (xfs_statfs_inodes in fs/xfs/xfs_super.c).
func (l *look) xfsSizes() error {
	x, err := l.p.openXFS()
	if err != nil {
		return err
	}
	l.sizes(x.blocks, x.blockSize)
	be := binary.BigEndian
	inodes, unused, perBlock := int64(be.Uint64(x.sb[128:])), int64(be.Uint64(x.sb[136:])), x.sb[123]
	if x.freeBlocks < 0 || x.freeBlocks > x.blocks || unused < 0 || inodes < unused || perBlock > 16 || inodes>>perBlock > x.blocks {
		return doubtf("XFS has more free blocks or inodes than it has at all")
	}
	if x.cleanLog() != nil {
		l.facts.Missing = append(l.facts.Missing, "XFS needs log recovery: what was read is from before it")
	}
	most := inodes + x.freeBlocks<<perBlock
	if share := int64(x.sb[127]); share > 0 && share <= 100 {
		most = min(most, max(inodes, x.blocks/100*share<<perBlock))
	}
	l.facts.FreeBytes, l.facts.FreeInodes = new(x.freeBlocks*x.blockSize), new(most-(inodes-unused))
	return nil
}

func (l *look) btrfsSizes() error {
	b, err := l.p.openBtrfs()
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	l.facts.Bytes, l.facts.BlockSize = b.bytes, int64(le.Uint32(b.sb[144:]))
	total, used := le.Uint64(b.sb[112:]), le.Uint64(b.sb[120:])
	if total > math.MaxInt64 || used > total {
		return doubtf("btrfs uses %d bytes of %d", used, total)
	}
	l.facts.FreeBytes = new(int64(total - used))
	return nil
}

// fatSizes reads the boot sector and, with FAT32, the FSInfo sector, where a count of
// ffffffff is unknown (Microsoft FAT specification, 3.1 and 5).
func (l *look) fatSizes() error {
	b, err := l.p.read(0, 512)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	sector, perCluster := int64(le.Uint16(b[11:])), int64(b[13])
	sectors := int64(le.Uint16(b[19:]))
	if sectors == 0 {
		sectors = int64(le.Uint32(b[32:]))
	}
	if !powerBetween(sector, 512, 4096) || !powerBetween(perCluster, 1, 128) || sectors*sector > l.p.size {
		return doubtf("vfat has %d sectors of %d bytes, its partition has %d bytes", sectors, sector, l.p.size)
	}
	l.facts.Bytes, l.facts.BlockSize = sectors*sector, sector*perCluster
	if string(b[82:87]) != "FAT32" {
		return nil
	}
	info, err := l.p.read(int64(le.Uint16(b[48:]))*sector, 512)
	if err != nil {
		return err
	}
	free := int64(le.Uint32(info[488:]))
	if string(info[:4]) != "RRaA" || string(info[484:488]) != "rrAa" || free > sectors/perCluster {
		return doubtf("vfat does not say how much of it is free")
	}
	l.facts.FreeBytes = new(free * l.facts.BlockSize)
	return nil
}

func (l *look) swapSizes() error {
	free, err := l.p.swapFree()
	if err != nil {
		return err
	}
	// All but the first page is for swapping.
	l.facts.Bytes, l.facts.BlockSize = free[0].end(), free[0].Off
	return nil
}

// notRead is a doubt about files, with its cause.
func notRead(kind string, err error) error {
	return &doubt{fmt.Sprintf("files of %s are not read: %v", kind, err)}
}
