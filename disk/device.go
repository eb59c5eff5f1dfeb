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
	medium Medium
	path   string
	bytes  int64
	sector int
	block  bool
}

// NewDevice is a disk of that many bytes, in sectors of that size, on any medium. The
// kernel knows nothing of its partitions.
func NewDevice(m Medium, path string, bytes int64, sector int) *Device {
	return &Device{medium: m, path: path, bytes: bytes, sector: sector, block: true}
}

// Open opens a whole disk for writing. It fails when anything on it is mounted
// or claimed, and never creates a file.
func Open(path string) (*Device, error) {
	return open(path, unix.O_EXCL) // without O_CREAT it claims a block device: open(2)
}

// OpenShared opens a whole disk for writing although something on it may be mounted: for
// what surely lies outside of every filesystem.
func OpenShared(path string) (*Device, error) { return open(path, 0) }

func open(path string, claim int) (*Device, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT|unix.O_NOFOLLOW|claim, 0)
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
	k := &kernel{f: f}
	d := &Device{medium: k, path: path, sector: 512, bytes: info.Size()}
	if info.Mode()&os.ModeType == 0 {
		return d, nil
	}
	if info.Mode()&os.ModeDevice == 0 || info.Mode()&os.ModeCharDevice != 0 {
		return nil, fmt.Errorf("open %s: neither a block device nor a file", path)
	}
	d.block, k.block = true, true
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
func (d *Device) Close() error { return d.medium.Close() }

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
	return d.each("write", p, off, d.medium.Pwrite)
}

// ReadAt fills p from an offset, with the same errors as WriteAt.
func (d *Device) ReadAt(p []byte, off int64) error {
	return d.each("read", p, off, d.medium.Pread)
}

type transfer func(p []byte, off int64) (int, error)

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
	for len(p) > 0 {
		n, err := do(p, off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("disk ends at byte %d of %d", off, d.bytes)
		}
		p, off = p[n:], off+int64(n)
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
		if d.medium.Zero(off, piece) != nil {
			if err := d.WriteZeros(off, piece); err != nil {
				return err
			}
		}
		off, n = off+piece, n-piece
	}
	return nil
}

// WriteZeros writes n zeros, for those who want them written and not promised.
func (d *Device) WriteZeros(off, n int64) error {
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
		err := d.medium.Discard(off, piece)
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

// Flush returns when everything written is on the medium.
func (d *Device) Flush() error {
	if err := d.medium.Sync(); err != nil {
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

// ioctl asks the kernel, if the disk is one of its own.
func (d *Device) ioctl(request uint, arg unsafe.Pointer) error {
	k, ok := d.medium.(*kernel)
	if !ok {
		return unix.ENOTTY
	}
	return k.ioctl(request, arg)
}
