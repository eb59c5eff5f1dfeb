package bzip2

import (
	"fmt"
	"io"
	"io/fs"
	"runtime"
)

// maxZeros is where a run of zeros is cut, in bytes, so that a caller who waits
// for the next chunk sees progress.
const maxZeros = 64 << 20

// Options says how to decode. The zero value is good.
type Options struct {
	// Workers is how many blocks are decoded at a time, GOMAXPROCS if it isn't
	// positive. Each takes up to 11 MiB; 4 MiB are needed besides.
	Workers int
}

// Chunk is a stretch of the decoded file: Data, or if there is none, Zeros.
type Chunk struct {
	// Data is valid until the next call on the Reader. It may hold zeros, too.
	Data []byte
	// Zeros is the length of a run of zero bytes, at least 4 KiB.
	Zeros int64
}

// Reader decodes a bzip2 file: Next for its content with runs of zeros set
// apart, or Read or WriteTo for all of its bytes. The three go on from where
// another has stopped. Close must be called, also after an error.
//
// The error at the end is io.EOF if the file was whole and all checksums right,
// an *Error if not, or one that wraps the source's. All that precedes the place
// of an error has been delivered before it, the block whose checksum is wrong
// included.
type Reader struct {
	src     io.Reader
	workers int
	d       *decoder
	started bool

	batch *batch // being delivered
	spans []span // of it, what remains
	data  []byte

	zeros int64 // met, but not yet delivered
	err   error
	rest  Chunk // what Read has left of a chunk
	page  [minZeros]byte
}

// NewReader makes a Reader of src, which is read ahead of what is decoded.
func NewReader(src io.Reader, opts Options) *Reader {
	workers := opts.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	return &Reader{src: src, workers: workers, d: newDecoder(workers)}
}

// Close ends all work. A Read of the source that is under way is waited for;
// one that may never return has to be ended from outside. Close may be called
// while another goroutine waits in one of the other methods, which then returns
// an error that wraps fs.ErrClosed, as they all do from then on.
func (r *Reader) Close() error {
	r.d.close()
	return nil
}

func errClosed() error { return fmt.Errorf("read bzip2: %w", fs.ErrClosed) }

// Next returns the next chunk, of any length but zero.
func (r *Reader) Next() (Chunk, error) {
	if r.d.isClosed() {
		return Chunk{}, errClosed()
	}
	if c := r.rest; c.Data != nil || c.Zeros > 0 {
		r.rest = Chunk{}
		return c, nil
	}
	for {
		if len(r.spans) == 0 && r.err == nil {
			r.advance()
		}
		if len(r.spans) > 0 && r.spans[0].zeros && r.zeros < maxZeros {
			r.zeros += r.spans[0].n
			r.spans = r.spans[1:]
			continue
		}
		if r.zeros > 0 {
			return r.takeZeros(), nil
		}
		if len(r.spans) > 0 {
			n := r.spans[0].n
			c := Chunk{Data: r.data[:n:n]}
			r.data = r.data[n:]
			r.spans = r.spans[1:]
			return c, nil
		}
		if r.err != nil {
			return Chunk{}, r.err
		}
	}
}

// advance gets the next batch or the error at the end.
func (r *Reader) advance() {
	if !r.started {
		r.started = true
		r.d.begin(r.src, r.workers)
	}
	used := r.batch
	r.batch = nil
	if r.batch, r.err = r.d.next(used); r.err == nil {
		r.spans, r.data = r.batch.spans, r.batch.data[:]
	}
}

// takeZeros returns the zeros met so far, as data if they are few.
func (r *Reader) takeZeros() Chunk {
	n := r.zeros
	r.zeros = 0
	if n < minZeros {
		clear(r.page[:n]) // the caller may have written to it
		return Chunk{Data: r.page[:n:n]}
	}
	return Chunk{Zeros: n}
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c, err := r.Next()
	if err != nil {
		return 0, err
	}
	if c.Data == nil {
		n := int(min(int64(len(p)), c.Zeros))
		clear(p[:n])
		r.rest = Chunk{Zeros: c.Zeros - int64(n)}
		return n, nil
	}
	n := copy(p, c.Data)
	if n < len(c.Data) {
		r.rest = Chunk{Data: c.Data[n:]}
	}
	return n, nil
}

// WriteTo implements io.WriterTo.
func (r *Reader) WriteTo(w io.Writer) (written int64, err error) {
	var zeros []byte
	for {
		c, err := r.Next()
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		if c.Zeros > 0 && zeros == nil {
			zeros = make([]byte, 1<<20)
		}
		for len(c.Data) > 0 || c.Zeros > 0 {
			part := c.Data
			if c.Zeros > 0 {
				part = zeros[:min(int64(len(zeros)), c.Zeros)]
				c.Zeros -= int64(len(part))
			}
			c.Data = nil
			n, err := w.Write(part)
			written += int64(n)
			if err == nil && n < len(part) {
				err = io.ErrShortWrite
			}
			if err != nil {
				return written, err
			}
		}
	}
}
