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
// the page cache. The next piece is read while the caller is busy with one. Close it.
func (d *Device) Reader(off, n int64) io.ReadCloser {
	return &reader{dev: d, off: off, left: n, ahead: make(chan piece, 1)}
}

type reader struct {
	dev    *Device
	off    int64 // where the piece that comes after the next one begins
	left   int64 // from there on
	ahead  chan piece
	coming bool // a piece is being read

	now  piece
	rest []byte // of now
	err  error
}

// piece is a part of the disk in a buffer of its own.
type piece struct {
	buf  []byte
	used int
	err  error
}

// take says where the next piece is, and how it is read.
func (r *reader) take() func() piece {
	sector := int64(r.dev.sector)
	used := min(r.left, readerPiece)
	off, whole := r.off, (used+sector-1)/sector*sector
	r.off, r.left = r.off+used, r.left-used
	return func() piece {
		buf, err := Buffer(int(whole))
		if err == nil {
			err = r.dev.ReadAt(buf, off)
		}
		return piece{buf, int(used), err}
	}
}

func (r *reader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.err = r.turn()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// turn goes on to the next piece, and begins to read the one after it.
func (r *reader) turn() error {
	if err := r.free(); err != nil {
		return err
	}
	switch {
	case r.coming:
		r.now, r.coming = <-r.ahead, false
	case r.left > 0:
		r.now = r.take()()
	default:
		return io.EOF
	}
	if r.now.err != nil {
		return r.now.err
	}
	r.rest = r.now.buf[:r.now.used]
	if r.coming = r.left > 0; r.coming {
		read := r.take()
		go func() { r.ahead <- read() }()
	}
	return nil
}

func (r *reader) free() error {
	buf := r.now.buf
	r.now, r.rest = piece{}, nil
	if buf == nil {
		return nil
	}
	return FreeBuffer(buf)
}

// Close gives the memory back.
func (r *reader) Close() error {
	err := r.free()
	if r.coming {
		r.now, r.coming = <-r.ahead, false
		err = errors.Join(err, r.free())
	}
	r.err = fmt.Errorf("read %s: closed", r.dev.path)
	return err
}
