package disk

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Medium is what a Device stands on: a disk of the kernel's, a file in its place, or a
// simulated disk (disk/simdisk). A transfer may move fewer bytes than were asked for.
type Medium interface {
	Pread(p []byte, off int64) (int, error)
	Pwrite(p []byte, off int64) (int, error)
	// Zero makes bytes read as zeros the quick way. After an error Device writes zeros.
	Zero(off, n int64) error
	// Discard is advice; EOPNOTSUPP and ENOTTY say that the medium takes none.
	Discard(off, n int64) error
	// Sync returns when all is on the medium, out of its own cache too.
	Sync() error
	Close() error
}

// kernel is a disk, or a file in its place.
type kernel struct {
	f     *os.File
	block bool
}

func (k *kernel) Pread(p []byte, off int64) (int, error) { return k.transfer(unix.Pread, p, off) }

func (k *kernel) Pwrite(p []byte, off int64) (int, error) { return k.transfer(unix.Pwrite, p, off) }

func (k *kernel) transfer(do func(fd int, p []byte, off int64) (int, error), p []byte, off int64) (int, error) {
	n, err := do(int(k.f.Fd()), p, off)
	if !errors.Is(err, unix.EINVAL) || k.block {
		return n, err
	}
	// A file's filesystem may want larger blocks than a disk has sectors.
	if err := k.undirect(); err != nil {
		return 0, err
	}
	return do(int(k.f.Fd()), p, off)
}

// undirect makes a file go through the page cache.
func (k *kernel) undirect() error {
	flags, err := unix.FcntlInt(k.f.Fd(), unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(k.f.Fd(), unix.F_SETFL, flags&^unix.O_DIRECT)
	}
	if err != nil {
		return fmt.Errorf("open %s through the page cache: %w", k.f.Name(), err)
	}
	return nil
}

func (k *kernel) Zero(off, n int64) error {
	if k.block {
		span := [2]uint64{uint64(off), uint64(n)}
		return k.ioctl(unix.BLKZEROOUT, unsafe.Pointer(&span))
	}
	// A hole reads as zeros and takes no space.
	return unix.Fallocate(int(k.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func (k *kernel) Discard(off, n int64) error {
	span := [2]uint64{uint64(off), uint64(n)}
	return k.ioctl(unix.BLKDISCARD, unsafe.Pointer(&span)) // ENOTTY on a file
}

// Sync is fsync(2), which on a block device also flushes the disk's own cache.
func (k *kernel) Sync() error { return k.f.Sync() }

func (k *kernel) Close() error { return k.f.Close() }

func (k *kernel) ioctl(request uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, k.f.Fd(), uintptr(request), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
