package bzip2

import (
	"bytes"
	"math/bits"
	"slices"
)

// The encoder below writes files that no program writes any more, or never
// should have: it takes the fields of the format as the test sets them. It is
// simple and slow.

// bitWriter writes big-endian bit fields.
type bitWriter struct {
	bytes []byte
	free  int // bits of the last byte that are not written
}

func (w *bitWriter) write(v uint64, n int) {
	for n--; n >= 0; n-- {
		if w.free == 0 {
			w.bytes = append(w.bytes, 0)
			w.free = 8
		}
		w.free--
		w.bytes[len(w.bytes)-1] |= byte(v>>n&1) << w.free
	}
}

func (w *bitWriter) align() { w.free = 0 }

// testBlock is a block to be encoded. Fields that are nil or zero get the
// values that make the block valid.
type testBlock struct {
	content    []byte // what the block decodes to
	maxRun     int    // 4 to 259, the longest run to code as one
	text       []byte // content after run-length coding
	randomised bool
	crc        *uint32
	origin     *uint32
	inUse      []byte
	tables     [][]uint8 // code lengths
	selectors  []uint8
	extra      int      // selectors beyond need
	symbols    []uint16 // instead of those of the text
	badLength  bool     // the first code length is 0
}

// testStream is a stream to be encoded.
type testStream struct {
	level  byte
	blocks []testBlock
	crc    *uint32
}

func encode(streams ...testStream) []byte {
	var w bitWriter
	for _, s := range streams {
		level := s.level
		if level == 0 {
			level = '9'
		}
		for _, c := range []byte{'B', 'Z', 'h', level} {
			w.write(uint64(c), 8)
		}
		var sum uint32
		for _, b := range s.blocks {
			sum = bits.RotateLeft32(sum, 1) ^ b.encode(&w)
		}
		if s.crc != nil {
			sum = *s.crc
		}
		w.write(streamMagic, magicBits)
		w.write(uint64(sum), 32)
		w.align()
	}
	return w.bytes
}

// encode writes the block and returns its checksum.
func (b testBlock) encode(w *bitWriter) uint32 {
	text := b.text
	if text == nil {
		text = encodeRuns(b.content, max(b.maxRun, 4))
	}
	text = slices.Clone(text)
	randomised := uint64(0)
	if b.randomised {
		randomised = 1
		derandomise(text) // it is its own inverse
	}
	var column []byte
	var origin uint32
	if b.symbols == nil {
		column, origin = sortRotations(text)
	}
	if b.origin != nil {
		origin = *b.origin
	}
	inUse := b.inUse
	if inUse == nil {
		inUse = slices.Compact(slices.Sorted(slices.Values(text)))
	}
	symbols := b.symbols
	if symbols == nil {
		symbols = append(moves(column, inUse), uint16(len(inUse)+1))
	}
	tables := b.tables
	if tables == nil {
		tables = [][]uint8{completeCode(len(inUse) + 2), completeCode(len(inUse) + 2)}
	}
	selectors := b.selectors
	if selectors == nil {
		selectors = make([]uint8, (len(symbols)+groupSize-1)/groupSize+b.extra)
		for i := range selectors {
			selectors[i] = uint8(i % len(tables))
		}
	}
	crc := plainCRC(b.content)
	if b.crc != nil {
		crc = *b.crc
	}

	w.write(blockMagic, magicBits)
	w.write(uint64(crc), 32)
	w.write(randomised, 1)
	w.write(uint64(origin), 24)
	writeInUse(w, inUse)
	w.write(uint64(len(tables)), 3)
	w.write(uint64(len(selectors)), 15)
	writeSelectors(w, selectors)
	for i, lengths := range tables {
		writeLengths(w, lengths, b.badLength && i == 0)
	}
	for i, s := range symbols {
		if i/groupSize >= len(selectors) || int(selectors[i/groupSize]) >= len(tables) {
			break // what follows has no table
		}
		lengths := tables[selectors[i/groupSize]]
		w.write(uint64(canonical(lengths)[s]), int(lengths[s]))
	}
	return crc
}

// encodeRuns is the first run-length coding, with runs of up to maxRun, at least 4.
func encodeRuns(content []byte, maxRun int) []byte {
	var text []byte
	for i := 0; i < len(content); {
		n := 1
		for i+n < len(content) && n < maxRun && content[i+n] == content[i] {
			n++
		}
		text = append(text, bytes.Repeat(content[i:i+1], min(n, 4))...)
		if n >= 4 {
			text = append(text, byte(n-4))
		}
		i += n
	}
	return text
}

// sortRotations returns the last column of the sorted rotations and the row
// of the text.
func sortRotations(text []byte) (column []byte, origin uint32) {
	double := slices.Concat(text, text)
	rows := make([]int, len(text))
	for i := range rows {
		rows[i] = i
	}
	slices.SortStableFunc(rows, func(a, b int) int {
		return bytes.Compare(double[a:a+len(text)], double[b:b+len(text)])
	})
	for row, i := range rows {
		column = append(column, double[i+len(text)-1])
		if i == 0 {
			origin = uint32(row)
		}
	}
	return column, origin
}

// moves returns the symbols of a column, without the end of the block.
func moves(column, inUse []byte) []uint16 {
	list := slices.Clone(inUse)
	var symbols []uint16
	run := 0
	flush := func() {
		for n := run + 1; n > 1; n >>= 1 {
			symbols = append(symbols, uint16(n&1))
		}
		run = 0
	}
	for _, c := range column {
		place := bytes.IndexByte(list, c)
		if place <= 0 {
			run++
			continue
		}
		flush()
		symbols = append(symbols, uint16(place+1))
		copy(list[1:], list[:place])
		list[0] = c
	}
	flush()
	return symbols
}

// completeCode returns lengths of a complete code of n symbols.
func completeCode(n int) []uint8 {
	long := bits.Len(uint(n - 1))
	lengths := make([]uint8, n)
	for i := range lengths {
		lengths[i] = uint8(long)
		if i < 1<<long-n {
			lengths[i]--
		}
	}
	return lengths
}

// flatCode returns n equal lengths.
func flatCode(n int, length uint8) []uint8 {
	return bytes.Repeat([]byte{length}, n)
}

// canonical returns the codes that the lengths stand for.
func canonical(lengths []uint8) []uint32 {
	codes := make([]uint32, len(lengths))
	code := uint32(0)
	for l := uint8(1); l <= maxCodeBits; l++ {
		for s := range lengths {
			if lengths[s] == l {
				codes[s] = code
				code++
			}
		}
		code <<= 1
	}
	return codes
}

func writeInUse(w *bitWriter, inUse []byte) {
	var low [16]uint64
	var high uint64
	for _, c := range inUse {
		high |= 1 << (15 - c>>4)
		low[c>>4] |= 1 << (15 - c&15)
	}
	w.write(high, 16)
	for _, v := range low {
		if v != 0 {
			w.write(v, 16)
		}
	}
}

func writeSelectors(w *bitWriter, selectors []uint8) {
	order := []uint8{0, 1, 2, 3, 4, 5, 6}
	for _, s := range selectors {
		place := bytes.IndexByte(order, s)
		w.write(1<<(place+1)-2, place+1)
		copy(order[1:], order[:place])
		order[0] = s
	}
}

func writeLengths(w *bitWriter, lengths []uint8, bad bool) {
	at := lengths[0]
	if bad {
		w.write(0, 5)
	} else {
		w.write(uint64(at), 5)
	}
	for _, l := range lengths {
		for ; at < l; at++ {
			w.write(0b10, 2)
		}
		for ; at > l; at-- {
			w.write(0b11, 2)
		}
		w.write(0, 1)
	}
}

// plainCRC computes the checksum of a block bit by bit.
func plainCRC(p []byte) uint32 {
	sum := ^uint32(0)
	for _, c := range p {
		sum ^= uint32(c) << 24
		for range 8 {
			carry := sum >> 31
			sum = sum<<1 ^ 0x04c11db7*carry
		}
	}
	return ^sum
}
