package bzip2

import "math/bits"

const (
	maxSymbols   = 258 // 256 bytes less one, two run symbols, end of block
	maxTables    = 6
	maxSelectors = 900_000/groupSize + 1 // more are read and passed over, as libbzip2 does
	groupSize    = 50                    // symbols for which a selector stands
	maxCodeBits  = 20
)

// header is what precedes the symbols of a block.
type header struct {
	crc        uint32
	randomised bool
	origin     uint32 // row of the sorted rotations that is the text
	inUse      [256]byte
	used       int // length of inUse
	tables     int
	lengths    [maxTables][maxSymbols]uint8
	selectors  []uint8
}

// read parses a block's header from its checksum on. The text of an error is
// the detail of a Corrupt one.
func (h *header) read(r *bitReader) (err error) {
	fields := r.fields()
	h.crc = fields.read(32)
	h.randomised = fields.read(1) == 1
	h.origin = fields.read(24)
	h.readInUse(fields)
	if fields.err != nil {
		return fields.err
	}
	if h.used == 0 {
		return malformed("no byte is in use")
	}
	if err := h.readSelectors(fields); err != nil {
		return err
	}
	return h.readLengths(fields)
}

// readInUse reads the two-level map of the bytes that occur.
func (h *header) readInUse(fields *fields) {
	h.used = 0
	high := fields.read(16)
	for i := range 16 {
		if high>>(15-i)&1 == 0 {
			continue
		}
		low := fields.read(16)
		for j := range 16 {
			if low>>(15-j)&1 == 1 {
				h.inUse[h.used] = byte(i*16 + j)
				h.used++
			}
		}
	}
}

// readSelectors reads which table each group uses: unary codes of places in a
// list of the tables, moved to front.
func (h *header) readSelectors(fields *fields) error {
	h.tables = int(fields.read(3))
	count := int(fields.read(15))
	switch {
	case fields.err != nil:
		return fields.err
	case h.tables < 2 || h.tables > maxTables:
		return malformed("number of tables is not 2 to 6")
	case count == 0:
		return malformed("no selectors")
	}
	if h.selectors == nil {
		h.selectors = make([]uint8, 0, maxSelectors)
	}
	h.selectors = h.selectors[:0]
	order := [maxTables]uint8{0, 1, 2, 3, 4, 5}
	for range count {
		place := fields.ones(h.tables)
		if fields.err != nil {
			return fields.err
		}
		if place == h.tables {
			return malformed("selector of a table that is not there")
		}
		chosen := order[place]
		copy(order[1:], order[:place])
		order[0] = chosen
		if len(h.selectors) < maxSelectors {
			h.selectors = append(h.selectors, chosen)
		}
	}
	return nil
}

// readLengths reads the code length of each symbol in each table, coded as
// steps up and down from the length before.
func (h *header) readLengths(fields *fields) error {
	for t := range h.tables {
		length := fields.read(5)
		for s := range h.used + 2 {
			for {
				if fields.err != nil {
					return fields.err
				}
				if length < 1 || length > maxCodeBits {
					return malformed("code length is not 1 to 20")
				}
				if fields.read(1) == 0 {
					break
				}
				if fields.read(1) == 0 {
					length++
				} else {
					length--
				}
			}
			h.lengths[t][s] = uint8(length)
		}
	}
	return fields.err
}

// malformed is the reason for which a block is Corrupt.
type malformed string

func (m malformed) Error() string { return string(m) }

// fields reads successive bit fields and keeps the first error, so that a
// header is read without asking after each.
type fields struct {
	r   *bitReader
	err error
}

func (r *bitReader) fields() *fields { return &fields{r: r} }

// read returns the next n bits, 1 to 32, or 0 after an error.
func (f *fields) read(n uint) uint32 {
	if f.err != nil {
		return 0
	}
	v, err := f.r.read(n)
	f.err = err
	return v
}

// ones returns the number of ones in front of the next zero, which is passed
// over too, but at most limit, up to 15, of them.
func (f *fields) ones(limit int) int {
	if f.err != nil {
		return 0
	}
	if f.r.count < 16 {
		if f.err = f.r.more(); f.err != nil {
			return 0
		}
		f.r.refill()
	}
	n := min(bits.LeadingZeros64(^f.r.acc), limit)
	f.r.skip(uint(n + 1))
	return n
}
