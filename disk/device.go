package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"reimager/report"
)

// Device is a disk (or a file in its place) that is open for direct reading and
// writing, past the page cache. Offsets, lengths and buffers have to be multiples
// of the sector size; Buffer makes such buffers.
type Device struct {
	f      *os.File
	path   string
	bytes  int64
	sector int
	block  bool
}

// Open opens a whole disk for writing. It fails when anything on it is mounted
// or claimed, and never creates a file.
func Open(path string) (*Device, error) {
	// O_EXCL without O_CREAT claims a block device: open(2).
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT|unix.O_EXCL|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, report.Hint(fmt.Errorf("open %s: something on it is mounted or holds it: %w", path, err), "unmount its filesystems, stop its LVM and RAID sets, swapoff")
	}
	if err != nil {
		return nil, fmt.Errorf("open disk: %w", err)
	}
	d, err := newDevice(f, path)
	if err == nil && !d.block {
		err = fmt.Errorf("open %s: not a block device", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return d, nil
}

// OpenFile opens an existing regular file in place of a disk.
func OpenFile(path string) (*Device, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		// Some filesystems know no direct writing; a disk always does.
		f, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open disk image: %w", err)
	}
	d, err := newDevice(f, path)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return d, nil
}

func newDevice(f *os.File, path string) (*Device, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("stat disk: %w", err)
	}
	d := &Device{f: f, path: path, sector: 512, bytes: info.Size()}
	if info.Mode()&os.ModeType == 0 {
		return d, nil
	}
	if info.Mode()&os.ModeDevice == 0 || info.Mode()&os.ModeCharDevice != 0 {
		return nil, fmt.Errorf("open %s: neither a block device nor a file", path)
	}
	d.block = true
	if d.sector, err = unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET); err != nil {
		return nil, fmt.Errorf("get sector size of %s: %w", path, err)
	}
	if err := d.ioctl(unix.BLKGETSIZE64, unsafe.Pointer(&d.bytes)); err != nil {
		return nil, fmt.Errorf("get size of %s: %w", path, err)
	}
	return d, nil
}

// Buffer returns n bytes at the beginning of a page, as direct I/O needs them.
func Buffer(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("allocate %d bytes: %w", n, err)
	}
	return b, nil
}

// FreeBuffer gives a buffer of Buffer back.
func FreeBuffer(b []byte) error { return unix.Munmap(b) }

// Bytes is the size of the disk.
func (d *Device) Bytes() int64 { return d.bytes }

// SectorSize is the size of a logical sector in bytes.
func (d *Device) SectorSize() int { return d.sector }

// IsDisk tells a block device from a file in its place.
func (d *Device) IsDisk() bool { return d.block }

// Path is the name that the disk was opened by.
func (d *Device) Path() string { return d.path }

// Close closes the disk.
func (d *Device) Close() error { return d.f.Close() }

// SectorError is a sector that the disk would not read or write.
type SectorError struct {
	Op     string // "read", "write" or "zero"
	Path   string
	Sector int64 // logical block address
	Err    error
}

func (e *SectorError) Error() string {
	return fmt.Sprintf("%s %s: sector %d: %v", e.Op, e.Path, e.Sector, e.Err)
}

func (e *SectorError) Unwrap() error { return e.Err }

// sectorAttempts is how often a single sector is tried before it counts as bad:
// a drive remaps a weak one on a write, so that the next write goes through.
const sectorAttempts = 3

// WriteAt writes p at an offset. An error is a *SectorError that names the first
// sector which could not be written after several attempts.
func (d *Device) WriteAt(p []byte, off int64) error {
	return d.each("write", p, off, unix.Pwrite)
}

// ReadAt fills p from an offset, with the same errors as WriteAt.
func (d *Device) ReadAt(p []byte, off int64) error {
	return d.each("read", p, off, unix.Pread)
}

type transfer func(fd int, p []byte, off int64) (int, error)

// each does the transfer whole if it can; otherwise by halves down to a sector,
// so that what can be transferred is, and the bad sector has a number.
func (d *Device) each(op string, p []byte, off int64, do transfer) error {
	err := d.whole(p, off, do)
	if err == nil {
		return nil
	}
	if len(p) > d.sector {
		half := len(p) / 2 / d.sector * d.sector
		if err := d.each(op, p[:half], off, do); err != nil {
			return err
		}
		return d.each(op, p[half:], off+int64(half), do)
	}
	for range sectorAttempts - 1 {
		if err = d.whole(p, off, do); err == nil {
			return nil
		}
	}
	return &SectorError{Op: op, Path: d.path, Sector: off / int64(d.sector), Err: err}
}

func (d *Device) whole(p []byte, off int64, do transfer) error {
	cached := d.block
	for len(p) > 0 {
		n, err := do(int(d.f.Fd()), p, off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EINVAL) && !cached:
			// A file's filesystem may want larger blocks than a disk has sectors.
			cached = true
			if err := d.undirect(); err != nil {
				return err
			}
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("disk ends at byte %d of %d", off, d.bytes)
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// undirect makes a file go through the page cache.
func (d *Device) undirect() error {
	flags, err := unix.FcntlInt(d.f.Fd(), unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(d.f.Fd(), unix.F_SETFL, flags&^unix.O_DIRECT)
	}
	if err != nil {
		return fmt.Errorf("open %s through the page cache: %w", d.path, err)
	}
	return nil
}

// zeroPiece bounds one BLKZEROOUT or BLKDISCARD: the call names no sector when it
// fails and cannot be interrupted.
const zeroPiece = 64 << 20

// Zero makes n bytes read as zeros. Where the disk has no quick way, or fails
// at it, zeros are written, so that an error names its sector.
func (d *Device) Zero(off, n int64) error {
	for n > 0 {
		piece := min(n, zeroPiece)
		if err := d.zeroFast(off, piece); err != nil {
			if err := d.writeZeros(off, piece); err != nil {
				return err
			}
		}
		off, n = off+piece, n-piece
	}
	return nil
}

func (d *Device) zeroFast(off, n int64) error {
	if d.block {
		span := [2]uint64{uint64(off), uint64(n)}
		return d.ioctl(unix.BLKZEROOUT, unsafe.Pointer(&span))
	}
	// A hole reads as zeros and takes no space.
	return unix.Fallocate(int(d.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func (d *Device) writeZeros(off, n int64) error {
	zeros, err := Buffer(int(min(n, 1<<20)))
	if err != nil {
		return err
	}
	for n > 0 && err == nil {
		piece := min(n, int64(len(zeros)))
		err = d.WriteAt(zeros[:piece], off)
		off, n = off+piece, n-piece
	}
	return errors.Join(err, FreeBuffer(zeros))
}

// Discard tells the disk that n bytes are not needed. A disk that cannot is no
// error: discarding promises nothing about what is read afterwards.
func (d *Device) Discard(off, n int64) error {
	for n > 0 {
		piece := min(n, zeroPiece)
		span := [2]uint64{uint64(off), uint64(piece)}
		err := d.ioctl(unix.BLKDISCARD, unsafe.Pointer(&span))
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) { // ENOTTY: a file
			return nil
		}
		if err != nil {
			return fmt.Errorf("discard %d bytes at %d of %s: %w", piece, off, d.path, err)
		}
		off, n = off+piece, n-piece
	}
	return nil
}

// Flush returns when everything written is on the medium: fsync(2) on a block
// device also flushes the disk's own cache.
func (d *Device) Flush() error {
	if err := d.f.Sync(); err != nil {
		return fmt.Errorf("flush %s: %w", d.path, err)
	}
	return nil
}

// ErrNotPartitioned says that the kernel looks for no partitions on a device, such as
// a loop device that was not asked to.
var ErrNotPartitioned = errors.New("the kernel does not partition this device")

// Reread makes the kernel read the partition table anew.
func (d *Device) Reread(ctx context.Context) error {
	err := whileBusy(ctx, func() error { return d.ioctl(unix.BLKRRPART, nil) })
	if errors.Is(err, unix.EINVAL) {
		err = ErrNotPartitioned
	}
	if err != nil {
		return fmt.Errorf("reread partition table of %s: %w", d.path, err)
	}
	return nil
}

// whileBusy does again what fails with EBUSY: probing of old partitions may hold them
// for a moment yet.
func whileBusy(ctx context.Context, do func() error) error {
	const attempts, pause = 50, 100 * time.Millisecond
	var err error
	for range attempts {
		if err = do(); !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
	return fmt.Errorf("still busy after %s: %w", attempts*pause, err)
}

func (d *Device) ioctl(request uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.f.Fd(), uintptr(request), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
