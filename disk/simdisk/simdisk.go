// Package simdisk is a disk with a volatile write cache, for tests of power cuts. It
// counts what is done to it, stops at any operation, and then is any disk that the cut
// could have left: of what was not flushed each write may be there, be lost, or be
// there without the ones before it, and the one under way may be torn.
//
// Contents are pages that never change once they are written, so that a copy of a disk
// costs a slice of pointers, and two disks are compared page by page.
package simdisk

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"reimager/disk"
)

// SectorBytes is what is written whole or not at all.
const SectorBytes = 512

const pageBytes = 4096

// Content is what a disk holds. It is never changed, only replaced.
type Content []*[pageBytes]byte

// New is a content of whole pages.
func New(data []byte) Content {
	if len(data)%pageBytes != 0 {
		panic(fmt.Sprintf("simulated disk of %d bytes: expected whole pages of %d", len(data), pageBytes))
	}
	c := make(Content, len(data)/pageBytes)
	for i := range c {
		c[i] = (*[pageBytes]byte)(bytes.Clone(data[i*pageBytes:][:pageBytes]))
	}
	return c
}

// Bytes is the size of the disk.
func (c Content) Bytes() int64 { return int64(len(c)) * pageBytes }

// ReadAt implements io.ReaderAt, for whoever looks at a disk from outside.
func (c Content) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) && off < c.Bytes() {
		k := copy(p[n:], c[off/pageBytes][off%pageBytes:])
		n, off = n+k, off+int64(k)
	}
	if n < len(p) {
		return n, errors.New("simulated disk: it ends")
	}
	return n, nil
}

// Slice returns a copy of some bytes.
func (c Content) Slice(off, n int64) []byte {
	p := make([]byte, n)
	if _, err := c.ReadAt(p, off); err != nil {
		panic(err)
	}
	return p
}

// Differ returns the first byte of a range in which two disks differ; -1: none.
func (c Content) Differ(other Content, off, n int64) int64 {
	for end := off + n; off < end; {
		page, at := off/pageBytes, off%pageBytes
		k := min(pageBytes-at, end-off)
		if a, b := c[page], other[page]; a != b && !bytes.Equal(a[at:at+k], b[at:at+k]) {
			for a[at] == b[at] {
				at++
			}
			return page*pageBytes + at
		}
		off += k
	}
	return -1
}

// put writes n bytes: data, or those of a page that is the same all over.
func (c Content) put(off, n int64, data []byte, same *[pageBytes]byte) {
	for n > 0 {
		page, at := off/pageBytes, off%pageBytes
		k := min(pageBytes-at, n)
		from := same[:k]
		if data != nil {
			from, data = data[:k], data[k:]
		}
		if k == pageBytes && data == nil {
			c[page] = same
		} else {
			fresh := *c[page]
			copy(fresh[at:], from)
			c[page] = &fresh
		}
		off, n = off+k, n-k
	}
}

// Kind is what an operation does.
type Kind string

// The operations that are counted: all that may change what a disk holds.
const (
	Write   Kind = "write"
	Zero    Kind = "zero"
	Discard Kind = "discard"
	Flush   Kind = "flush"
)

// Operation is one of them.
type Operation struct {
	Kind     Kind
	Off, Len int64
	data     []byte // of a write
}

func (o Operation) String() string {
	if o.Kind == Flush {
		return string(o.Kind)
	}
	return fmt.Sprintf("%s of %d bytes at %d", o.Kind, o.Len, o.Off)
}

// apply does it to a content, from a byte of it on, for some bytes.
func (o Operation) apply(c Content, from, n int64) {
	same := zeros()
	if o.Kind == Discard {
		same = discarded()
	}
	var data []byte
	if o.data != nil {
		data = o.data[from : from+n : from+n]
	}
	c.put(o.Off+from, n, data, same)
}

var zeros = sync.OnceValue(func() *[pageBytes]byte { return new([pageBytes]byte) })

// discarded is what is read where the disk was told that nothing is needed. Anything may
// be; what nobody has written shows up.
var discarded = sync.OnceValue(func() *[pageBytes]byte { return (*[pageBytes]byte)(bytes.Repeat([]byte{0xdb}, pageBytes)) })

// ErrOff says that the power is off.
var ErrOff = errors.New("simulated disk: the power is off")

// Disk is a disk under power. It is a disk.Medium.
type Disk struct {
	// StopAt is the operation at which the power goes, counted from 1; 0: never.
	StopAt int
	// Before is called before each operation takes effect, with its number; it may be nil.
	Before func(n int, o Operation)
	// Bad tells whether an operation meets a bad spot: it then fails. The kind of a read
	// is empty. It may be nil.
	Bad func(o Operation) bool
	// Lies says that a flush does nothing, as on disks that win benchmarks.
	Lies bool
	// LieAt is the one operation that does nothing and says nothing. 0: none.
	LieAt int
	// FailAt is an operation that fails once, as by a bad cable; Fails says how. 0: none.
	FailAt int
	Fails  Failure

	mu       sync.Mutex
	medium   Content // what was flushed
	now      Content // what is read
	pending  []Operation
	n        int
	off      bool
	underway Operation // as the power went
	unread   map[int64]bool
}

// Failure is what an operation that fails has done.
type Failure string

// They are settled by reading back.
const (
	FailBefore Failure = "before" // nothing
	FailAfter  Failure = "after"  // all, only nobody says so
)

// Power gives a content power.
func (c Content) Power() *Disk {
	return &Disk{medium: append(Content(nil), c...), now: append(Content(nil), c...)}
}

// Device is the disk as the code under test gets it.
func (d *Disk) Device() *disk.Device {
	return disk.NewDevice(d, "/dev/sim", d.now.Bytes(), SectorBytes)
}

// Operations is how many there were.
func (d *Disk) Operations() int { return d.n }

// Now is what is read from the disk.
func (d *Disk) Now() Content { return append(Content(nil), d.now...) }

// Off tells whether the power has gone.
func (d *Disk) Off() bool { return d.off }

// Pread implements disk.Medium.
func (d *Disk) Pread(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return 0, ErrOff
	}
	if d.bad(Operation{Off: off, Len: int64(len(p))}) {
		return 0, unix.EIO
	}
	for s := range d.unread {
		if s >= off/SectorBytes && s < (off+int64(len(p)))/SectorBytes {
			return 0, unix.EIO
		}
	}
	return d.now.ReadAt(p, off)
}

// Pwrite implements disk.Medium.
func (d *Disk) Pwrite(p []byte, off int64) (int, error) {
	if err := d.do(Operation{Kind: Write, Off: off, Len: int64(len(p)), data: bytes.Clone(p)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Zero implements disk.Medium.
func (d *Disk) Zero(off, n int64) error { return d.do(Operation{Kind: Zero, Off: off, Len: n}) }

// Discard implements disk.Medium.
func (d *Disk) Discard(off, n int64) error { return d.do(Operation{Kind: Discard, Off: off, Len: n}) }

// Sync implements disk.Medium.
func (d *Disk) Sync() error { return d.do(Operation{Kind: Flush}) }

// Close implements disk.Medium.
func (d *Disk) Close() error { return nil }

func (d *Disk) bad(o Operation) bool { return d.Bad != nil && d.Bad(o) }

func (d *Disk) do(o Operation) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return ErrOff
	}
	if o.Kind != Flush && (o.Off < 0 || o.Len <= 0 || o.Off%SectorBytes != 0 || o.Len%SectorBytes != 0 || o.Off+o.Len > d.now.Bytes()) {
		return unix.EINVAL
	}
	d.n++
	if d.Before != nil {
		d.Before(d.n, o)
	}
	if d.n == d.StopAt {
		d.off, d.underway = true, o
		return ErrOff
	}
	if d.bad(o) {
		return unix.EIO
	}
	if d.n == d.FailAt && d.Fails == FailBefore {
		return unix.EIO
	}
	d.effect(o)
	if d.n == d.FailAt {
		return unix.EIO
	}
	return nil
}

func (d *Disk) effect(o Operation) {
	if o.Kind == Flush && d.Lies || d.n == d.LieAt {
		return
	}
	if o.Kind == Flush {
		d.medium, d.pending = append(Content(nil), d.now...), nil
		return
	}
	o.apply(d.now, 0, o.Len)
	d.pending = append(d.pending, o)
	for s := range d.unread {
		if o.Kind != Discard && s >= o.Off/SectorBytes && s < (o.Off+o.Len)/SectorBytes {
			delete(d.unread, s)
		}
	}
}
