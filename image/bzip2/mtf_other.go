//go:build !amd64

package bzip2

// mover carries out moves.
type mover struct{}

func newMover() mover { return mover{} }

func (mover) apply(list *[256]byte, rank *[256]uint32, column []uint32, n int, moves []uint64) int {
	return applyMovesGo(list, rank, column, n, moves)
}
