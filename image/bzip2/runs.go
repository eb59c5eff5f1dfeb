package bzip2

import (
	"encoding/binary"
	"math/bits"
)

const (
	batchSize = 1 << 20
	maxSpans  = 4096

	// minZeros is the length from which a run of zeros is set apart: a page, and
	// the smallest unit that a disk or a filesystem zeroes.
	minZeros = 4096
)

// batch is decoded output on its way to the caller: spans of data, which lie
// one behind the other in data, and of zeros, which lie nowhere.
type batch struct {
	owner *worker
	data  [batchSize]byte
	spans []span
}

type span struct {
	n     int64
	zeros bool
}

// expander undoes the first run-length coding: four equal bytes are followed by
// how many more there are. On the way it sums up the block's CRC.
//
// Runs of zeros at either end of a block are set apart however short they are,
// for they may go on in the next one.
type expander struct {
	crc   checksum
	batch *batch
	n     int // bytes of batch.data in use
	done  int // of them, in spans

	take func() (*batch, error) // waits for an empty batch
	emit func(*batch) error     // hands a full one on
}

// expand puts out the text of a block and returns its CRC.
func (x *expander) expand(text []byte) (crc uint32, err error) {
	x.crc.reset()
	if err := x.next(); err != nil {
		return 0, err
	}
	first := true
	for i := 0; i < len(text); {
		i, x.n = copyToRun(x.batch.data[:], x.n, text, i)
		if i == len(text) {
			break
		}
		if x.n+8 > batchSize {
			if err := x.flush(); err != nil {
				return 0, err
			}
			continue
		}
		first = first && x.n == 0
		if err := x.run(text, &i, first); err != nil {
			return 0, err
		}
		first = false
	}
	x.endSpan()
	crc = x.crc.value()
	last := x.batch
	x.batch = nil
	return crc, x.emit(last)
}

// copyToRun copies text from i to dst from n, up to four equal bytes, to the
// end, or until dst may be too short. It returns where it stopped in both.
func copyToRun(dst []byte, n int, text []byte, i int) (int, int) {
	for i+8 <= len(text) && n+8 <= len(dst) {
		v := binary.LittleEndian.Uint64(text[i:])
		binary.LittleEndian.PutUint64(dst[n:], v)
		differs := v ^ v>>8 // byte k: whether bytes k and k+1 differ
		differs |= differs>>8 | differs>>16
		// Of the five places that are wholly in v, the lowest where none of four
		// bytes differs; borrows spoil only those above it.
		if equal := (differs - 0x0101010101) &^ differs & 0x8080808080; equal != 0 {
			k := bits.TrailingZeros64(equal) / 8
			return i + k, n + k
		}
		i += 5
		n += 5
	}
	for i < len(text) && n+8 <= len(dst) && !runAt(text, i) {
		dst[n] = text[i]
		i++
		n++
	}
	return i, n
}

// runAt tells whether four equal bytes begin at i.
func runAt(text []byte, i int) bool {
	if i+4 > len(text) {
		return false
	}
	v := binary.LittleEndian.Uint32(text[i:])
	return v == uint32(text[i])*0x01010101
}

// run expands the run at *i, and with it those of zeros that follow at once.
func (x *expander) run(text []byte, i *int, first bool) error {
	b := text[*i]
	total := 0
	for ok := true; ok; ok = b == 0 && runAt(text, *i) && text[*i] == 0 {
		if *i+4 >= len(text) {
			return malformed("run without a count")
		}
		total += 4 + int(text[*i+4])
		*i += 5
	}
	if b == 0 && (total >= minZeros || first || *i == len(text)) {
		return x.zeros(int64(total))
	}
	if x.n+total > batchSize {
		if err := x.flush(); err != nil {
			return err
		}
	}
	part := x.batch.data[x.n : x.n+total]
	for k := range part {
		part[k] = b
	}
	x.n += total
	return nil
}

// zeros puts out a run that is set apart.
func (x *expander) zeros(n int64) error {
	x.endSpan()
	x.crc.writeZeros(n)
	x.batch.spans = append(x.batch.spans, span{n: n, zeros: true})
	if len(x.batch.spans) < maxSpans-1 {
		return nil
	}
	return x.flush()
}

// endSpan turns the data since the last span into one.
func (x *expander) endSpan() {
	if x.n > x.done {
		x.crc.write(x.batch.data[x.done:x.n])
		x.batch.spans = append(x.batch.spans, span{n: int64(x.n - x.done)})
		x.done = x.n
	}
}

// flush hands the batch on and goes on with an empty one.
func (x *expander) flush() error {
	x.endSpan()
	full := x.batch
	x.batch = nil
	if err := x.emit(full); err != nil {
		return err
	}
	return x.next()
}

func (x *expander) next() (err error) {
	if x.batch == nil {
		if x.batch, err = x.take(); err != nil {
			return err
		}
	}
	x.batch.spans = x.batch.spans[:0]
	x.n, x.done = 0, 0
	return nil
}
