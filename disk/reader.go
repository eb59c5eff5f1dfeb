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
	r := &reader{dev: d, off: off, left: n, pieces: make(chan piece, 1)}
	r.next()
	return r
}

type reader struct {
	dev    *Device
	off    int64 // where the piece that comes after the next one begins
	left   int64 // from there on
	pieces chan piece
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

// next begins to read the next piece.
func (r *reader) next() {
	r.coming = r.left > 0
	if !r.coming {
		return
	}
	sector := int64(r.dev.sector)
	used := min(r.left, readerPiece)
	off, whole := r.off, (used+sector-1)/sector*sector
	r.off, r.left = r.off+used, r.left-used
	go func() {
		buf, err := Buffer(int(whole))
		if err == nil {
			err = r.dev.ReadAt(buf, off)
		}
		r.pieces <- piece{buf, int(used), err}
	}()
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

// turn goes on to the next piece.
func (r *reader) turn() error {
	if err := r.free(); err != nil {
		return err
	}
	if !r.coming {
		return io.EOF
	}
	r.now = <-r.pieces
	r.coming = false
	if r.now.err != nil {
		return r.now.err
	}
	r.rest = r.now.buf[:r.now.used]
	r.next()
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
		r.now, r.coming = <-r.pieces, false
		err = errors.Join(err, r.free())
	}
	r.err = fmt.Errorf("read %s: closed", r.dev.path)
	return err
}
