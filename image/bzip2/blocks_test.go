package bzip2

import (
	"bytes"
	"os/exec"
	"testing"
)

func ascending(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i)
	}
	return p
}

func TestDecodeStreams(t *testing.T) {
	empty := encode(testStream{})
	a, b := prose(300_000), diskLike(250_000)
	fileA, fileB := compress(t, a, 1), compress(t, b, 9)
	for _, test := range []struct {
		name  string
		parts [][]byte
		want  [][]byte
	}{
		{"empty stream", [][]byte{empty}, nil},
		{"empty streams", [][]byte{empty, empty, empty}, nil},
		{"between others", [][]byte{empty, fileA, empty, empty, fileB, empty}, [][]byte{a, b}},
		{"levels up", [][]byte{fileA, fileB}, [][]byte{a, b}},
		{"levels down", [][]byte{fileB, fileA}, [][]byte{b, a}},
		{"many", repeat(encode(testStream{blocks: []testBlock{{content: []byte("tiny")}}}), 3000), repeat([]byte("tiny"), 3000)},
		{"many empty", repeat(empty, 400_000), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkDecodes(t, bytes.Join(test.parts, nil), bytes.Join(test.want, nil))
		})
	}
}

func repeat(p []byte, n int) [][]byte {
	parts := make([][]byte, n)
	for i := range parts {
		parts[i] = p
	}
	return parts
}

func TestDecodeOddBlocks(t *testing.T) {
	short := []byte("she sells sea shells by the sea shore")
	long := prose(4000)
	repetitive := bytes.Repeat([]byte("abcdefgh"), 600)
	alphabet := len(encodeAlphabet(short)) + 2
	for _, test := range []struct {
		name   string
		blocks []testBlock
	}{
		{"plain", []testBlock{{content: short}}},
		{"tiny blocks", tinyBlocks(2000)},
		{"randomised", []testBlock{{content: repetitive, randomised: true}}},
		{"randomised, short", []testBlock{{content: short, randomised: true}}},
		{"randomised among others", []testBlock{{content: long}, {content: repetitive, randomised: true}, {content: long, randomised: true}, {content: short}}},
		{"run of 4+255", []testBlock{{content: make([]byte, 259), maxRun: 259}}},
		{"runs of 4+255", []testBlock{{content: bytes.Repeat([]byte("z"), 259*40+3), maxRun: 259}}},
		{"zeros of 4+255", []testBlock{{content: make([]byte, 259*40+3), maxRun: 259}}},
		{"runs of four", []testBlock{{content: bytes.Repeat([]byte("z"), 403), maxRun: 4}}},
		{"zeros of four", []testBlock{{content: make([]byte, 20_003), maxRun: 4}, {content: make([]byte, 3), maxRun: 4}, {content: make([]byte, 1027), maxRun: 4}}},
		{"selectors beyond need", []testBlock{{content: short, extra: 30}}},
		{"all selectors", []testBlock{{content: short, extra: 32_766}}},
		{"six tables", []testBlock{{content: long, tables: sixTables(long)}}},
		{"long codes", []testBlock{{content: short, tables: [][]uint8{flatCode(alphabet, 20), flatCode(alphabet, 17)}}}},
		{"under-subscribed", []testBlock{{content: short, tables: [][]uint8{flatCode(alphabet, 6), flatCode(alphabet, 9)}}}},
		{"over-subscribed and unused", []testBlock{{content: short, tables: [][]uint8{completeCode(alphabet), flatCode(alphabet, 1)}, selectors: []uint8{0, 0, 0}}}},
		{"bytes in use that do not occur", []testBlock{{content: []byte("aaa"), inUse: ascending(256)}}},
		{"each byte once", []testBlock{{content: ascending(256)}}},
		{"descending", []testBlock{{content: descending(256)}}},
		{"lengths of a walk", manyLengths()},
	} {
		t.Run(test.name, func(t *testing.T) {
			var want []byte
			for _, b := range test.blocks {
				want = append(want, b.content...)
			}
			file := encode(testStream{blocks: test.blocks})
			checkDecodes(t, file, want)
			if _, err := exec.LookPath("bzip2"); err != nil {
				return
			}
			cmd := exec.Command("bzip2", "-dc")
			cmd.Stdin = bytes.NewReader(file)
			if got, err := cmd.Output(); err != nil || !bytes.Equal(got, want) {
				t.Errorf("bzip2 -dc: error %v, %s", err, difference(got, want))
			}
		})
	}
}

func encodeAlphabet(p []byte) map[byte]bool {
	seen := make(map[byte]bool)
	for _, b := range p {
		seen[b] = true
	}
	return seen
}

func tinyBlocks(n int) []testBlock {
	blocks := make([]testBlock, n)
	for i := range blocks {
		blocks[i].content = []byte{byte(i), byte(i >> 8)}
	}
	return blocks
}

func sixTables(p []byte) [][]uint8 {
	n := len(encodeAlphabet(p)) + 2
	tables := [][]uint8{completeCode(n)}
	for l := uint8(6); l < 11; l++ {
		tables = append(tables, flatCode(n, l))
	}
	return tables
}

func descending(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(n - 1 - i)
	}
	return p
}

// manyLengths returns blocks of every length around the number of segments
// that the inverse transform is cut into.
func manyLengths() []testBlock {
	var blocks []testBlock
	for _, n := range []int{1, 2, 3, 31, 32, 33, 63, 64, 65, marks - 1, marks, marks + 1, 2*marks - 1, 2 * marks, 2*marks + 1} {
		blocks = append(blocks, testBlock{content: prose(n)}, testBlock{content: noise(n)})
	}
	return blocks
}

func TestMagicInsideABlock(t *testing.T) {
	// With a flat code of 8 bits nearly any bytes can be written as symbols:
	// here whole blocks, and marks by the thousand.
	inner := encode(testStream{blocks: []testBlock{{content: []byte("decoy")}, {content: prose(700)}}})
	magic := []byte{0x31, 0x41, 0x59, 0x26, 0x53, 0x59}
	for _, test := range []struct {
		name  string
		decoy []byte
	}{
		{"marks", bytes.Repeat(magic, 8000)},
		{"blocks", bytes.Repeat(inner[headerSize:], 60)},
	} {
		t.Run(test.name, func(t *testing.T) {
			block, err := disguise(test.decoy, 0)
			if err != nil {
				t.Fatal(err)
			}
			file := encode(testStream{blocks: []testBlock{{content: prose(500)}, block, {content: noise(500)}, block}})
			want, err := dsnetDecode(file)
			if err != nil {
				t.Fatal(err)
			}
			checkDecodes(t, file, want)
		})
	}
}

// disguise makes a block whose codes spell p, leaving out bytes that would be
// the end of the block. Its origin is a row of choice, and its checksum that of
// what the stages of this package make of it: content has to be compared.
func disguise(p []byte, origin uint32) (testBlock, error) {
	const used = 254
	b := testBlock{inUse: ascending(used), origin: &origin}
	lengths := flatCode(used+2, 8) // complete: symbol s is the byte s
	b.tables = [][]uint8{lengths, lengths}
	var list []uint64
	move, digit := uint64(0), 0
	for _, c := range p {
		symbol := min(int(c), used)
		b.symbols = append(b.symbols, uint16(symbol))
		op := uint64(operation(symbol))
		if op&digitFlag == 0 {
			list = append(list, move)
			move, digit = op, 0
			continue
		}
		move += op & moveMask << digit
		if digit++; digit > 40 {
			return b, malformed("run")
		}
	}
	b.symbols = append(b.symbols, used+1)
	var m moveToFront
	m.reset(b.inUse)
	if err := m.apply(append(list, move)); err != nil {
		return b, err
	}
	if origin >= uint32(m.n) {
		return b, malformed("origin")
	}
	m.finish()
	var inverse inverseBWT
	b.text = inverse.decode(m.column, m.n, origin)
	content, err := expandAll(b.text)
	b.content = content
	return b, err
}

// expandAll undoes the first run-length coding of a text.
func expandAll(text []byte) (content []byte, err error) {
	x := expander{
		take: func() (*batch, error) { return new(batch), nil },
		emit: func(b *batch) error {
			at := int64(0)
			for _, s := range b.spans {
				if s.zeros {
					content = append(content, make([]byte, s.n)...)
					continue
				}
				content = append(content, b.data[at:at+s.n]...)
				at += s.n
			}
			return nil
		},
	}
	_, err = x.expand(text)
	return content, err
}
