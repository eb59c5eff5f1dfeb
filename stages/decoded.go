package stages

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"reimager/disk"
	"reimager/image"
	"reimager/lifeboat"
)

// decodedCopy keeps the decoded image in RAM while it is proven, if the machine has
// memory to spare: the write is then bound by the disk alone, and the time in which
// a power cut does harm is as short as it can be. A machine without that memory
// decodes the image once more.
type decodedCopy struct {
	f      *os.File // nil: there is no room, or no longer
	budget atomic.Int64
	full   atomic.Bool
}

// newDecodedCopy takes at most budget bytes.
func newDecodedCopy(budget int64) (*decodedCopy, error) {
	c := &decodedCopy{}
	if budget < image.RangeBytes {
		c.full.Store(true)
		return c, nil
	}
	f, err := os.OpenFile(ramDecoded, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make decoded copy: %w", err)
	}
	c.f = f
	c.budget.Store(budget)
	return c, nil
}

// keep takes a range; zeros need no memory. Several may be kept at a time.
func (c *decodedCopy) keep(part image.Range) {
	if part.Zero || c.full.Load() {
		return
	}
	if c.budget.Add(-int64(len(part.Data))) < 0 {
		c.full.Store(true)
		return
	}
	if _, err := c.f.WriteAt(part.Data, part.Off); err != nil {
		c.full.Store(true) // it was a help, not a need
	}
}

// finish closes the copy and tells whether it is whole; if not, its memory is freed.
func (c *decodedCopy) finish() (bool, error) {
	if c.f == nil {
		return false, nil
	}
	err := c.f.Close()
	if err == nil && !c.full.Load() {
		return true, nil
	}
	return false, errors.Join(err, os.Remove(ramDecoded))
}

// decodedSource delivers the decoded image from RAM, with zeros where it is not mapped.
type decodedSource struct {
	f    *os.File
	m    *image.Map
	off  int64
	next int // mapped range
}

// Next delivers range after range.
func (d *decodedSource) Next(buf []byte) (image.Chunk, error) {
	end := d.m.Bytes
	if d.next < len(d.m.Ranges) {
		end = d.m.Ranges[d.next].Off
	}
	if n := end - d.off; n > 0 {
		d.off = end
		return image.Chunk{Zeros: n}, nil
	}
	if d.next == len(d.m.Ranges) {
		return image.Chunk{}, io.EOF
	}
	if part := d.m.Ranges[d.next]; part.Off == d.off && d.m.Zero(d.next) { // keep has left it out
		d.next++
		d.off = part.End()
		return image.Chunk{Zeros: part.Bytes}, nil
	}
	n := min(int64(len(buf)), d.m.Ranges[d.next].End()-d.off)
	if _, err := io.ReadFull(io.NewSectionReader(d.f, d.off, n), buf[:n]); err != nil {
		return image.Chunk{}, fmt.Errorf("read decoded image from RAM: %w", err)
	}
	if d.off += n; d.off == d.m.Ranges[d.next].End() {
		d.next++
	}
	return image.Chunk{Data: buf[:n]}, nil
}

// Close closes the copy.
func (d *decodedSource) Close() error { return d.f.Close() }

// source opens the image that was gathered: decoded if it was kept so, or else it is
// decoded again.
func (r *Run) source(g *Gathered, dev *disk.Device) (imageSource, error) {
	if g.Decoded {
		f, err := os.Open(ramDecoded)
		if err != nil {
			return nil, fmt.Errorf("open decoded image in RAM: %w", err)
		}
		return &decodedSource{f: f, m: &g.Map}, nil
	}
	f, err := r.compressed(g, dev)
	if err != nil {
		return nil, err
	}
	d, err := image.DecodeMapped(f, r.Workers)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return decoding{d, f}, nil
}

// compressed opens the image as it came: in RAM, or in the berth.
func (r *Run) compressed(g *Gathered, dev *disk.Device) (io.ReadCloser, error) {
	if g.Afloat {
		return r.boat.Reader(dev, lifeboat.Image)
	}
	f, err := os.Open(ramImage)
	if err != nil {
		return nil, fmt.Errorf("open image in RAM: %w", err)
	}
	return f, nil
}

// imageSource is a source that has to be closed.
type imageSource interface {
	image.Source
	io.Closer
}

// decoding is a decoder with what it reads.
type decoding struct {
	*image.Decoder
	f io.Closer
}

func (d decoding) Close() error { return errors.Join(d.Decoder.Close(), d.f.Close()) }
