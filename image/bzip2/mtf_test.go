package bzip2

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// randomMoves returns moves that favour the front, with leading digits (a move
// of nothing and its count), long runs and every place.
func randomMoves(seed uint64, n int) []uint64 {
	rng := newRand(seed)
	moves := make([]uint64, n)
	for i := range moves {
		place := rng.Uint64N(1 + rng.Uint64N(1+rng.Uint64N(256)))
		count := uint64(1)
		if rng.IntN(4) == 0 {
			count = rng.Uint64N(1 << rng.IntN(8))
		}
		moves[i] = count<<placeBits | place
	}
	return moves
}

func TestMoversAgree(t *testing.T) {
	mover := newMover()
	for seed := range uint64(300) {
		moves := randomMoves(seed, int(seed*7))
		var gotList, wantList [256]byte
		var gotRank, wantRank [256]uint32
		for i := range gotList {
			gotList[i] = byte(i*7 + int(seed)) // a permutation
			gotRank[i] = uint32(i)
		}
		wantList, wantRank = gotList, gotRank
		got, want := make([]uint32, 30_000+mapSlack), make([]uint32, 30_000+mapSlack)

		n := mover.apply(&gotList, &gotRank, got, 0, moves)
		wantN := applyMovesGo(&wantList, &wantRank, want, 0, moves)
		if n != wantN {
			t.Fatalf("seed %d: n = %d; want %d", seed, n, wantN)
		}
		if n < 0 {
			continue // nothing of a block that is too long is used
		}
		if diff := cmp.Diff(want[:n], got[:n]); diff != "" {
			t.Fatalf("seed %d: column (-want +got):\n%s", seed, diff)
		}
		if diff := cmp.Diff(wantList, gotList); diff != "" {
			t.Fatalf("seed %d: list (-want +got):\n%s", seed, diff)
		}
		if diff := cmp.Diff(wantRank, gotRank); diff != "" {
			t.Fatalf("seed %d: ranks (-want +got):\n%s", seed, diff)
		}
	}
}

// TestMoverCapacity has columns that end just where the moves do, one entry
// before, or long before.
func TestMoverCapacity(t *testing.T) {
	movers := map[string]func(*[256]byte, *[256]uint32, []uint32, int, []uint64) int{
		"Go":   applyMovesGo,
		"best": newMover().apply,
	}
	for name, apply := range movers {
		for _, test := range []struct {
			size, n int
			count   uint64
			want    int
		}{
			{100, 0, 100, 100},
			{100, 0, 101, -1},
			{100, 99, 1, 100},
			{100, 100, 1, -1},
			{100, 100, 0, 100},
			{100, 0, 1 << 40, -1},
			{7, 0, 7, 7},
			{9, 0, 9, 9},
		} {
			const canary = 0xabad1dea
			column := make([]uint32, test.size+mapSlack+1)
			column[test.size+mapSlack] = canary
			var list [256]byte
			var rank [256]uint32
			moves := []uint64{test.count<<placeBits | 200}
			if got := apply(&list, &rank, column[:test.size+mapSlack], test.n, moves); got != test.want {
				t.Errorf("%s: %d of %d entries, %d more: n = %d; want %d", name, test.n, test.size, test.count, got, test.want)
			}
			if column[test.size+mapSlack] != canary {
				t.Errorf("%s: %d of %d entries, %d more: wrote behind the slack", name, test.n, test.size, test.count)
			}
		}
	}
}

func BenchmarkMoves(b *testing.B) {
	moves := randomMoves(1, mtfBatch)
	column := make([]uint32, 200*mtfBatch+mapSlack)
	for name, apply := range map[string]func(*[256]byte, *[256]uint32, []uint32, int, []uint64) int{
		"Go":   applyMovesGo,
		"best": newMover().apply,
	} {
		b.Run(name, func(b *testing.B) {
			var list [256]byte
			var rank [256]uint32
			for b.Loop() {
				b.SetBytes(int64(apply(&list, &rank, column, 0, moves)))
			}
		})
	}
}
