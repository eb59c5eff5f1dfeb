package bzip2

import (
	"encoding/binary"
	"slices"
)

// Symbols 0 and 1 are digits of a run length; symbol s from 2 on stands for
// place s-1 of the move-to-front list; the last symbol in use ends the block.

const (
	lookupBits = 11

	// A table entry holds what the next lookupBits bits begin with: in the low 6
	// bits the length of the code or the two codes, then an operation for each,
	// and whether they are two. An entry of zero means that a longer code, the end
	// of the block, or no code at all comes first.
	lengthMask = 1<<6 - 1
	opBits     = 11
	opMask     = 1<<opBits - 1
	opShift    = 6
	nextShift  = opShift + opBits
	pairShift  = nextShift + opBits

	// An operation has a place (0 to 255) and a count, as a move has them, and
	// a flag that it is a digit. The second operation of an entry with a single
	// symbol is a digit of no value.
	placeBits  = 8
	moveMask   = 1<<(placeBits+2) - 1
	digitShift = placeBits + 2
	digitFlag  = 1 << digitShift
)

// operation returns what a symbol other than the last does: a digit's count is
// its value before it is shifted to its position.
func operation(symbol int) uint32 {
	if symbol < 2 {
		return digitFlag | uint32(symbol+1)<<placeBits
	}
	return 1<<placeBits | uint32(symbol-1)
}

// codeTable decodes one prefix code.
type codeTable struct {
	entries [1 << lookupBits]uint32

	// The canonical code, as libbzip2 keeps it: a code of length l is a symbol's
	// if it is at most limit[l], and the symbol is then symbols[code-base[l]].
	limit   [maxCodeBits + 1]int32
	base    [maxCodeBits + 1]int32
	symbols [maxSymbols]uint16
	last    int // the symbol that ends the block

	shortest uint // length of the shortest code
}

// init builds the table. Codes that an over-subscribed set of lengths leaves no
// room for never occur; patterns that an under-subscribed one leaves without a
// code are an error where they are met.
func (t *codeTable) init(lengths []uint8) {
	t.last = len(lengths) - 1
	t.shortest = uint(slices.Min(lengths))
	var count [maxCodeBits + 1]int32
	for _, l := range lengths {
		count[l]++
	}
	var next [maxCodeBits + 1]int32
	var code, index int32
	for l := 1; l <= maxCodeBits; l++ {
		next[l] = index
		t.base[l] = code - index
		code += count[l]
		index += count[l]
		t.limit[l] = code - 1
		// Beyond this all codes are taken; going on would overflow.
		code = min(code, 1<<l) << 1
	}
	for s, l := range lengths {
		t.symbols[next[l]] = uint16(s)
		next[l]++
	}
	t.fill(lengths, &count)
	t.pair()
}

// fill enters the single symbols.
func (t *codeTable) fill(lengths []uint8, count *[maxCodeBits + 1]int32) {
	at, index := 0, 0
	for l := 1; l <= lookupBits; l++ {
		for range count[l] {
			symbol := int(t.symbols[index])
			index++
			var entry uint32
			if symbol != t.last {
				entry = operation(symbol)<<opShift | digitFlag<<nextShift | uint32(l)
			}
			for range min(1<<(lookupBits-l), len(t.entries)-at) {
				t.entries[at] = entry
				at++
			}
		}
	}
	clear(t.entries[at:])
}

// pair adds to each entry the symbol that follows, where its code lies within
// the bits looked up, too.
func (t *codeTable) pair() {
	single := t.entries
	for i, e := range single {
		length := e & lengthMask
		if length == 0 {
			continue
		}
		next := single[i<<length&(len(single)-1)]
		length2 := next & lengthMask
		if length2 == 0 || length+length2 > lookupBits {
			continue
		}
		e &^= opMask << nextShift
		t.entries[i] = e + length2 + next>>opShift&opMask<<nextShift + 1<<pairShift
	}
}

// slow returns the next symbol and the length of its code, for codes of any
// length; the length is 0 where no code matches.
func (t *codeTable) slow(acc uint64) (symbol int, length uint) {
	l := t.shortest
	if int32(acc>>(64-lookupBits)) > t.limit[lookupBits] {
		l = lookupBits + 1
	}
	for ; l <= maxCodeBits; l++ {
		if code := int32(acc >> (64 - l)); code <= t.limit[l] {
			return int(t.symbols[code-t.base[l]]), l
		}
	}
	return 0, 0
}

// decodeSymbols decodes a block's symbols to its end and hands the moves that
// they stand for to list. Whether a symbol is a digit of a run length can't be
// foretold, so the loops take both ways without a branch: a digit adds to the
// move before it, anything else begins the next one.
func decodeSymbols(r *bitReader, selectors []uint8, tables *[maxTables]codeTable, list *moveToFront) error {
	moves := &list.moves
	var (
		move  uint64 // the move that digits still add to
		n     int    // its place in moves
		digit uint64 // position of the next digit
	)
	moves[0] = 0
	for _, selector := range selectors {
		if r.end-r.pos < slack {
			if err := r.more(); err != nil {
				return err
			}
			if r.overrun() {
				return malformed("no end of block")
			}
		}
		if n > len(moves)-groupSize-2 {
			if err := list.apply(moves[:n]); err != nil {
				return err
			}
			moves[0], n = move, 0
		}
		t := &tables[selector]
		acc, count, pos := r.acc, r.count, r.pos
		for left := groupSize; left > 0; {
			acc |= binary.BigEndian.Uint64(r.buf[pos:]) >> (count & 63)
			pos += int(63-count) >> 3
			count |= 56
			// 56 bits are enough for one long code behind three looked up.
			lookups := 4
			if left < 2*4 {
				lookups = 1
			}
			for ; lookups > 0; lookups-- {
				e := t.entries[acc>>(64-lookupBits)]
				if e == 0 || left == 1 {
					symbol, length := t.slow(acc)
					if length == 0 {
						r.acc, r.count, r.pos = acc, count, pos
						return malformed("code that no symbol has")
					}
					if symbol == t.last {
						r.acc, r.count, r.pos = acc<<length, count-length, pos
						return list.apply(moves[:n+1])
					}
					e = uint32(length) | operation(symbol)<<opShift | digitFlag<<nextShift
					lookups = 1
				}
				acc <<= e & lengthMask
				count -= uint(e & lengthMask)
				pair := uint64(e >> pairShift)

				isDigit := uint64(int64(e) << (63 - digitShift - opShift) >> 63)
				digit &= isDigit
				move = move&isDigit + uint64(e>>opShift&moveMask)<<(digit&63)
				digit += isDigit & 1
				n += 1 + int(isDigit)
				moves[n&(len(moves)-1)] = move

				isDigit = uint64(int64(e) << (63 - digitShift - nextShift) >> 63)
				digit &= isDigit
				move = move&isDigit + uint64(e>>nextShift&moveMask)<<(digit&63)
				digit += isDigit & pair
				n += 1 + int(isDigit)
				moves[n&(len(moves)-1)] = move

				left -= 1 + int(pair)
			}
			// Twenty digits are a million; eight more, until this is reached again,
			// don't overflow a move.
			if digit > 20 {
				r.acc, r.count, r.pos = acc, count, pos
				return malformed("run is longer than a block")
			}
		}
		r.acc, r.count, r.pos = acc, count, pos
	}
	return malformed("no end of block within the selectors")
}
