package bzip2

import (
	"io"
	"math/bits"
)

// A file is a sequence of streams, each beginning at a byte: "BZh" and a level,
// blocks, and a footer with the CRC of the blocks' CRCs. The walk goes from one
// to the next and is what decides whether the file is whole.

const headerSize = 4

// walk goes through the file and leaves its verdict.
func (d *decoder) walk() {
	at := int64(0) // in bytes
	for {
		end, err := d.walkStream(at)
		if err != nil {
			d.finish(err)
			return
		}
		at = end
	}
}

// walkStream goes through the stream that begins at a byte and returns where it
// ends. At the end of the file the error is io.EOF.
func (d *decoder) walkStream(at int64) (end int64, err error) {
	level, err := d.streamHeader(at)
	if err != nil {
		return 0, err
	}
	var sum uint32
	first := (at + headerSize) * 8
	for bit := first; ; {
		magic, err := d.field(bit, magicBits)
		if err != nil {
			return 0, err
		}
		switch magic {
		case blockMagic:
			j, err := d.block(bit, level)
			if err != nil {
				return 0, err
			}
			sum = bits.RotateLeft32(sum, 1) ^ j.crc
			bit = j.end
		case streamMagic:
			stored, err := d.field(bit+magicBits, 32)
			if err != nil {
				return 0, err
			}
			if uint32(stored) != sum {
				return 0, &Error{Kind: StreamChecksum, Offset: bit / 8}
			}
			return (bit + magicBits + 32 + 7) / 8, nil
		default:
			if bit == first && at > 0 {
				return 0, &Error{Kind: TrailingGarbage, Offset: at}
			}
			return 0, &Error{Kind: Corrupt, Offset: bit / 8, Detail: "neither a block nor the end of the stream"}
		}
	}
}

// streamHeader reads the level of the stream at a byte.
func (d *decoder) streamHeader(at int64) (level int, err error) {
	var header [headerSize]byte
	d.mu.Lock()
	d.moveTo(at * 8)
	d.changed.Broadcast()
	d.mu.Unlock()
	n, err := d.fetch(nil, header[:], at)
	if err != nil {
		return 0, err
	}
	const begin = "BZh"
	if k := min(n, len(begin)); string(header[:k]) != begin[:k] ||
		n == headerSize && (header[3] < '1' || header[3] > '9') {
		if at > 0 {
			return 0, &Error{Kind: TrailingGarbage, Offset: at}
		}
		return 0, &Error{Kind: NotBzip2}
	}
	if n < headerSize {
		err := d.ended()
		if e, ok := err.(*Error); ok && n == 0 {
			if at > 0 {
				return 0, io.EOF
			}
			e.Kind = Empty
		}
		return 0, err
	}
	return int(header[3] - '0'), nil
}

// block waits for the block at bit and puts it in line.
func (d *decoder) block(bit int64, level int) (*job, error) {
	j, err := d.await(bit)
	if err != nil {
		return nil, err
	}
	if j.size > level*100_000 {
		return nil, &Error{Kind: Corrupt, Offset: bit / 8, Detail: "block is larger than its stream's level allows"}
	}
	d.confirm(j)
	return j, nil
}

// field returns n bits of the file, at most 56.
func (d *decoder) field(bit int64, n int) (uint64, error) {
	var word [8]byte
	size := int(bit%8+int64(n)+7) / 8
	got, err := d.fetch(nil, word[:size], bit/8)
	if err != nil {
		return 0, err
	}
	if got < size {
		return 0, d.ended()
	}
	v := uint64(0)
	for _, b := range word {
		v = v<<8 | uint64(b)
	}
	return v << (bit % 8) >> (64 - n), nil
}
