package bzip2

import "encoding/binary"

const (
	blockMagic  = 0x314159265359 // pi
	streamMagic = 0x177245385090 // the root of pi
	magicBits   = 48

	// magicBytes is how many bytes a magic touches that begins at any bit of
	// the first of them.
	magicBytes = 7
)

// magicFilter is a set of the 16-bit values that two neighbouring bytes of a
// block magic can have.
//
// Whatever the shift, five whole bytes lie inside the magic, so that one pair
// of them begins at a given residue modulo four: looking at every fourth pair
// is enough, and the filter rejects all but 32 of 65,536 values.
type magicFilter [1 << 16 / 64]uint64

func newMagicFilter() *magicFilter {
	filter := new(magicFilter)
	for shift := range 8 {
		for pair := range 4 {
			v := uint16(uint64(blockMagic) >> (24 - 8*pair + shift))
			filter[v>>6] |= 1 << (v & 63)
		}
	}
	return filter
}

// find returns the bit offset in p of the first block magic that begins at bit
// from or behind it, or -1. A magic is found if magicBytes from its first byte
// lie in p.
func (f *magicFilter) find(p []byte, from int64) int64 {
	first := int(from / 8)
	for at := first + 1; at+2 <= len(p); at += 4 {
		v := binary.BigEndian.Uint16(p[at:])
		if f[v>>6]>>(v&63)&1 == 0 {
			continue
		}
		for i := max(first, at-4); i < at; i++ {
			if bit := magicIn(p, i, from); bit >= 0 {
				return bit
			}
		}
	}
	return -1
}

// magicIn returns the bit offset of a magic that begins in byte i, or -1.
func magicIn(p []byte, i int, from int64) int64 {
	if i+magicBytes > len(p) {
		return -1
	}
	var word [8]byte
	copy(word[:], p[i:i+magicBytes])
	v := binary.BigEndian.Uint64(word[:])
	for shift := range int64(8) {
		bit := int64(i)*8 + shift
		if v<<shift>>(64-magicBits) == blockMagic && bit >= from {
			return bit
		}
	}
	return -1
}
