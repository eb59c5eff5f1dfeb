package bzip2

import (
	"fmt"
	"io"
)

const (
	// maxBlock bounds a compressed block, in bytes: 900,000 symbols of at most
	// 20 bits, 32,767 selectors of at most 6, the tables, and the headers around.
	maxBlock  = 900_000*20/8 + 32_767*6/8 + 16<<10
	fillSize  = 64 << 10
	maxStalls = 100 // reads of a source that return nothing before it is given up
)

// window holds the compressed bytes from the first that is still needed, in
// pieces that are used in rotation. It is guarded by the mutex of the decoder it
// belongs to; only filling, whose place nobody else looks at, goes on outside.
type window struct {
	ring [][]byte // pieces of fillSize, nil until they are needed
	low  int64    // offset in the file of the first byte held
	high int64    // offset behind the last byte held
	end  error    // why there is nothing behind high: io.EOF or the source's error
}

// newWindow makes a window in which the longest block fits whole, so that the
// first block in line can always be decoded, and ordinary ones for all workers.
func newWindow(workers int) window {
	return window{ring: make([][]byte, (maxBlock+workers<<20)/fillSize)}
}

// at returns what the window has room for from an offset to the end of a piece.
func (w *window) at(offset int64) []byte {
	piece := &w.ring[offset/fillSize%int64(len(w.ring))]
	if *piece == nil {
		*piece = make([]byte, fillSize)
	}
	return (*piece)[offset%fillSize:]
}

// space returns the next stretch to fill, empty if the window is full.
func (w *window) space() []byte {
	space := w.at(w.high)
	free := int64(len(w.ring)*fillSize) - (w.high - w.low)
	return space[:min(free, int64(len(space)))]
}

// copyAt copies bytes held at offset into p and returns how many.
func (w *window) copyAt(p []byte, offset int64) int {
	n := 0
	for n < len(p) && w.low <= offset && offset < w.high {
		part := w.at(offset)
		k := copy(p[n:], part[:min(int64(len(part)), w.high-offset)])
		n += k
		offset += int64(k)
	}
	return n
}

// feed fills the window from src until its end, an error, or stop.
func (d *decoder) feed(src io.Reader) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.window.end == nil {
		space := d.window.space()
		if d.stopped() {
			return
		}
		if len(space) == 0 {
			d.changed.Wait()
			continue
		}
		d.mu.Unlock()
		n, err := fill(src, space)
		d.mu.Lock()
		d.window.high += int64(n)
		if err != nil && err != io.EOF {
			err = fmt.Errorf("read compressed data at byte %d: %w", d.window.high, err)
		}
		d.window.end = err
		d.changed.Broadcast()
	}
}

// fill reads until p is full or src ends.
func fill(src io.Reader, p []byte) (int, error) {
	n, stalls := 0, 0
	for n < len(p) {
		k, err := src.Read(p[n:])
		if k < 0 || k > len(p)-n {
			return n, fmt.Errorf("source returned a count of %d for %d bytes", k, len(p)-n)
		}
		n += k
		if err != nil {
			return n, err
		}
		if k > 0 {
			stalls = 0
		} else if stalls++; stalls == maxStalls {
			return n, io.ErrNoProgress
		}
	}
	return n, nil
}
