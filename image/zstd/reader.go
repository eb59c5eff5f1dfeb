package zstd

import (
	"fmt"
	"io"
	"io/fs"
	"runtime"
)

// DefaultMaxWindow is the largest window, in bytes, if Options doesn't say.
const DefaultMaxWindow = 64 << 20

// Options says how to decode. The zero value is good.
type Options struct {
	// Workers is how many small frames are decoded at a time, GOMAXPROCS if it isn't
	// positive. Each takes what it decodes to, at most 16 MiB, and so does the one
	// that the caller has. All that are read and not yet decoded take 8 MiB a
	// worker, but at least 17 MiB, outside of the heap.
	Workers int
	// MaxWindow is the largest window, in bytes, that a frame may ask for,
	// DefaultMaxWindow if it isn't positive. A large frame takes as much as its
	// window and 5 MiB.
	MaxWindow int64
	// NoChecksum leaves the content's checksums to a caller who has better ones.
	NoChecksum bool
}

// Chunk is a stretch of the decoded file: Data, or if there is none, Zeros.
type Chunk struct {
	// Data is valid until the next call on the Reader. It may hold zeros, too.
	Data []byte
	// Zeros is the length of a run of zero bytes, at least 4 KiB. The next chunk
	// may go on with it.
	Zeros int64
}

// Reader decodes a zstd file: Next for its content with runs of zeros set apart, or
// Read or WriteTo for all of its bytes. The three go on from where another has
// stopped. Close must be called, also after an error.
//
// The error at the end is io.EOF if the file was whole and all checksums right, an
// *Error if not, or one that wraps the source's. All frames before the one with an
// error have been delivered before it, and perhaps a part of that one.
type Reader struct {
	d *decoder

	batch *batch // being delivered
	spans []span // of it, what remains
	data  []byte

	some bool // content was delivered
	err  error
	rest Chunk // what Read has left of a chunk
}

// NewReader makes a Reader of src, which is read ahead of what is decoded.
func NewReader(src io.Reader, opts Options) *Reader {
	if opts.Workers <= 0 {
		opts.Workers = runtime.GOMAXPROCS(0)
	}
	if opts.MaxWindow <= 0 {
		opts.MaxWindow = DefaultMaxWindow
	}
	return &Reader{d: newDecoder(src, opts, defaultSmall)}
}

// Close ends all work. A Read of the source that is under way is waited for; one
// that may never return has to be ended from outside. Close may be called while
// another goroutine waits in one of the other methods, which then returns an error
// that wraps fs.ErrClosed, as they all do from then on.
func (r *Reader) Close() error { return r.d.close() }

func errClosed() error { return fmt.Errorf("read zstd: %w", fs.ErrClosed) }

// Next returns the next chunk, of any length but zero.
func (r *Reader) Next() (Chunk, error) {
	if r.d.isClosed() {
		return Chunk{}, errClosed()
	}
	if c := r.rest; c.Data != nil || c.Zeros > 0 {
		r.rest = Chunk{}
		return c, nil
	}
	if len(r.spans) == 0 && r.err == nil {
		r.advance()
	}
	if r.err != nil {
		return Chunk{}, r.err
	}
	s := r.spans[0]
	part := r.data[:s.n:s.n]
	r.spans, r.data = r.spans[1:], r.data[s.n:]
	if s.zeros {
		return Chunk{Zeros: s.n}, nil
	}
	return Chunk{Data: part}, nil
}

// advance gets the next batch or the error at the end.
func (r *Reader) advance() {
	if r.err = r.d.begin(); r.err != nil {
		return
	}
	used := r.batch
	r.batch = nil
	if r.batch, r.err = r.d.next(used); r.err == nil {
		r.spans, r.data, r.some = r.batch.spans, r.batch.data, true
	}
	if r.err == io.EOF && !r.some {
		r.err = &Error{Kind: NoContent, Offset: r.d.source.offset} // where the walk has ended
	}
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
	for {
		c, err := r.Next()
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		for len(c.Data) > 0 || c.Zeros > 0 {
			part := c.Data
			if c.Zeros > 0 {
				part = zeroPiece[:min(pieceSize, c.Zeros)]
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
