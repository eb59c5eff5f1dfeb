package zstd

import "bytes"

const (
	// pieceSize is the unit in which zeros are looked for, minZeros how long they
	// have to be where a block or a frame ends with less than that.
	pieceSize = 64 << 10
	minZeros  = 4 << 10
)

// zeroPiece is compared with.
var zeroPiece [pieceSize]byte

// batch is decoded content on its way to the caller. Its spans lie one behind the
// other in data; where one is of zeros, the bytes there may be anything.
type batch struct {
	home  chan *batch // where it is used again
	data  []byte
	spans []span
}

type span struct {
	n     int64
	zeros bool
}

func (b *batch) reset() { b.data, b.spans = b.data[:0], b.spans[:0] }

// grow makes room for n bytes in an empty batch.
func (b *batch) grow(n int) {
	if cap(b.data) < n {
		b.data = nil // the collector may have it before there is another
		b.data = make([]byte, 0, (n+pieceSize-1)/pieceSize*pieceSize)
	}
}

func (b *batch) add(n int64, zeros bool) {
	if last := len(b.spans) - 1; last >= 0 && b.spans[last].zeros == zeros {
		b.spans[last].n += n
		return
	}
	b.spans = append(b.spans, span{n, zeros})
}

func (b *batch) release() {
	b.reset()
	b.home <- b // never waits: there is room for all of a home's batches
}

// cutPiece returns the next piece of p and whether it is nothing but zeros.
func cutPiece(p []byte) (piece, rest []byte, zeros bool) {
	n := min(len(p), pieceSize)
	piece, rest = p[:n:n], p[n:]
	return piece, rest, n >= minZeros && bytes.Equal(piece, zeroPiece[:n])
}
