package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Range is a piece of an image of at most RangeBytes.
type Range struct {
	Index int // in the map; without a map, the how manieth; -1: not mapped
	Off   int64
	Zero  bool // it holds only zeros; the bytes of Data are then undefined
	Data  []byte
}

// Digest returns the SHA-256 of a range.
func (r Range) Digest() Digest {
	if r.Zero {
		return zeroDigest(len(r.Data))
	}
	return sha256.Sum256(r.Data)
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

// Take takes a buffer of RangeBytes, as soon as one is free.
func (p *Pool) Take() []byte { return <-p.free }

// Put gives a buffer back.
func (p *Pool) Put(buf []byte) { p.free <- buf[:RangeBytes] }

// Source delivers an image piece by piece, as Decoder.Next does. buf is memory that
// it may use.
type Source interface {
	Next(buf []byte) (Chunk, error)
}

// Each cuts what src delivers into the ranges of the map, or without one into
// ranges of RangeBytes, and hands each to work, several at a time and in any order.
// inspect, which may be nil, sees all of the image first, in order: what is not
// mapped, too. It returns the number of bytes delivered. The first error of src,
// inspect or work ends it; so does an image that is not as long as its map says.
func Each(ctx context.Context, src Source, m *Map, pool *Pool, inspect func(Range) error, work func(Range) error) (int64, error) {
	if m != nil {
		if err := m.CheckFine(); err != nil {
			return 0, err
		}
	}
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
	c := cutter{pieces: pieces{src: src}, m: m, pool: pool, inspect: inspect, jobs: jobs}
	err := c.cut(ctx)
	close(jobs)
	workers.Wait()
	if cause := context.Cause(ctx); cause != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = cause
	}
	return c.off, err
}

// cutter cuts an image into ranges.
type cutter struct {
	pieces  pieces
	m       *Map
	pool    *Pool
	inspect func(Range) error
	jobs    chan<- Range

	off  int64 // where the next range begins
	next int   // its index
}

// plan says how long the next range is at most and which one it is.
func (c *cutter) plan() (n int64, index int) {
	if c.m == nil {
		return RangeBytes, c.next
	}
	if c.next == len(c.m.Ranges) {
		return min(RangeBytes, c.m.Bytes-c.off), -1
	}
	if r := c.m.Ranges[c.next]; r.Off == c.off {
		return r.Bytes, c.next
	}
	return min(RangeBytes, c.m.Ranges[c.next].Off-c.off), -1
}

func (c *cutter) cut(ctx context.Context) error {
	for ctx.Err() == nil {
		n, index := c.plan()
		if n == 0 {
			return c.ends()
		}
		var end bool
		var err error
		if index < 0 && c.inspect == nil {
			end, err = c.skip(n)
		} else {
			end, err = c.take(ctx, n, index)
		}
		if err != nil {
			return err
		}
		if index >= 0 {
			c.next++
		}
		if end && c.m != nil && c.off < c.m.Bytes {
			return fmt.Errorf("the image ends at byte %d, its block map says %d", c.off, c.m.Bytes)
		}
		if end && c.m == nil {
			return nil
		}
	}
	return ctx.Err()
}

// ends makes sure that nothing follows what the map describes, and that the decoder
// has nothing to say against what it delivered.
func (c *cutter) ends() error {
	chunk, err := c.pieces.more()
	switch {
	case err == io.EOF:
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("the image goes on for at least %d bytes behind byte %d, where its block map ends", int64(len(chunk.Data))+chunk.Zeros, c.off)
}

// skip passes over what is not mapped.
func (c *cutter) skip(n int64) (end bool, err error) {
	skipped, err := c.pieces.skip(n)
	c.off += skipped
	if err == io.EOF {
		return true, nil
	}
	return false, err
}

// take hands on the next range.
func (c *cutter) take(ctx context.Context, want int64, index int) (end bool, err error) {
	var buf []byte
	select {
	case buf = <-c.pool.free:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	handedOn := false
	defer func() {
		if !handedOn {
			c.pool.free <- buf[:RangeBytes]
		}
	}()
	n, zero, err := c.pieces.fill(buf[:want])
	if err != nil && err != io.EOF {
		return false, err
	}
	end = err == io.EOF
	if n == 0 {
		return end, nil
	}
	r := Range{Index: index, Off: c.off, Data: buf[:n], Zero: zero}
	c.off += int64(n)
	if c.inspect != nil {
		if err := c.inspect(r); err != nil {
			return false, err
		}
	}
	if index >= 0 {
		handedOn = true
		c.jobs <- r
	}
	return end, nil
}

// pieces puts the pieces of a source into ranges.
type pieces struct {
	src     Source
	left    Chunk // of the last piece
	scratch []byte
}

// more returns what has not been used up yet of the image.
func (p *pieces) more() (Chunk, error) {
	if p.scratch == nil {
		p.scratch = make([]byte, 64<<10)
	}
	for len(p.left.Data) == 0 && p.left.Zeros == 0 {
		var err error
		if p.left, err = p.src.Next(p.scratch); err != nil {
			return Chunk{}, err
		}
	}
	return p.left, nil
}

// skip drops n bytes, or less at the end of the source.
func (p *pieces) skip(n int64) (skipped int64, err error) {
	for skipped < n {
		if _, err := p.more(); err != nil {
			return skipped, err
		}
		k := min(p.left.Zeros, n-skipped)
		p.left.Zeros -= k
		skipped += k
		k = min(int64(len(p.left.Data)), n-skipped)
		p.left.Data = p.left.Data[k:]
		skipped += k
	}
	return skipped, nil
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
