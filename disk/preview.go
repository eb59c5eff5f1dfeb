package disk

import (
	"errors"
	"fmt"
)

// Preview collects, while an image streams past, the few parts that tell what it
// will make of a disk: the partition table, its EBRs, and the superblock of each
// partition. So a wrong image is refused before anything is written.
type Preview struct {
	sector  int
	windows []window
	table   *Table
	err     error // why the table is not whole
	seen    int64 // everything before this offset has streamed past
}

type window struct {
	off  int64
	data []byte
}

// headBytes holds a GPT of 128 entries behind sectors of 4096 bytes.
const headBytes = 64 << 10

// NewPreview expects an image for a disk with the given sector size.
func NewPreview(sectorSize int) *Preview {
	return &Preview{sector: sectorSize, windows: []window{{0, make([]byte, headBytes)}}, err: errors.New("no image seen")}
}

// Feed takes the next bytes of the image; they have to come in order.
func (p *Preview) Feed(data []byte) { p.feed(int64(len(data)), data) }

// FeedZeros takes a run of n zeros in place of bytes.
func (p *Preview) FeedZeros(n int64) { p.feed(n, nil) }

func (p *Preview) feed(n int64, data []byte) {
	off := p.seen
	p.seen += n
	// What is found in these bytes may point further into them.
	for copied := 0; copied < len(p.windows); {
		copied = len(p.windows)
		for _, w := range p.windows {
			copyOverlap(w, off, data) // a new window holds zeros already
		}
		p.table, p.err = ReadTable(p, p.sector)
		p.follow(off)
	}
}

// follow adds a window for whatever the table points to from offset off on.
func (p *Preview) follow(off int64) {
	var missing *missingError
	if errors.As(p.err, &missing) && missing.off >= off {
		p.add(missing.off, 512)
	}
	if p.table == nil {
		return
	}
	for _, e := range p.table.Entries {
		if !e.Extended && e.Start >= off {
			p.add(e.Start, ProbeBytes)
		}
	}
}

func (p *Preview) add(off int64, n int) {
	for _, w := range p.windows {
		if w.off == off && len(w.data) >= n {
			return
		}
	}
	p.windows = append(p.windows, window{off, make([]byte, n)})
}

func copyOverlap(w window, off int64, data []byte) {
	if d := off - w.off; d >= 0 {
		if d < int64(len(w.data)) {
			copy(w.data[d:], data)
		}
	} else if -d < int64(len(data)) {
		copy(w.data, data[-d:])
	}
}

type missingError struct{ off int64 }

func (e *missingError) Error() string {
	return fmt.Sprintf("offset %d of the image was not kept", e.off)
}

// ReadAt serves what was collected.
func (p *Preview) ReadAt(b []byte, off int64) (int, error) {
	for _, w := range p.windows {
		if d := off - w.off; d >= 0 && d+int64(len(b)) <= int64(len(w.data)) && w.off+d < p.seen {
			return copy(b, w.data[d:]), nil
		}
	}
	return 0, &missingError{off}
}

// Table returns the partition table of the image.
func (p *Preview) Table() (*Table, error) {
	if p.err != nil {
		return nil, p.err
	}
	return p.table, nil
}

// Filesystem returns what lies at the beginning of a partition of the image.
func (p *Preview) Filesystem(e Entry) (Filesystem, error) {
	for _, w := range p.windows {
		if w.off == e.Start && len(w.data) >= ProbeBytes && e.Start < p.seen {
			return Probe(sliceReader(w.data))
		}
	}
	return Filesystem{}, fmt.Errorf("partition %d starts at byte %d, which the image (%d bytes) does not have", e.Number, e.Start, p.seen)
}

type sliceReader []byte

func (s sliceReader) ReadAt(b []byte, off int64) (int, error) {
	if off >= int64(len(s)) {
		return 0, &missingError{off}
	}
	return copy(b, s[off:]), nil
}
