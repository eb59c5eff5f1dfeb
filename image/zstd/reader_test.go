package zstd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/zstd"
)

// way is one of the ways in which a file can be decoded.
type way struct{ workers, small int }

// ways are all of them: gathered and streamed, by the library's pipeline and
// without it, and frames of which some are small.
func ways() []way {
	return []way{{1, defaultSmall}, {2, defaultSmall}, {1, 0}, {3, 0}, {2, 300_000}}
}

func newReader(src io.Reader, w way) *Reader {
	return &Reader{d: newDecoder(src, Options{Workers: w.workers, MaxWindow: DefaultMaxWindow}, w.small)}
}

// decode returns what a file decodes to, up to a limit, and the error at the end.
func decode(t testing.TB, src io.Reader, w way, limit int) ([]byte, error) {
	t.Helper()
	r := newReader(src, w)
	defer func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	}()
	var out []byte
	for {
		c, err := r.Next()
		if err != nil {
			return out, err
		}
		if (len(c.Data) == 0) == (c.Zeros == 0) || c.Data == nil && c.Zeros < minZeros {
			t.Fatalf("chunk of %d bytes and %d zeros", len(c.Data), c.Zeros)
		}
		out = append(out, c.Data...)
		out = append(out, make([]byte, c.Zeros)...)
		if len(out) > limit {
			return out[:limit], nil
		}
	}
}

const unlimited = 1 << 40

// kindOf returns kind and offset of an *Error, and zero of others.
func kindOf(err error) (Kind, int64) {
	if e, is := err.(*Error); is {
		return e.Kind, e.Offset
	}
	return 0, 0
}

// sparse is like the image of a disk: text, noise, and more zeros than either.
func sparse(n int) []byte {
	out := make([]byte, n)
	copy(out, prose(1, n/4))
	copy(out[n/2:], noise(1, n/10))
	out[n-1] = 1
	return out
}

func frames(t testing.TB, parts [][]byte, args ...string) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, tool(t, p, "zstd", args...)...)
	}
	return out
}

func TestDecodeFilesOfTheTools(t *testing.T) {
	content := sparse(3_000_000)
	var parts [][]byte
	for rest := content; len(rest) > 0; {
		n := min(len(rest), 200_000+len(rest)/9)
		parts = append(parts, rest[:n])
		rest = rest[n:]
	}
	withEmpty := append([][]byte{{}, parts[0], {}}, parts[1:]...)
	seekable := skippableFrame(0)
	for _, p := range parts {
		seekable = append(append(seekable, tool(t, p, "zstd", "-1")...), skippableFrame(len(p)%100)...)
	}
	size := fmt.Sprintf("--stream-size=%d", len(content))
	for _, tt := range []struct {
		name    string
		file    []byte
		content []byte
	}{
		{"one frame", tool(t, content, "zstd", "-3"), content},
		{"one frame that says its size", tool(t, content, "zstd", "-3", size), content},
		{"no checksum", tool(t, content, "zstd", "-3", "--no-check"), content},
		{"hard", tool(t, content, "zstd", "-19", size), content},
		{"long", tool(t, content, "zstd", "-1", "--long=26"), content},
		{"fast", tool(t, content, "zstd", "--fast=5"), content},
		{"many frames", frames(t, parts, "-3"), content},
		{"empty frames among them", frames(t, withEmpty, "-3"), content},
		{"seekable", seekable, content},
		{"pzstd", tool(t, content, "pzstd", "-p", "2"), content},
		{"a byte", tool(t, []byte{7}, "zstd", "--stream-size=1"), []byte{7}},
		{"noise", tool(t, noise(3, 500_000), "zstd"), noise(3, 500_000)},
		{"zeros", tool(t, make([]byte, 20<<20), "zstd"), make([]byte, 20<<20)},
	} {
		for _, w := range ways() {
			got, err := decode(t, bytes.NewReader(tt.file), w, unlimited)
			if err != io.EOF || !bytes.Equal(got, tt.content) {
				t.Errorf("%s, %+v: %d bytes, %v; want the %d bytes", tt.name, w, len(got), err, len(tt.content))
			}
		}
	}
}

// Zeros are told as such, and not held.
func TestZeros(t *testing.T) {
	content := sparse(3_000_000)
	file := tool(t, content, "zstd", fmt.Sprintf("--stream-size=%d", len(content)))
	for _, w := range ways() {
		r := newReader(bytes.NewReader(file), w)
		var zeros int64
		for {
			c, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%+v: %v", w, err)
			}
			zeros += c.Zeros
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if want := int64(1_700_000); zeros < want { // of 1.95 MB
			t.Errorf("%+v: %d zeros; want at least %d", w, zeros, want)
		}
	}
}

func TestReadAndWriteTo(t *testing.T) {
	content := sparse(2_000_000)
	file := tool(t, content, "zstd")
	for _, w := range ways() {
		r := newReader(bytes.NewReader(file), w)
		var got bytes.Buffer
		for _, n := range []int64{1, 70_001, 999_999} {
			if _, err := io.CopyN(&got, onlyReader{r}, n); err != nil {
				t.Fatalf("%+v: Read: %v", w, err)
			}
		}
		c, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		got.Write(c.Data)
		got.Write(make([]byte, c.Zeros))
		if _, err := r.WriteTo(&got); err != nil {
			t.Fatalf("%+v: WriteTo: %v", w, err)
		}
		if !bytes.Equal(got.Bytes(), content) {
			t.Errorf("%+v: %d bytes; want the %d", w, got.Len(), len(content))
		}
		if n, err := r.Read(make([]byte, 9)); n != 0 || err != io.EOF {
			t.Errorf("%+v: Read at the end = %d, %v; want 0, EOF", w, n, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	r := NewReader(bytes.NewReader(file), Options{})
	defer r.Close()
	if _, err := r.WriteTo(shortWriter{}); err != io.ErrShortWrite {
		t.Errorf("WriteTo a short writer = %v; want %v", err, io.ErrShortWrite)
	}
}

type shortWriter struct{}

func (shortWriter) Write(p []byte) (int, error) { return len(p) - 1, nil }

func TestSources(t *testing.T) {
	content := prose(1, 400_000)
	file := frames(t, [][]byte{content[:150_000], content[150_000:]}, "-1")
	broken := errors.New("cable pulled")
	upTo := func(n int, err error) io.Reader {
		return io.MultiReader(bytes.NewReader(file[:n]), iotest.ErrReader(err))
	}
	half := len(file) / 2
	for _, tt := range []struct {
		name string
		src  func() io.Reader
		want error
	}{
		{"one byte", func() io.Reader { return iotest.OneByteReader(bytes.NewReader(file)) }, io.EOF},
		{"data with EOF", func() io.Reader { return iotest.DataErrReader(bytes.NewReader(file)) }, io.EOF},
		{"error in the middle", func() io.Reader { return upTo(half, broken) }, broken},
		{"error with data", func() io.Reader { return iotest.DataErrReader(upTo(half, broken)) }, broken},
		{"error at the end", func() io.Reader { return upTo(len(file), broken) }, broken},
		{"error at the start", func() io.Reader { return upTo(0, broken) }, broken},
		{"a decoder's truncation", func() io.Reader { return upTo(half, io.ErrUnexpectedEOF) }, io.ErrUnexpectedEOF},
		{"a decoder's truncation between frames", func() io.Reader { return upTo(len(file), io.ErrUnexpectedEOF) }, io.ErrUnexpectedEOF},
		{"nothing, for ever", func() io.Reader { return stalled{} }, io.ErrNoProgress},
	} {
		for _, w := range ways() {
			got, err := decode(t, tt.src(), w, unlimited)
			if !errors.Is(err, tt.want) || !bytes.HasPrefix(content, got) || err == io.EOF && len(got) < len(content) {
				t.Errorf("%s, %+v: %d bytes, %v; want %v", tt.name, w, len(got), err, tt.want)
			}
			if err != io.EOF && !strings.HasPrefix(err.Error(), "read compressed data at byte ") {
				t.Errorf("%s, %+v: %v names no place", tt.name, w, err)
			}
		}
	}
}

type stalled struct{}

func (stalled) Read([]byte) (int, error) { return 0, nil }

// Close ends whatever is going on, and leaves no goroutine behind.
func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	small := bytes.Repeat(tool(t, prose(1, 300_000), "zstd", "-1"), 40)
	large := tool(t, prose(1, 8_000_000), "zstd", "-1")
	for name, file := range map[string][]byte{"small frames": small, "a large frame": large, "both": append(bytes.Clone(small), large...)} {
		for _, w := range ways() {
			for _, chunks := range []int{0, 1} {
				r := newReader(bytes.NewReader(file), w)
				for range chunks {
					if _, err := r.Next(); err != nil {
						t.Fatalf("%s, %+v: %v", name, w, err)
					}
				}
				for range 2 {
					if err := r.Close(); err != nil {
						t.Errorf("%s, %+v: Close = %v", name, w, err)
					}
				}
				if _, err := r.Next(); !errors.Is(err, fs.ErrClosed) {
					t.Errorf("%s, %+v: Next after Close = %v; want %v", name, w, err, fs.ErrClosed)
				}
			}
		}
	}
	for _, w := range ways() { // after an error, with a file that goes on
		file := append(tool(t, prose(2, 100_000), "zstd", "-1"), large...)
		file[70] ^= 1
		r := newReader(bytes.NewReader(file), w)
		if _, err := io.Copy(io.Discard, r); err == nil {
			t.Errorf("%+v: no error", w)
		}
		if err := r.Close(); err != nil {
			t.Errorf("%+v: Close = %v", w, err)
		}
	}
	for _, w := range ways() { // while another waits for the source
		src, feed := io.Pipe()
		r := newReader(src, w)
		waiting := make(chan error)
		go func() {
			_, err := io.Copy(io.Discard, r)
			waiting <- err
		}()
		if _, err := feed.Write(large[:100_000]); err != nil {
			t.Fatal(err)
		}
		closed := make(chan error)
		go func() { closed <- r.Close() }()
		if err := <-waiting; !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%+v: while Close: %v; want %v", w, err, fs.ErrClosed)
		}
		feed.CloseWithError(io.EOF) // Close waits for the source
		if err := <-closed; err != nil {
			t.Errorf("%+v: Close = %v", w, err)
		}
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines; want %d\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

func FuzzDecode(f *testing.F) {
	small, _ := smallFile(f)
	f.Add(small)
	f.Add(tool(f, prose(1, 3000), "zstd", "-19"))
	f.Add(tool(f, prose(1, 3000), "zstd", "--no-check", "--stream-size=3000"))
	f.Add(encode(testFrame{content: 300_000, window: 18, blocks: rle(0, 300_000)}, testFrame{content: -1, window: 10, blocks: []testBlock{{data: []byte("raw")}}}))
	const limit = 8 << 20
	reference, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(DefaultMaxWindow), zstd.WithDecoderMaxMemory(1<<30))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		if len(file) > 4000 { // a few bytes can stand for 128 KiB
			return
		}
		want, wantErr := reference.DecodeAll(file, nil)
		for _, w := range ways() {
			got, err := decode(t, bytes.NewReader(file), w, limit)
			if err == nil { // that was more than the limit
				if !bytes.HasPrefix(want, got) && wantErr == nil {
					t.Fatalf("%+v: other content", w)
				}
				continue
			}
			kind, at := kindOf(err)
			if err != io.EOF && (kind == 0 || at < 0 || at > int64(len(file))) {
				t.Fatalf("%+v: %v is not an *Error within %d bytes", w, err, len(file))
			}
			if (err == io.EOF) == (wantErr == nil) {
				if err == io.EOF && !bytes.Equal(got, want) {
					t.Fatalf("%+v: %d bytes; klauspost: %d others", w, len(got), len(want))
				}
				continue
			}
			if kind == Empty || kind == NoContent || kind == ContentSize && strings.Contains(err.Error(), "claims 18446744073709551615") {
				continue
			}
			t.Fatalf("%+v: %v; klauspost: %v", w, err, wantErr)
		}
	})
}

// A frame of zeros that was met before is known by its bytes; one that differs from it
// in a single one is decoded and judged.
func TestRepeatedZeros(t *testing.T) {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	zeros, fewer, data := e.EncodeAll(make([]byte, 1<<20), nil), e.EncodeAll(make([]byte, 1<<20-1), nil), e.EncodeAll([]byte(strings.Repeat("data", 5000)), nil)
	var file, want []byte
	for _, f := range []struct{ file, content []byte }{
		{zeros, make([]byte, 1<<20)}, {zeros, make([]byte, 1<<20)}, {data, []byte(strings.Repeat("data", 5000))},
		{zeros, make([]byte, 1<<20)}, {fewer, make([]byte, 1<<20-1)}, {fewer, make([]byte, 1<<20-1)}, {zeros, make([]byte, 1<<20)},
	} {
		file, want = append(file, f.file...), append(want, f.content...)
	}
	for _, w := range ways() {
		got, err := decode(t, bytes.NewReader(file), w, unlimited)
		if err != io.EOF || !bytes.Equal(got, want) {
			t.Errorf("%+v: %d bytes, %v; want %d", w, len(got), err, len(want))
		}
		damaged := bytes.Clone(zeros)
		damaged[len(damaged)-1] ^= 1
		_, err = decode(t, bytes.NewReader(append(bytes.Repeat(zeros, 5), damaged...)), w, unlimited)
		if kind, _ := kindOf(err); kind != Checksum {
			t.Errorf("%+v: a wrong checksum behind known zeros: %v", w, err)
		}
	}
}
