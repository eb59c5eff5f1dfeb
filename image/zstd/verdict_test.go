package zstd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"
)

// smallFile has frames of text with and without a size, an empty and a skippable
// one. It returns its content and the offsets at which frames end.
func smallFile(t testing.TB) (file, content []byte) {
	a, b := prose(1, 300), noise(2, 40)
	file = tool(t, a, "zstd", "-19", fmt.Sprintf("--stream-size=%d", len(a)))
	file = append(file, skippableFrame(5)...)
	file = append(file, tool(t, nil, "zstd")...)
	file = append(file, tool(t, b, "zstd")...)
	return file, append(a, b...)
}

func TestTruncation(t *testing.T) {
	file, content := smallFile(t)
	whole := map[int]bool{len(file): true}
	for at := range file {
		if at > 0 && at+4 <= len(file) && mayBeFrame(file[at:at+4]) {
			whole[at] = true
		}
	}
	if len(whole) != 4 {
		t.Fatalf("%d frames; want 4", len(whole))
	}
	for n := range len(file) + 1 {
		for _, w := range ways() {
			for _, src := range []io.Reader{bytes.NewReader(file[:n]), iotest.DataErrReader(bytes.NewReader(file[:n]))} {
				got, err := decode(t, src, w, unlimited)
				kind, at := kindOf(err)
				switch {
				case whole[n]:
					if err != io.EOF {
						t.Errorf("cut at %d, between frames, %+v: %v; want EOF", n, w, err)
					}
				case n == 0:
					if kind != Empty || at != 0 {
						t.Errorf("cut at 0, %+v: %v; want %v", w, err, Empty)
					}
				case kind != Truncated || at != int64(n):
					t.Errorf("cut at %d, %+v: %v; want %v there", n, w, err, Truncated)
				}
				if !bytes.HasPrefix(content, got) {
					t.Errorf("cut at %d, %+v: other content", n, w)
				}
			}
		}
	}
}

func TestBitFlips(t *testing.T) {
	file, content := smallFile(t)
	flipped := bytes.Clone(file)
	unchanged := 0
	for bit := range len(file) * 8 {
		flipped[bit/8] ^= 1 << (bit % 8)
		for _, w := range ways()[bit%4:][:2] {
			got, err := decode(t, bytes.NewReader(flipped), w, unlimited)
			kind, at := kindOf(err)
			switch {
			case err == io.EOF && !bytes.Equal(got, content):
				t.Errorf("bit %d, %+v: other content and no error", bit, w)
			case err == io.EOF:
				unchanged++
			case kind == 0 || at > int64(len(file)):
				t.Errorf("bit %d, %+v: %v is not an *Error within the file", bit, w, err)
			}
		}
		flipped[bit/8] ^= 1 << (bit % 8)
	}
	t.Logf("%d of %d decodings gave the content all the same", unchanged, len(file)*16)
}

func TestVerdicts(t *testing.T) {
	raw := func(s string) testBlock { return testBlock{data: []byte(s)} }
	good := testFrame{content: 4, window: 17, blocks: []testBlock{raw("good")}}
	first := encode(good)
	n := int64(len(first))
	behind := func(f testFrame) []byte { return append(bytes.Clone(first), encode(f)...) }
	text := tool(t, prose(1, 5000), "zstd")
	wrongSum := bytes.Clone(text)
	wrongSum[len(wrongSum)-1] ^= 1
	claims := testFrame{content: defaultSmall, window: 20, blocks: rle('x', 3)}
	large := testFrame{content: -1, window: 20, blocks: append(rle('x', 20<<20), testBlock{kind: 2, data: []byte("no block")})}
	largeFile := encode(large)
	fewer := testFrame{content: 20<<20 + 1, window: 20, blocks: rle('x', 20<<20)}
	for _, tt := range []struct {
		name string
		file []byte
		kind Kind
		at   int64
	}{
		{"empty", nil, Empty, 0},
		{"text", []byte("text"), NotZstd, 0},
		{"a byte", []byte("x"), NotZstd, 0},
		{"zero", append(bytes.Clone(first), 0), TrailingGarbage, n},
		{"zeros", append(bytes.Clone(first), make([]byte, 512)...), TrailingGarbage, n},
		{"gzip behind it", append(bytes.Clone(first), 0x1f, 0x8b, 8, 0), TrailingGarbage, n},
		{"half a magic", append(bytes.Clone(first), 0x28, 0xb5), Truncated, n + 2},
		{"half a skippable magic", append(bytes.Clone(first), 0x5f), Truncated, n + 1},
		{"cut skippable frame", append(bytes.Clone(first), skippableFrame(10)[:12]...), Truncated, n + 12},
		{"only a skippable frame", skippableFrame(10), NoContent, 18},
		{"only an empty frame", encode(testFrame{content: 0, window: 10, blocks: []testBlock{raw("")}}), NoContent, 17},
		{"reserved bit", behind(testFrame{content: -1, window: 10, bits: 8, blocks: good.blocks}), Corrupt, n + 4},
		{"window", behind(testFrame{content: -1, window: 27, blocks: good.blocks}), WindowTooLarge, n + 5},
		{"window of terabytes", behind(testFrame{content: -1, window: 41, blocks: good.blocks}), WindowTooLarge, n + 5},
		{"single segment", behind(testFrame{content: 64<<20 + 1, blocks: good.blocks}), WindowTooLarge, n + 5},
		{"dictionary", behind(testFrame{content: 4, window: 10, bits: 1, fields: []byte{9}, blocks: good.blocks}), DictionaryNeeded, n + 6},
		{"absurd size", behind(testFrame{content: -2 << 62, window: 10, bits: 3 << 6, fields: []byte{0, 0, 0, 0, 0, 0, 0, 0x80}, blocks: good.blocks}), ContentSize, n + 6},
		{"reserved block", behind(testFrame{content: -1, window: 17, blocks: []testBlock{raw("x"), {kind: 3}}}), Corrupt, n + 6 + 4},
		{"long block", behind(testFrame{content: -1, window: 10, blocks: []testBlock{{data: make([]byte, 1025)}}}), Corrupt, n + 6},
		{"very long block", behind(testFrame{content: -1, window: 23, blocks: []testBlock{{kind: 1, data: []byte("x"), n: maxBlock + 1}}}), Corrupt, n + 6},
		{"bad block", behind(testFrame{content: -1, window: 17, blocks: []testBlock{raw("x"), raw(""), {kind: 2, data: []byte("no block")}, raw("y")}}), Corrupt, n + 6 + 4 + 3},
		{"bad block in a large frame", behind(large), Corrupt, n + int64(len(largeFile)) - 11},
		{"claims more", behind(claims), ContentSize, n + 6},
		{"claims more than a large frame has", behind(fewer), ContentSize, n + 6},
		{"claims less", behind(testFrame{content: 3, window: 17, blocks: good.blocks}), ContentSize, n + 6},
		{"wrong checksum", behind(testFrame{content: 4, window: 17, blocks: good.blocks, checksum: []byte("sum!")}), Checksum, n + 14 + 7},
		{"wrong checksum of text", append(bytes.Clone(first), wrongSum...), Checksum, n + int64(len(wrongSum)) - 4},
		{"no checksum", behind(testFrame{content: 4, window: 17, bits: 4, blocks: good.blocks}), Truncated, n + 14 + 7},
	} {
		for _, w := range ways() {
			got, err := decode(t, bytes.NewReader(tt.file), w, unlimited)
			if kind, at := kindOf(err); kind != tt.kind || at != tt.at {
				t.Errorf("%s, %+v: %v; want %v at %d", tt.name, w, err, tt.kind, tt.at)
			}
			if bytes.HasPrefix(tt.file, first) && !bytes.HasPrefix(got, []byte("good")) {
				t.Errorf("%s, %+v: %d bytes; want the frame before the error", tt.name, w, len(got))
			}
		}
	}
}

// The command makes windows that Options can allow.
func TestMaxWindow(t *testing.T) {
	content := prose(1, 5000)
	file := tool(t, content, "zstd", "--ultra", "-22", "--long=27")
	r := NewReader(bytes.NewReader(file), Options{})
	if _, err := io.Copy(io.Discard, r); !isKind(err, WindowTooLarge) {
		t.Errorf("window of 128 MiB: %v; want %v", err, WindowTooLarge)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	r = NewReader(bytes.NewReader(file), Options{MaxWindow: 128 << 20})
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content) {
		t.Errorf("window of 128 MiB, allowed: %d bytes, %v; want %d", len(got), err, len(content))
	}
}

func isKind(err error, kind Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == kind
}
