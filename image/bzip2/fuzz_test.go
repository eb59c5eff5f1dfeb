package bzip2

import (
	"bytes"
	"io"
	"testing"

	dsnet "github.com/dsnet/compress/bzip2"
)

// FuzzDecode compares verdict and content with dsnet's, randomised blocks
// excepted, and one worker with three.
func FuzzDecode(f *testing.F) {
	small, _ := smallFile()
	f.Add(small)
	f.Add(encode(testStream{}))
	f.Add(encode(testStream{blocks: []testBlock{{content: bytes.Repeat([]byte("abcdefgh"), 100), randomised: true}}}))
	f.Add(encode(testStream{blocks: []testBlock{{content: make([]byte, 6000), maxRun: 259}, {content: make([]byte, 5000)}}}))
	f.Add(encode(testStream{level: '1', blocks: []testBlock{{content: []byte("under"), tables: [][]uint8{flatCode(7, 6), flatCode(7, 12)}}}}))
	f.Fuzz(func(t *testing.T, file []byte) {
		// Some kilobytes can stand for gigabytes; compare their beginning.
		const limit = 8 << 20
		got, err := readUpTo(bytes.NewReader(file), 3, limit)
		again, err2 := readUpTo(iotestChunks{bytes.NewReader(file)}, 1, limit)
		if !bytes.Equal(got, again) || (err == io.EOF) != (err2 == io.EOF) {
			t.Fatalf("3 workers: %d bytes, %v; 1 worker: %d bytes, %v", len(got), err, len(again), err2)
		}
		if e, is := err.(*Error); err != nil && err != io.EOF && (!is || e.Offset < 0 || e.Offset > int64(len(file))) {
			t.Fatalf("error %v is not an *Error within %d bytes", err, len(file))
		}
		r, rerr := dsnet.NewReader(bytes.NewReader(file), nil)
		if rerr != nil {
			t.Fatal(rerr)
		}
		want, wantErr := io.ReadAll(io.LimitReader(r, limit))
		if len(want) == limit || isRandomised(wantErr) {
			if n := min(len(got), len(want)); !bytes.Equal(got[:n], want[:n]) {
				t.Fatal(difference(got, want))
			}
			return
		}
		if (err == io.EOF) != (wantErr == nil) {
			t.Fatalf("error %v; dsnet: %v", err, wantErr)
		}
		if wantErr == nil && !bytes.Equal(got, want) {
			t.Fatal(difference(got, want))
		}
	})
}

// FuzzBlock takes the content of a block and how it is to be encoded, so that
// the stages behind the checksum are reached.
func FuzzBlock(f *testing.F) {
	f.Add([]byte("abracadabra"), byte(0), false)
	f.Add(bytes.Repeat([]byte("ab"), 400), byte(255), true)
	f.Add(make([]byte, 5000), byte(200), false)
	f.Fuzz(func(t *testing.T, content []byte, maxRun byte, randomised bool) {
		if len(content) == 0 || len(content) > 6000 {
			return
		}
		b := testBlock{content: content, maxRun: 4 + int(maxRun), randomised: randomised}
		got, err := readUpTo(bytes.NewReader(encode(testStream{blocks: []testBlock{b, {content: content}}})), 2, 1<<20)
		if want := append(bytes.Clone(content), content...); err != io.EOF || !bytes.Equal(got, want) {
			t.Fatalf("error %v, %s", err, difference(got, want))
		}
	})
}

// FuzzSymbols makes blocks of any symbols, which are mostly the transform of no
// text, with a checksum that is right, and compares with dsnet.
func FuzzSymbols(f *testing.F) {
	f.Add([]byte("abracadabra"), uint32(3))
	f.Add([]byte{5, 0, 5, 1, 1, 0, 9, 9, 0, 0, 3, 3}, uint32(0))
	f.Add(bytes.Repeat([]byte{3, 0}, 300), uint32(100))
	f.Add(append([]byte{0}, bytes.Repeat([]byte{1, 1, 1, 1, 1, 4}, 30)...), uint32(1))
	f.Fuzz(func(t *testing.T, symbols []byte, origin uint32) {
		b, malformed := disguise(symbols, origin&(1<<24-1))
		file := encode(testStream{blocks: []testBlock{b, {content: []byte("and on")}}})
		got, err := readUpTo(bytes.NewReader(file), 2, 256<<20)
		want, wantErr := dsnetDecode(file)
		if (err == io.EOF) != (wantErr == nil) || (malformed == nil) != (wantErr == nil) {
			t.Fatalf("error %v; dsnet: %v; stages: %v", err, wantErr, malformed)
		}
		if wantErr == nil && !bytes.Equal(got, want) {
			t.Fatal(difference(got, want))
		}
	})
}

// iotestChunks returns three bytes at a time.
type iotestChunks struct{ r io.Reader }

func (c iotestChunks) Read(p []byte) (int, error) { return c.r.Read(p[:min(len(p), 3)]) }

// readUpTo decodes until an error or until it has limit bytes.
func readUpTo(src io.Reader, workers, limit int) ([]byte, error) {
	r := NewReader(src, Options{Workers: workers})
	defer r.Close()
	var out []byte
	for {
		c, err := r.Next()
		if err != nil {
			return out, err
		}
		out = append(out, c.Data[:min(len(c.Data), limit-len(out))]...)
		out = append(out, make([]byte, min(c.Zeros, int64(limit-len(out))))...)
		if len(out) == limit {
			return out, nil
		}
	}
}
