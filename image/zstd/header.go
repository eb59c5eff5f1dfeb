package zstd

import (
	"encoding/binary"
	"fmt"
)

const (
	magicSize     = 4
	frameMagic    = 0xfd2fb528
	skippable     = 0x184d2a5 // in the upper 28 bits: sixteen magics
	maxHeaderSize = 18
	blockHeader   = 3
	checksumSize  = 4

	minWindow = 1 << 10
	maxBlock  = 128 << 10 // decoded, and compressed, too
)

// header is what a frame says of itself: RFC 8878, 3.1.1.1.
type header struct {
	at        int64 // offset of the magic
	raw       [maxHeaderSize]byte
	size      int // bytes of raw in use
	window    int64
	content   int64 // bytes, or -1 if it doesn't say
	contentAt int64 // offset of that field
	checksum  bool
}

// blockLimit returns how long a block may be.
func (h *header) blockLimit() int { return int(min(max(h.window, minWindow), maxBlock)) }

// mayBeFrame tells whether a frame, or a skippable one, can begin with b, which
// the end of the file may have cut short.
func mayBeFrame(b []byte) bool {
	var frame, skip [magicSize]byte
	binary.LittleEndian.PutUint32(frame[:], frameMagic)
	binary.LittleEndian.PutUint32(skip[:], skippable<<4)
	isFrame, isSkip := true, true
	for i, c := range b {
		isFrame = isFrame && c == frame[i]
		if i == 0 {
			c &= 0xf0
		}
		isSkip = isSkip && c == skip[i]
	}
	return isFrame || isSkip
}

// readHeader reads what follows the magic of the frame at an offset. maxWindow is
// in bytes.
func readHeader(s *source, at, maxWindow int64) (*header, error) {
	h := &header{at: at, content: -1}
	binary.LittleEndian.PutUint32(h.raw[:], frameMagic)
	if err := s.full(h.raw[magicSize : magicSize+1]); err != nil {
		return nil, err
	}
	descriptor := h.raw[magicSize]
	single := descriptor&0x20 != 0
	h.checksum = descriptor&0x04 != 0
	dictionary := []int{0, 1, 2, 4}[descriptor&3]
	content := []int{0, 2, 4, 8}[descriptor>>6]
	if single && content == 0 {
		content = 1
	}
	if descriptor&0x08 != 0 {
		return nil, &Error{Kind: Corrupt, Offset: at + magicSize, Detail: "reserved bit of the frame header is set"}
	}
	h.size = magicSize + 1 + dictionary + content
	if !single {
		h.size++
	}
	fields := h.raw[magicSize+1 : h.size]
	if err := s.full(fields); err != nil {
		return nil, err
	}
	place := at + magicSize + 1
	if !single {
		h.window = windowSize(fields[0])
		if h.window > maxWindow {
			return nil, tooLarge(place, h.window, maxWindow)
		}
		fields, place = fields[1:], place+1
	}
	if id := littleEndian(fields[:dictionary]); id != 0 {
		return nil, &Error{Kind: DictionaryNeeded, Offset: place, Detail: fmt.Sprintf("its id is %d", id)}
	}
	h.contentAt = place + int64(dictionary)
	if content == 0 {
		return h, nil
	}
	n := littleEndian(fields[dictionary:])
	if content == 2 {
		n += 256
	}
	if h.content = int64(n); h.content < 0 {
		return nil, &Error{Kind: ContentSize, Offset: h.contentAt, Detail: fmt.Sprintf("the frame claims %d bytes", n)}
	}
	if single {
		if h.window = h.content; h.window > maxWindow {
			return nil, tooLarge(h.contentAt, h.window, maxWindow)
		}
	}
	return h, nil
}

func tooLarge(at, window, most int64) error {
	return &Error{Kind: WindowTooLarge, Offset: at, Detail: fmt.Sprintf("%d bytes, at most %d are supported", window, most)}
}

// windowSize decodes a window descriptor: RFC 8878, 3.1.1.1.2.
func windowSize(descriptor byte) int64 {
	base := int64(1) << (10 + descriptor>>3)
	return base + base/8*int64(descriptor&7)
}

func littleEndian(b []byte) uint64 {
	var v uint64
	for i, c := range b {
		v |= uint64(c) << (8 * i)
	}
	return v
}

// block is the header of a block: RFC 8878, 3.1.1.2.
type block struct {
	last       bool
	compressed bool
	size       int // bytes that follow in the file
	content    int // bytes it decodes to; if compressed, at most
}

// parseBlock takes a block header apart. limit is the longest block its frame allows.
func parseBlock(b []byte, limit int) (block, error) {
	v := littleEndian(b[:blockHeader])
	n := int(v >> 3)
	out := block{last: v&1 != 0, size: n, content: n}
	switch v >> 1 & 3 {
	case 0: // raw
	case 1: // a byte repeated
		out.size = 1
	case 2:
		out.compressed, out.content = true, limit
	default:
		return block{}, fmt.Errorf("reserved block type")
	}
	if n > limit {
		return block{}, fmt.Errorf("block of %d bytes, at most %d are allowed", n, limit)
	}
	return out, nil
}
