package zstd

import (
	"io"
	"sync"
)

// blocks hands a frame to the library and notes which of its blocks are on their
// way. The library reads headers and blocks one by one, not more than it needs, and
// writes each block that isn't empty at once; so the first block that it has read
// and not written is the one that it fails at.
type blocks struct {
	more  func() ([]byte, error) // the next part of the frame; whole blocks
	limit int                    // of a block

	part []byte
	left int  // bytes to the next block's header
	last bool // the last block has begun

	mu     sync.Mutex
	offset int64   // of the next byte to be read
	onWay  []int64 // offsets of blocks read and not written
	failed error   // of more
}

func newBlocks(h *header, more func() ([]byte, error)) *blocks {
	return &blocks{more: more, limit: h.blockLimit(), left: h.size, offset: h.at}
}

// Read implements io.Reader.
func (b *blocks) Read(p []byte) (int, error) {
	if len(b.part) == 0 {
		part, err := b.more()
		if err != nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.failed = err
			return 0, err
		}
		b.part = part
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left == 0 && !b.last {
		next, err := parseBlock(b.part, b.limit)
		if err != nil {
			return 0, err // the walk has parsed it, too
		}
		b.left, b.last = blockHeader+next.size, next.last
		if next.content > 0 {
			b.onWay = append(b.onWay, b.offset)
		}
	}
	n := len(b.part)
	if b.left > 0 {
		n = min(n, b.left)
	}
	n = copy(p, b.part[:n])
	b.part = b.part[n:]
	b.left = max(0, b.left-n)
	b.offset += int64(n)
	return n, nil
}

// written notes that the library has written the next block.
func (b *blocks) written() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.onWay) > 0 {
		b.onWay = b.onWay[1:]
	}
}

// at returns where the block lies that the library is at, or if there is none, how
// far it has read.
func (b *blocks) at() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.onWay) > 0 {
		return b.onWay[0]
	}
	return b.offset
}

// end returns how far the library has read.
func (b *blocks) end() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.offset
}

// failure returns the error of more, if the library has met it.
func (b *blocks) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed == io.EOF {
		return nil
	}
	return b.failed
}
