package zstd

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// outputSlack lets the library copy in units of 16 bytes up to the end.
const outputSlack = 32

// work decodes gathered frames, one at a time, each into a batch.
func (d *decoder) work() {
	for {
		b, err := receive(d, d.batches)
		if err != nil {
			return
		}
		j, err := receive(d, d.frames)
		if err != nil {
			return
		}
		err = d.decodeWhole(j, b)
		d.arena.release(j.region)
		if err == nil && len(b.data) > 0 {
			j.out <- b // never waits: it is the only one
		} else {
			b.release()
		}
		j.finish(err)
	}
}

func (d *decoder) decodeWhole(j *job, b *batch) error {
	file := d.arena.bytes(j.region)
	b.grow(j.need + outputSlack)
	if n := d.hollow.knows(file); n > 0 {
		b.data = b.data[:n]
		b.add(n, true)
		return nil
	}
	data, err := d.whole.DecodeAll(file, b.data)
	if err != nil {
		return d.locate(j, err)
	}
	b.data = data
	for rest := data; len(rest) > 0; {
		var piece []byte
		var zeros bool
		piece, rest, zeros = cutPiece(rest)
		b.add(int64(len(piece)), zeros)
	}
	d.hollow.learn(file, b)
	return nil
}

// hollow remembers a short frame that was nothing but zeros. A disk image in frames of
// one size has many of them, all the same, and expanding their blocks took a third
// of the time of an image two thirds zeros.
type hollow struct {
	mu    sync.Mutex
	file  []byte // compressed
	bytes int64  // decoded
}

// maxHollow is more than 16 MiB of zeros take in blocks of 128 KiB.
const maxHollow = 4 << 10

// knows returns how many zeros a frame is, or 0 if it isn't the one that is remembered.
func (h *hollow) knows(file []byte) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(file) == 0 || !bytes.Equal(file, h.file) {
		return 0
	}
	return h.bytes
}

// learn remembers the frame of a batch if that is nothing but zeros.
func (h *hollow) learn(file []byte, b *batch) {
	if len(file) > maxHollow || len(b.spans) != 1 || !b.spans[0].zeros {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.file, h.bytes = append(h.file[:0], file...), b.spans[0].n
}

// locate decodes a frame again, block by block, to find the one at which the library
// failed with err.
func (d *decoder) locate(j *job, err error) error {
	file := d.arena.bytes(j.region)
	in := newBlocks(j.frame, func() ([]byte, error) {
		part := file
		if file = nil; part == nil {
			return nil, io.EOF
		}
		return part, nil
	})
	z, again := zstd.NewReader(in, d.options(1)...)
	if again != nil {
		return d.verdict(j, in, err)
	}
	defer z.Close()
	if _, again = z.WriteTo(&discarder{d, in}); again != nil {
		err = again
	}
	return d.verdict(j, in, err)
}

// discarder counts blocks.
type discarder struct {
	d  *decoder
	in *blocks
}

func (w *discarder) Write(p []byte) (int, error) {
	w.in.written()
	select {
	case <-w.d.stopped:
		return 0, errStopped
	default:
		return len(p), nil
	}
}

// verdict says what an error of the library means.
func (d *decoder) verdict(j *job, in *blocks, err error) error {
	if failed := in.failure(); failed != nil && errors.Is(err, failed) {
		return failed
	}
	switch {
	case errors.Is(err, errStopped):
		return errStopped
	case errors.Is(err, zstd.ErrCRCMismatch):
		return &Error{Kind: Checksum, Offset: in.end() - checksumSize}
	case errors.Is(err, zstd.ErrFrameSizeExceeded), errors.Is(err, zstd.ErrFrameSizeMismatch):
		return contentMismatch(j.frame)
	}
	return &Error{Kind: Corrupt, Offset: in.at(), Detail: err.Error()}
}
