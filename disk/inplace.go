package disk

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Extent is where a piece of a file lies on its block device, in bytes.
type Extent struct{ Logical, Physical, Bytes int64 }

// From include/uapi/linux/fiemap.h.
const (
	fsIocFiemap      = 0xc020660b
	fiemapSync       = 1
	extentLast       = 1 << 0
	extentNotForUs   = 1<<1 | 1<<2 | 1<<3 | 1<<7 | 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<13 // unknown, delalloc, encoded, encrypted, unaligned, inline, tail, unwritten, shared
	extentsPerCall   = 128
	maxExtentsOfFile = 4096
)

// From include/uapi/linux/fs.h.
const (
	fibmap   = 1 // _IO(0x00, 1): the place of a block of a file
	figetbsz = 2 // _IO(0x00, 2): the size of such a block in bytes
)

type fiemapExtent struct {
	logical, physical, length uint64
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

type fiemap struct {
	start, length        uint64
	flags, mapped, count uint32
	_                    uint32
	extents              [extentsPerCall]fiemapExtent
}

// InPlace tells whether files of a filesystem lie where the kernel says and may be
// overwritten there: not on btrfs, whose addresses are logical and summed.
func InPlace(f Filesystem) bool { return f.Type != "btrfs" && (f.MayHoldRoot() || f.Type == "vfat") }

// Extents returns where a file lies. Files whose bytes do not stand on the device
// as they are (compressed, inline, shared, never written) are an error.
func Extents(f *os.File) ([]Extent, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	all, err := fiemapExtents(f, info)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) { // vfat has no FIEMAP
		all, err = fibmapExtents(f, info)
	}
	if err != nil {
		return nil, fmt.Errorf("find blocks of %s: %w", f.Name(), err)
	}
	return all, nil
}

func fiemapExtents(f *os.File, info os.FileInfo) ([]Extent, error) {
	var all []Extent
	var next uint64
	for len(all) < maxExtentsOfFile {
		m := &fiemap{start: next, length: uint64(info.Size()) - next, flags: fiemapSync, count: extentsPerCall}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIocFiemap, uintptr(unsafe.Pointer(m)))
		runtime.KeepAlive(m)
		if errno != 0 {
			return nil, errno
		}
		for _, e := range m.extents[:m.mapped] {
			if e.flags&extentNotForUs != 0 {
				return nil, fmt.Errorf("they cannot be overwritten in place (fiemap flags %#x)", e.flags)
			}
			all = append(all, Extent{int64(e.logical), int64(e.physical), int64(e.length)})
			next = e.logical + e.length
			if e.flags&extentLast != 0 || next >= uint64(info.Size()) {
				return all, nil
			}
		}
		if m.mapped == 0 {
			break
		}
	}
	return nil, errors.New("it is not wholly there")
}

// fibmapExtents asks block by block: the old call, which needs CAP_SYS_RAWIO.
func fibmapExtents(f *os.File, info os.FileInfo) ([]Extent, error) {
	size, err := unix.IoctlGetInt(int(f.Fd()), figetbsz)
	if err != nil {
		return nil, err
	}
	var all []Extent
	for off := int64(0); off < info.Size(); off += int64(size) {
		number := int32(off / int64(size))
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fibmap, uintptr(unsafe.Pointer(&number))); errno != 0 {
			return nil, errno
		}
		at := int64(uint32(number)) * int64(size)
		if at == 0 {
			return nil, errors.New("it is not wholly there")
		}
		if last := len(all) - 1; last >= 0 && all[last].Physical+all[last].Bytes == at {
			all[last].Bytes += int64(size)
			continue
		}
		all = append(all, Extent{off, at, int64(size)})
	}
	return all, nil
}

// OverwriteExtents replaces the blocks of a file on its unmounted device, flushes and
// reads them back past the page cache. ours is asked for each block, before any is
// written, whether what lies there is that block of the file; if it is not, nothing is
// written. The first block is written when the others are on the disk, so that it can
// say what they hold.
func OverwriteExtents(device string, extents []Extent, blockBytes int, blocks [][]byte, ours func(index int, block []byte) bool) (err error) {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", device, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	at := make([]int64, len(blocks))
	old := make([]byte, blockBytes)
	for i := range blocks {
		if at[i], err = locate(extents, int64(i*blockBytes), int64(blockBytes)); err != nil {
			return fmt.Errorf("overwrite on %s: %w", device, err)
		}
		if _, err := f.ReadAt(old, at[i]); err != nil {
			return fmt.Errorf("read %s: %w", device, err)
		}
		if !ours(i, old) {
			return fmt.Errorf("overwrite on %s: what lies at byte %d is not block %d of the file", device, at[i], i)
		}
	}
	for i := len(blocks) - 1; i >= 0; i-- {
		if i == 0 && len(blocks) > 1 {
			if err := f.Sync(); err != nil {
				return fmt.Errorf("flush %s: %w", device, err)
			}
		}
		if _, err := f.WriteAt(blocks[i], at[i]); err != nil {
			return fmt.Errorf("write %s: %w", device, err)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("flush %s: %w", device, err)
	}
	// What is clean leaves the page cache: posix_fadvise(2).
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("read back from %s: %w", device, err)
	}
	for i, b := range blocks {
		if _, err := f.ReadAt(old, at[i]); err != nil {
			return fmt.Errorf("read back from %s: %w", device, err)
		}
		if !bytes.Equal(old, b) {
			return fmt.Errorf("read back from %s: what was written at byte %d is not there", device, at[i])
		}
	}
	return nil
}

func locate(extents []Extent, off, n int64) (int64, error) {
	for _, e := range extents {
		if off >= e.Logical && off+n <= e.Logical+e.Bytes {
			return e.Physical + off - e.Logical, nil
		}
	}
	return 0, fmt.Errorf("byte %d of the file lies in no extent", off)
}
