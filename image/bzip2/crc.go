package bzip2

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
)

// checksum is bzip2's CRC-32: the polynomial of IEEE 802.3, fed with the most
// significant bit first. With the bits of each byte reversed it is the
// reflected CRC of hash/crc32, for which processors have instructions; the
// result is reversed in the end.
type checksum struct {
	sum     uint32
	doubled *[32]uint32 // x^(2^k) mod P, for zeros
	scratch [4096]byte
}

func (c *checksum) reset() {
	c.sum = 0
	if c.doubled == nil {
		c.doubled = doublings()
	}
}

// value returns the checksum as it stands in a block's header.
func (c *checksum) value() uint32 { return bits.Reverse32(c.sum) }

func (c *checksum) write(p []byte) {
	for len(p) > 0 {
		n := min(len(p), len(c.scratch))
		reverseBits(c.scratch[:n], p[:n])
		c.sum = crc32.Update(c.sum, crc32.IEEETable, c.scratch[:n])
		p = p[n:]
	}
}

// writeZeros feeds n zero bytes: each multiplies the state by x^8, so all of
// them multiply it by x^(8n), which takes a multiplication for each bit of n.
func (c *checksum) writeZeros(n int64) {
	factor := uint32(1) << 31 // x^0, reflected
	for k := 3; n > 0; k++ {
		if n&1 != 0 {
			factor = multiply(c.doubled[k&31], factor)
		}
		n >>= 1
	}
	c.sum = ^multiply(factor, ^c.sum)
}

// doublings returns x^(2^k) modulo the polynomial. The order of x divides
// 2^32-1, so that the sequence repeats after 32.
func doublings() *[32]uint32 {
	table := new([32]uint32)
	p := uint32(1) << 30 // x^1, reflected
	for k := range table {
		table[k] = p
		p = multiply(p, p)
	}
	return table
}

// multiply returns a·b modulo the reflected polynomial (as zlib's multmodp).
func multiply(a, b uint32) uint32 {
	var product uint32
	for bit := uint32(1) << 31; bit != 0; bit >>= 1 {
		product ^= b & -(a / bit & 1)
		b = b>>1 ^ crc32.IEEE&-(b&1)
	}
	return product
}

// reverseBits writes src to dst with the bits of each byte reversed.
func reverseBits(dst, src []byte) {
	for len(src) >= 8 {
		x := binary.LittleEndian.Uint64(src)
		x = x>>1&0x5555555555555555 | x&0x5555555555555555<<1
		x = x>>2&0x3333333333333333 | x&0x3333333333333333<<2
		x = x>>4&0x0f0f0f0f0f0f0f0f | x&0x0f0f0f0f0f0f0f0f<<4
		binary.LittleEndian.PutUint64(dst, x)
		src, dst = src[8:], dst[8:]
	}
	for i, b := range src {
		dst[i] = bits.Reverse8(b)
	}
}
