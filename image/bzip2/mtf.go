package bzip2

import "encoding/binary"

const (
	maxText   = 900_000 // bytes of a block before the first run-length coding is undone
	mtfBatch  = 1024    // moves that are collected before they are applied
	mapSlack  = 16      // entries that may be overwritten behind a run
	byteMask  = 0xff
	indexUnit = 1 << 8
)

// moveToFront is a list of the bytes in use, the latest first. A move takes the
// byte at a place to the front and puts it out a number of times: the place is
// in the low 8 bits, the count above.
//
// The output is the last column of the sorted rotations. Each byte is noted
// together with its rank among the equal ones before it; adding how many
// smaller bytes there are gives the LF mapping, without a scattered pass.
type moveToFront struct {
	list  [256]byte
	rank  [256]uint32 // the next entry of each byte: rank<<8 | byte
	n     int         // length of the column
	moves [mtfBatch]uint64
	mover mover

	// column holds rank<<8 | byte and, after finish, row<<8 | byte.
	column *[1 << 20]uint32
}

// reset begins a block.
func (m *moveToFront) reset(inUse []byte) {
	if m.column == nil {
		m.column = new([1 << 20]uint32)
		m.mover = newMover()
	}
	m.n = 0
	copy(m.list[:], inUse)
	for b := range m.rank {
		m.rank[b] = uint32(b)
	}
}

// apply carries out moves.
func (m *moveToFront) apply(moves []uint64) error {
	n := m.mover.apply(&m.list, &m.rank, m.column[:maxText+mapSlack], m.n, moves)
	if n < 0 {
		return malformed("more than 900,000 bytes")
	}
	m.n = n
	return nil
}

// finish turns ranks into rows: the column's entry i becomes LF(i)<<8 | byte.
func (m *moveToFront) finish() []uint32 {
	var smaller [256]uint32
	sum := uint32(0)
	for b, r := range m.rank {
		smaller[b] = sum
		sum += r &^ byteMask
	}
	column := m.column[:m.n]
	for i, e := range column {
		column[i] = e + smaller[e&byteMask]
	}
	return column
}

// applyMovesGo carries out moves on a column of n entries and returns its new
// length, or -1 if it would exceed len(column)-mapSlack. The first 16 places are kept in two
// words, where a move is a few shifts.
func applyMovesGo(list *[256]byte, rank *[256]uint32, column []uint32, n int, moves []uint64) int {
	low := binary.LittleEndian.Uint64(list[0:])
	high := binary.LittleEndian.Uint64(list[8:])
	for _, move := range moves {
		place := uint(move & byteMask)
		count := move >> placeBits
		var b uint64
		switch {
		case place < 8:
			shift := place * 8
			b = low >> shift & byteMask
			below := uint64(1)<<shift - 1
			low = low&^(below<<8|byteMask) | low&below<<8 | b
		case place < 16:
			shift := place*8 - 64
			b = high >> shift & byteMask
			below := uint64(1)<<shift - 1
			high = high&^(below<<8|byteMask) | high&below<<8 | low>>56
			low = low<<8 | b
		default:
			b = uint64(list[place])
			copy(list[17:place+1], list[16:place])
			list[16] = byte(high >> 56)
			high = high<<8 | low>>56
			low = low<<8 | b
		}
		if count > uint64(len(column)-mapSlack-n) {
			return -1
		}
		e := rank[b]
		rank[b] = e + uint32(count)*indexUnit
		for range count {
			column[n] = e
			n++
			e += indexUnit
		}
	}
	binary.LittleEndian.PutUint64(list[0:], low)
	binary.LittleEndian.PutUint64(list[8:], high)
	return n
}
