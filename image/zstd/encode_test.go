package zstd

import (
	"encoding/binary"
)

// testFrame is a frame of raw and RLE blocks, for what no encoder writes.
type testFrame struct {
	content  int64  // size in the header: 8 bytes; -1 for none
	window   int    // its logarithm; 0: single segment
	bits     byte   // set in the descriptor besides
	fields   []byte // dictionary id
	blocks   []testBlock
	checksum []byte
}

type testBlock struct {
	kind int // 0 raw, 1 RLE, 2 compressed, 3 reserved
	data []byte
	n    int // of an RLE block
}

// rle returns blocks that decode to n times b.
func rle(b byte, n int) []testBlock {
	var out []testBlock
	for ; n > 0; n -= maxBlock {
		out = append(out, testBlock{kind: 1, data: []byte{b}, n: min(n, maxBlock)})
	}
	return out
}

func encode(frames ...testFrame) []byte {
	var out []byte
	for _, f := range frames {
		out = binary.LittleEndian.AppendUint32(out, frameMagic)
		descriptor := f.bits
		if f.content >= 0 {
			descriptor |= 3 << 6
		}
		if f.window == 0 {
			descriptor |= 0x20
		}
		if f.checksum != nil {
			descriptor |= 4
		}
		out = append(out, descriptor)
		if f.window > 0 {
			out = append(out, byte(f.window-10)<<3)
		}
		out = append(out, f.fields...)
		if f.content >= 0 {
			out = binary.LittleEndian.AppendUint64(out, uint64(f.content))
		}
		for i, b := range f.blocks {
			n := len(b.data)
			if b.kind == 1 {
				n = b.n
			}
			v := uint32(n)<<3 | uint32(b.kind)<<1
			if i == len(f.blocks)-1 {
				v |= 1
			}
			out = append(out, byte(v), byte(v>>8), byte(v>>16))
			out = append(out, b.data...)
		}
		out = append(out, f.checksum...)
	}
	return out
}

// skippableFrame returns one with n bytes in it.
func skippableFrame(n int) []byte {
	out := binary.LittleEndian.AppendUint32(nil, skippable<<4|7)
	out = binary.LittleEndian.AppendUint32(out, uint32(n))
	return append(out, make([]byte, n)...)
}
