package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
)

// RangeBytes is the size of the ranges that an image is cut into, digested and
// written by: small enough to be verified in memory before it is written, large
// enough for a disk at full speed.
const RangeBytes = 4 << 20

// Range is a piece of an image. All ranges but the last are RangeBytes long.
type Range struct {
	Index int
	Off   int64
	Zero  bool // it holds only zeros; the bytes of Data are then undefined
	Data  []byte
}

// Digest is the SHA-256 of a range.
type Digest [sha256.Size]byte

// MarshalText writes a digest in hexadecimal.
func (d Digest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

// UnmarshalText reads what MarshalText has written.
func (d *Digest) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(d) {
		return fmt.Errorf("digest %q: expected %d hexadecimal digits", text, 2*len(d))
	}
	_, err := hex.Decode(d[:], text)
	return err
}

// Map is what a decoded image must be, range by range.
type Map struct {
	Bytes   int64    `json:"bytes"`   // of the decoded image
	Digests []Digest `json:"digests"` // one a range; an all-zero Digest stands for a range of zeros
}

// Zero tells whether range i holds only zeros.
func (m *Map) Zero(i int) bool { return m.Digests[i] == Digest{} }

// Range returns where range i lies.
func (m *Map) Range(i int) (off, n int64) {
	off = int64(i) * RangeBytes
	return off, min(RangeBytes, m.Bytes-off)
}

// Digest returns the digest of a range as the map keeps it.
func (r Range) Digest() Digest {
	if r.Zero {
		return Digest{}
	}
	return sha256.Sum256(r.Data)
}

// Check tells whether a range is what the map says.
func (m *Map) Check(r Range) error {
	if r.Index >= len(m.Digests) {
		return fmt.Errorf("image range at byte %d: behind the end of the image (%d bytes)", r.Off, m.Bytes)
	}
	if _, n := m.Range(r.Index); n != int64(len(r.Data)) {
		return fmt.Errorf("image range at byte %d: %d bytes, expected %d", r.Off, len(r.Data), n)
	}
	if got := r.Digest(); got != m.Digests[r.Index] {
		return fmt.Errorf("image range at byte %d: SHA-256 %x, expected %x", r.Off, got[:8], m.Digests[r.Index][:8])
	}
	return nil
}

// Pool is a fixed set of buffers of RangeBytes; it bounds the memory of a run.
type Pool struct{ free chan []byte }

// NewPool makes a pool of n buffers with the given allocator.
func NewPool(n int, allocate func(bytes int) ([]byte, error)) (*Pool, error) {
	p := &Pool{free: make(chan []byte, n)}
	for range n {
		b, err := allocate(RangeBytes)
		if err != nil {
			return nil, err
		}
		p.free <- b
	}
	return p, nil
}

// Release gives every buffer back to the allocator.
func (p *Pool) Release(free func([]byte) error) error {
	var all []error
	for range cap(p.free) {
		all = append(all, free(<-p.free))
	}
	return errors.Join(all...)
}

// Source delivers an image piece by piece, as Decoder.Next does. buf is memory that
// it may use.
type Source interface {
	Next(buf []byte) (Chunk, error)
}

// Each cuts what src delivers into ranges and hands each to work, several at a
// time and in any order. inspect sees them first, one by one and in order; it
// may be nil. It returns the number of bytes delivered. The first error of src,
// inspect or work ends it.
func Each(ctx context.Context, src Source, pool *Pool, inspect func(Range) error, work func(Range) error) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	jobs := make(chan Range)
	var workers sync.WaitGroup
	for range max(1, cap(pool.free)-1) {
		workers.Go(func() {
			for r := range jobs {
				if ctx.Err() == nil {
					if err := work(r); err != nil {
						cancel(err)
					}
				}
				pool.free <- r.Data[:RangeBytes]
			}
		})
	}
	n, err := cut(ctx, src, pool, inspect, jobs)
	close(jobs)
	workers.Wait()
	if cause := context.Cause(ctx); cause != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = cause
	}
	return n, err
}

func cut(ctx context.Context, src Source, pool *Pool, inspect func(Range) error, jobs chan<- Range) (int64, error) {
	var off int64
	pieces := &pieces{src: src}
	for i := 0; ctx.Err() == nil; i++ {
		var buf []byte
		select {
		case buf = <-pool.free:
		case <-ctx.Done():
			return off, ctx.Err()
		}
		n, zero, err := pieces.fill(buf[:RangeBytes])
		if err != nil && err != io.EOF {
			pool.free <- buf
			return off, err
		}
		if n == 0 {
			pool.free <- buf
			return off, nil
		}
		r := Range{Index: i, Off: off, Data: buf[:n], Zero: zero}
		off += int64(n)
		if inspect != nil {
			if err := inspect(r); err != nil {
				pool.free <- buf
				return off, err
			}
		}
		jobs <- r
		if err == io.EOF {
			return off, nil
		}
	}
	return off, ctx.Err()
}

// pieces puts the pieces of a source into ranges.
type pieces struct {
	src  Source
	left Chunk // of the last piece
}

// fill fills buf, or less at the end of the source, and tells whether it is all
// zeros. Zeros are written into buf only if there is anything else in it. The end
// is io.EOF itself: io.ErrUnexpectedEOF is what a decoder says of a truncated
// image, and the two must never be confused.
func (p *pieces) fill(buf []byte) (n int, zero bool, err error) {
	zero = true
	for n < len(buf) {
		switch {
		case p.left.Zeros > 0:
			k := int(min(p.left.Zeros, int64(len(buf)-n)))
			if !zero {
				clear(buf[n : n+k])
			}
			p.left.Zeros -= int64(k)
			n += k
		case len(p.left.Data) > 0:
			k := min(len(p.left.Data), len(buf)-n)
			part := p.left.Data[:k]
			p.left.Data = p.left.Data[k:]
			if zero && !AllZero(part) {
				zero = false
				clear(buf[:n])
			}
			if !zero && &part[0] != &buf[n] { // unless the source has put it there
				copy(buf[n:], part)
			}
			n += k
		default:
			if p.left, err = p.src.Next(buf[n:]); err != nil {
				return n, zero, err
			}
		}
	}
	return n, zero, nil
}
