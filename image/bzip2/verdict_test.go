package bzip2

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// smallFile is two streams of which the first has two blocks.
func smallFile() (file, content []byte) {
	a, b, c := testBlock{content: []byte("abracadabra, abracadabra!")}, testBlock{content: bytes.Repeat([]byte("x"), 300)}, testBlock{content: prose(200)}
	file = encode(testStream{blocks: []testBlock{a, b}}, testStream{}, testStream{blocks: []testBlock{c}})
	return file, bytes.Join([][]byte{a.content, b.content, c.content}, nil)
}

func TestTruncation(t *testing.T) {
	file, content := smallFile()
	whole := map[int]bool{len(file): true}
	for _, at := range []int{bytes.Index(file[1:], []byte("BZh")) + 1, bytes.LastIndex(file, []byte("BZh"))} {
		whole[at] = true
	}
	for n := range len(file) + 1 {
		for _, src := range []io.Reader{bytes.NewReader(file[:n]), iotest.DataErrReader(bytes.NewReader(file[:n]))} {
			got, err := decode(t, src, 1+n%3)
			kind, offset := kindOf(err)
			switch {
			case whole[n]:
				if err != io.EOF {
					t.Errorf("cut at %d, between streams: error %v; want io.EOF", n, err)
				}
			case n == 0:
				if kind != Empty {
					t.Errorf("cut at 0: error %v; want %v", err, Empty)
				}
			case kind != Truncated || offset != int64(n):
				t.Errorf("cut at %d: error %v; want %v at %d", n, err, Truncated, n)
			}
			if !bytes.HasPrefix(content, got) {
				t.Errorf("cut at %d: %s", n, difference(got, content))
			}
		}
	}
}

func TestBitFlips(t *testing.T) {
	small, _ := smallFile()
	files := map[string][]byte{
		"small":      small,
		"repetitive": compress(t, bytes.Repeat([]byte("to be or not to be "), 300), 1),
		"noise":      compress(t, noise(80), 1),
	}
	for name, file := range files {
		t.Run(name, func(t *testing.T) {
			flipped := bytes.Clone(file)
			unchanged := 0
			for bit := range len(file) * 8 {
				flipped[bit/8] ^= 0x80 >> (bit % 8)
				got, err := decode(t, bytes.NewReader(flipped), 1+bit%2)
				want, wantErr := dsnetDecode(flipped)
				switch {
				case isRandomised(wantErr):
					// Decoded here; the CRC tells whether it was one.
				case (err == io.EOF) != (wantErr == nil):
					t.Errorf("bit %d: error %v; dsnet: %v", bit, err, wantErr)
				case wantErr == nil && !bytes.Equal(got, want):
					t.Errorf("bit %d: %s", bit, difference(got, want))
				}
				if err == io.EOF {
					unchanged++
				} else if kind, offset := kindOf(err); kind == 0 || offset > int64(len(file)) {
					t.Errorf("bit %d: error %v is not an *Error within the file", bit, err)
				}
				flipped[bit/8] ^= 0x80 >> (bit % 8)
			}
			t.Logf("%d of %d flips left the content unchanged", unchanged, len(file)*8)
		})
	}
}

func isRandomised(err error) bool {
	return err != nil && strings.Contains(err.Error(), "randomization")
}

func TestVerdicts(t *testing.T) {
	text := []byte("she sells sea shells")
	block := testBlock{content: text}
	stream := encode(testStream{blocks: []testBlock{block}})
	empty := encode(testStream{})
	n := int64(len(stream))
	footer := n - 11 // its magic begins in this byte
	wrong := uint32(0xdeadbeef)
	beyond := uint32(len(encodeRuns(text, 255)))
	alphabet := len(encodeAlphabet(text)) + 2
	end := uint16(alphabet - 1)
	anywhere := int64(-1)
	one := func(b testBlock) []byte { return encode(testStream{blocks: []testBlock{b}}) }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

	for _, test := range []struct {
		name   string
		file   []byte
		kind   Kind
		offset int64
	}{
		{"empty", nil, Empty, 0},
		{"text", []byte("Hello, world"), NotBzip2, 0},
		{"level 0", []byte("BZh01AY&SY"), NotBzip2, 0},
		{"bzip1", []byte("BZ0"), NotBzip2, 0},
		{"no block", []byte("BZh9 1AY&SY"), Corrupt, 4},
		{"header only", []byte("BZh9"), Truncated, 4},
		{"zeros behind", join(stream, make([]byte, 512)), TrailingGarbage, n},
		{"one zero behind", join(stream, []byte{0}), TrailingGarbage, n},
		{"garbage behind an empty stream", join(empty, []byte("x")), TrailingGarbage, int64(len(empty))},
		{"garbage before a stream", join(stream, []byte("garbage"), stream), TrailingGarbage, n},
		{"garbage like a header", join(stream, []byte("BZh9 garbage"), stream), TrailingGarbage, n},
		{"garbage of a block", join(stream, stream[4:]), TrailingGarbage, n},
		{"a header's beginning behind", join(stream, []byte("BZ")), Truncated, n + 2},
		{"block checksum", one(testBlock{content: text, crc: &wrong}), BlockChecksum, 4},
		{"stream checksum", encode(testStream{blocks: []testBlock{block}, crc: &wrong}), StreamChecksum, footer},
		{"checksum of an empty stream", encode(testStream{crc: &wrong}), StreamChecksum, 4},
		{"origin", one(testBlock{content: text, origin: &beyond}), Corrupt, anywhere},
		{"no bytes in use", one(testBlock{content: text, inUse: []byte{}, symbols: []uint16{0, 1}}), Corrupt, anywhere},
		{"no symbols", one(testBlock{content: text, symbols: []uint16{end}}), Corrupt, anywhere},
		{"one table", one(testBlock{content: text, tables: [][]uint8{completeCode(alphabet)}}), Corrupt, anywhere},
		{"seven tables", one(testBlock{content: text, tables: append(sixTables(text), completeCode(alphabet))}), Corrupt, anywhere},
		{"no selectors", one(testBlock{content: text, selectors: []uint8{}}), Corrupt, anywhere},
		{"selectors too few", one(testBlock{content: prose(2000), selectors: []uint8{0, 1}}), Corrupt, anywhere},
		{"selector of no table", one(testBlock{content: text, selectors: []uint8{2}}), Corrupt, anywhere},
		{"code length 0", one(testBlock{content: text, badLength: true}), Corrupt, anywhere},
		{"code length 21", one(testBlock{content: text, tables: [][]uint8{completeCode(alphabet), flatCode(alphabet, 21)}}), Corrupt, anywhere},
		{"run without a count", one(testBlock{content: []byte("aaaa"), text: []byte("aaaa")}), Corrupt, anywhere},
		{"zeros without a count", one(testBlock{content: make([]byte, 4), text: make([]byte, 4)}), Corrupt, anywhere},
		{"endless run", one(testBlock{content: text, symbols: append(bytes16(1, 200), end)}), Corrupt, anywhere},
		{"run of 2^20", one(testBlock{content: text, symbols: append(bytes16(0, 20), end)}), Corrupt, anywhere},
		{"many runs", one(testBlock{content: text, symbols: append(manyRuns(100), end)}), Corrupt, anywhere},
		{"level too low", encode(testStream{level: '1', blocks: []testBlock{{content: text, symbols: append(bytes16(0, 17), end)}}}), Corrupt, anywhere},
		{"no end", one(testBlock{content: text, symbols: bytes16(2, 900_000)}), Corrupt, anywhere},
		{"literals beyond capacity", one(testBlock{content: text, symbols: append(bytes16(3, 900_001), end)}), Corrupt, anywhere},
	} {
		t.Run(test.name, func(t *testing.T) {
			for workers := 1; workers <= 3; workers++ {
				_, err := decode(t, bytes.NewReader(test.file), workers)
				kind, offset := kindOf(err)
				if kind != test.kind || test.offset != anywhere && offset != test.offset {
					t.Errorf("%d workers: error %v; want %v at %d", workers, err, test.kind, test.offset)
				}
			}
			if _, err := dsnetDecode(test.file); err == nil {
				t.Error("dsnet accepts it")
			}
		})
	}
}

// bytes16 returns n times the symbol s.
func bytes16(s uint16, n int) []uint16 {
	p := make([]uint16, n)
	for i := range p {
		p[i] = s
	}
	return p
}

// manyRuns returns runs of 65,535 with a literal before each.
func manyRuns(n int) []uint16 {
	var p []uint16
	for range n {
		p = append(p, 3)
		p = append(p, bytes16(0, 16)...)
	}
	return p
}

// TestCapacity decodes the longest block there can be, and one that is longer.
func TestCapacity(t *testing.T) {
	// One byte in use: symbol 2 ends the block, and two equal codes of 1 bit
	// and one of 2 are complete.
	zeros := func(n int) []byte {
		var symbols []uint16
		for v := n + 1; v > 1; v >>= 1 {
			symbols = append(symbols, uint16(v&1))
		}
		// Text of n zeros: runs of four with a count of zero.
		b := testBlock{inUse: []byte{0}, symbols: append(symbols, 2), text: []byte{0}}
		var sum checksum
		sum.reset()
		sum.writeZeros(int64(n / 5 * 4))
		crc := sum.value()
		b.crc = &crc
		origin := uint32(n - 1)
		b.origin = &origin
		return encode(testStream{blocks: []testBlock{b}})
	}
	got, err := decode(t, bytes.NewReader(zeros(maxText)), 1)
	if err != io.EOF || len(got) != maxText/5*4 {
		t.Errorf("decode a block of 900,000 = %d bytes, %v; want %d, io.EOF", len(got), err, maxText/5*4)
	}
	if _, err := decode(t, bytes.NewReader(zeros(maxText+5)), 1); err == io.EOF {
		t.Error("decode a block of 900,005: no error")
	}
}

// TestEndlessCodeLengths has a code length go up and down for ever: it must not
// be followed to the end of the file.
func TestEndlessCodeLengths(t *testing.T) {
	file := encode(testStream{blocks: []testBlock{{content: []byte("ab")}}})
	var w bitWriter
	w.bytes = append(w.bytes, "BZh9"...)
	w.write(blockMagic, magicBits)
	w.write(0, 32+1+24)
	writeInUse(&w, []byte("ab"))
	w.write(2, 3)
	w.write(1, 15)
	w.write(0, 1)
	w.write(5, 5)
	for len(w.bytes) < 3*maxBlock {
		w.write(0b1011_1011, 8)
	}
	file = append(w.bytes, file...)
	_, err := decode(t, bytes.NewReader(file), 2)
	if kind, offset := kindOf(err); kind != Corrupt || offset > maxBlock+inputSize {
		t.Errorf("error %v; want %v within %d bytes", err, Corrupt, maxBlock)
	}
}
