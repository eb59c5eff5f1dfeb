package bzip2

import "golang.org/x/sys/cpu"

// moveTables are the constants of applyMovesAVX2. The list is in eight
// registers of 32 bytes there.
type moveTables struct {
	// front moves one of the first 16 places to the front, by one shuffle of the
	// first register.
	front [16][32]byte
	// keep is, loaded from 255-place on, 0xff at the places behind place.
	keep [512]byte
	// ranks is what eight equal bytes add to the first one's entry.
	ranks [8]uint32
}

func newMoveTables() *moveTables {
	t := new(moveTables)
	for place := range t.front {
		for i := range t.front[place] {
			from := i
			switch {
			case i == 0:
				from = place
			case i <= place:
				from = i - 1
			}
			t.front[place][i] = byte(from & 15) // shuffles count within 16 bytes
		}
	}
	for i := 256; i < len(t.keep); i++ {
		t.keep[i] = 0xff
	}
	for i := range t.ranks {
		t.ranks[i] = uint32(i) * indexUnit
	}
	return t
}

// applyMovesAVX2 does what applyMovesGo does, up to limit entries, and may
// write seven more behind.
//
//go:noescape
func applyMovesAVX2(list *[256]byte, rank *[256]uint32, column *uint32, n, limit int, moves *uint64, count int, tables *moveTables) int

// mover carries out moves in the fastest way that the processor has.
type mover struct{ tables *moveTables }

func newMover() mover {
	if !cpu.X86.HasAVX2 {
		return mover{}
	}
	return mover{newMoveTables()}
}

func (m mover) apply(list *[256]byte, rank *[256]uint32, column []uint32, n int, moves []uint64) int {
	if m.tables == nil || len(moves) == 0 {
		return applyMovesGo(list, rank, column, n, moves)
	}
	limit := len(column) - mapSlack
	return applyMovesAVX2(list, rank, &column[0], n, limit, &moves[0], len(moves), m.tables)
}
