package bzip2

import "encoding/binary"

const (
	// slack is what the fast loops may load without asking: a group of 50 codes
	// of 20 bits is 125 bytes, one refill loads 8 more, and may begin up to 8
	// bytes ahead of the bits in use.
	slack     = 160
	inputSize = 64 << 10
)

// bitReader reads bit fields, the most significant bit first, from a private
// copy of a stretch of the window. Past the end of the file it reads zeros;
// overrun then tells.
type bitReader struct {
	acc   uint64 // the next bits, left-aligned; those past count are true bits or zero
	count uint   // bits of acc that pos has moved past
	pos   int    // next byte of buf to load into acc
	end   int    // bytes of buf that come from the file
	base  int64  // offset in the file of buf[0]
	eof   bool   // the file ends at base+end
	buf   [inputSize + slack]byte

	// fetch copies bytes of the file from offset into p, and returns fewer than
	// len(p) only at its end.
	fetch func(p []byte, offset int64) (int, error)
}

// seek moves to a bit of the file.
func (r *bitReader) seek(bit int64) error {
	r.base, r.pos, r.end, r.eof = bit/8, 0, 0, false
	r.acc, r.count = 0, 0
	if err := r.more(); err != nil {
		return err
	}
	r.refill()
	r.skip(uint(bit % 8))
	return nil
}

// more makes at least slack bytes loadable at pos.
func (r *bitReader) more() error {
	if r.end-r.pos >= slack {
		return nil
	}
	// Near the end of the file pos may have moved into the zeros behind it.
	kept := copy(r.buf[:], r.buf[min(r.pos, r.end):r.end])
	past := max(0, r.pos-r.end)
	r.base += int64(r.pos - past)
	r.pos, r.end = past, kept
	if !r.eof {
		n, err := r.fetch(r.buf[kept:inputSize], r.base+int64(kept))
		if err != nil {
			return err
		}
		r.end += n
		r.eof = r.end < inputSize
	}
	if r.eof {
		if r.pos > 2*8 {
			r.pos = 2 * 8 // an overrun stays one, and stays within buf
		}
		clear(r.buf[r.end:min(r.end+slack, len(r.buf))])
	}
	return nil
}

// refill brings count to at least 56. The bits that acc gets beyond count are
// the same that the next refill will put there.
func (r *bitReader) refill() {
	r.acc |= binary.BigEndian.Uint64(r.buf[r.pos:]) >> r.count
	r.pos += int(63-r.count) >> 3
	r.count |= 56
}

func (r *bitReader) skip(n uint) {
	r.acc <<= n
	r.count -= n
}

// read returns the next n bits, 1 to 32.
func (r *bitReader) read(n uint) (uint32, error) {
	if r.count < n {
		if err := r.more(); err != nil {
			return 0, err
		}
		r.refill()
	}
	v := uint32(r.acc >> (64 - n))
	r.skip(n)
	return v, nil
}

// bit returns the place in the file of the next bit.
func (r *bitReader) bit() int64 {
	return (r.base+int64(r.pos))*8 - int64(r.count)
}

// overrun tells whether bits were read that lie behind the end of the file.
func (r *bitReader) overrun() bool {
	return r.eof && r.bit() > (r.base+int64(r.end))*8
}
