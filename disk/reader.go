package disk

import (
	"errors"
	"fmt"
	"io"
)

// readerPiece is what a Reader reads at a time: a disk is at full speed with it, and two
// of them fit a small machine.
const readerPiece = 4 << 20

// Reader reads n bytes from an offset on, which is a multiple of the sector size, past
// the page cache. The next piece is read while the caller is busy with one. It is an
// io.WriterTo, too, which spares a copy. Close it.
func (d *Device) Reader(off, n int64) io.ReadCloser {
	return &reader{dev: d, off: off, left: n, ahead: make(chan piece, 1)}
}

type reader struct {
	dev    *Device
	off    int64 // where the piece that comes after the next one begins
	left   int64 // from there on
	ahead  chan piece
	coming bool // a piece is being read

	// One buffer is read from while the other is filled. They are not made anew for each
	// piece: to have the kernel clear them costs as much as a fast disk takes to fill them.
	buffers [2][]byte
	next    int    // which is filled next
	rest    []byte // of the piece that is read
	err     error
}

// piece is a part of the disk.
type piece struct {
	data []byte
	err  error
}

// take says where the next piece is, and how it is read.
func (r *reader) take() func() piece {
	sector := int64(r.dev.sector)
	used := min(r.left, readerPiece)
	off, whole := r.off, (used+sector-1)/sector*sector
	r.off, r.left = r.off+used, r.left-used
	buffer := &r.buffers[r.next]
	r.next = 1 - r.next
	return func() piece {
		if *buffer == nil { // the first piece, or the second, is the largest
			made, err := Buffer(int(whole))
			if err != nil {
				return piece{err: err}
			}
			*buffer = made
		}
		err := r.dev.ReadAt((*buffer)[:whole], off)
		return piece{(*buffer)[:used], err}
	}
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.fill(); err != nil {
		return 0, err
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// WriteTo hands over each piece where it was read to.
func (r *reader) WriteTo(w io.Writer) (total int64, err error) {
	for {
		if err := r.fill(); err == io.EOF {
			return total, nil
		} else if err != nil {
			return total, err
		}
		n, err := w.Write(r.rest)
		r.rest, total = r.rest[n:], total+int64(n)
		if err != nil {
			return total, err
		}
	}
}

// fill goes on to the next piece where one was read to its end, and begins to read the
// one after it.
func (r *reader) fill() error {
	for len(r.rest) == 0 {
		if r.err != nil {
			return r.err
		}
		var now piece
		switch {
		case r.coming:
			now, r.coming = <-r.ahead, false
		case r.left > 0:
			now = r.take()()
		default:
			now.err = io.EOF
		}
		if r.err = now.err; r.err != nil {
			return r.err
		}
		r.rest = now.data
		if r.coming = r.left > 0; r.coming {
			read := r.take()
			go func() { r.ahead <- read() }()
		}
	}
	return nil
}

// Close gives the memory back.
func (r *reader) Close() error {
	if r.coming {
		<-r.ahead
		r.coming = false
	}
	var err error
	for i, b := range r.buffers {
		if b != nil {
			err = errors.Join(err, FreeBuffer(b))
		}
		r.buffers[i] = nil
	}
	r.rest, r.err = nil, fmt.Errorf("read %s: closed", r.dev.path)
	return err
}
