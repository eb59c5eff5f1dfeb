package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"aead.dev/minisign"
	"github.com/dsnet/compress/bzip2"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// raw is an image of n bytes with a boot sector, data, and zeros.
func raw(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < n/3; i++ {
		b[i] = byte(r.Uint32())
	}
	if n >= 512 {
		b[510], b[511] = 0x55, 0xaa
	}
	return b
}

func compress(t testing.TB, format Format, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch format {
	case Bzip2:
		w, err = bzip2.NewWriter(&out, nil)
	case Gzip:
		w = gzip.NewWriter(&out)
	case XZ:
		w, err = xz.NewWriter(&out)
	case Zstd:
		w, err = zstd.NewWriter(&out)
	default:
		return b
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func formats() []Format { return []Format{Bzip2, Gzip, XZ, Zstd, Raw} }

func decode(b []byte) ([]byte, Format, error) {
	d, err := Decode(bytes.NewReader(b), 2)
	if err != nil {
		return nil, "", err
	}
	out, err := io.ReadAll(d)
	return out, d.Format, errors.Join(err, d.Close())
}

func TestDecode(t *testing.T) {
	want := raw(1 << 20)
	for _, format := range formats() {
		got, as, err := decode(compress(t, format, want))
		if err != nil || as != format || !bytes.Equal(got, want) {
			t.Errorf("%s: Decode: %d bytes as %q, %v; want %d", format, len(got), as, err, len(want))
		}
	}
}

// A damaged image is never taken for a whole one, wherever it was cut and whatever
// follows it.
func TestDecodeDamaged(t *testing.T) {
	want := raw(1 << 18)
	for _, format := range []Format{Bzip2, Gzip, XZ, Zstd} {
		whole := compress(t, format, want)
		for _, n := range []int{1, 5, 20, len(whole) / 2, len(whole) - 9, len(whole) - 1} {
			if got, _, err := decode(whole[:n]); err == nil {
				t.Errorf("%s cut to %d of %d bytes: %d bytes and no error", format, n, len(whole), len(got))
			}
		}
		if _, _, err := decode(append(bytes.Clone(whole), "garbage"...)); err == nil {
			t.Errorf("%s with trailing garbage: no error", format)
		}
		flipped := bytes.Clone(whole)
		flipped[len(flipped)/2] ^= 4
		if got, _, err := decode(flipped); err == nil && !bytes.Equal(got, want) {
			t.Errorf("%s with a flipped bit: another output and no error", format)
		}
	}
}

func TestDetect(t *testing.T) {
	for _, tt := range []struct{ head, want string }{
		{"", "the image is empty"},
		{"BZh0", "expected bzip2"},
		{"PK\x03\x04 a zip", "expected bzip2"},
		{strings.Repeat("\x00", 512), "expected bzip2"},
	} {
		if f, err := Detect([]byte(tt.head)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Detect(%q) = %q, %v; want an error with %q", tt.head, f, err, tt.want)
		}
	}
}

// reader makes a Source of a plain reader.
type reader struct{ r io.Reader }

func (r reader) Next(buf []byte) (Chunk, error) { return readChunk(r.r, buf) }

func pool(t *testing.T) *Pool {
	t.Helper()
	p, err := NewPool(4, func(n int) ([]byte, error) { return make([]byte, n), nil })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Sizes around the borders of ranges, through readers that deliver little.
func TestEachAndMap(t *testing.T) {
	for _, n := range []int{0, 1, 511, RangeBytes - 1, RangeBytes, RangeBytes + 1, 2*RangeBytes + 512} {
		b := raw(n)
		readers := map[string]io.Reader{"plain": bytes.NewReader(b), "data with EOF": iotest.DataErrReader(bytes.NewReader(b)), "half": iotest.HalfReader(bytes.NewReader(b))}
		for name, r := range readers {
			var recorder Recorder
			got := make([]byte, n)
			next := int64(0)
			size, err := Each(context.Background(), reader{r}, nil, pool(t), func(part Range) error {
				if part.Off != next {
					t.Errorf("%d %s: inspect at %d; want %d", n, name, part.Off, next)
				}
				next += int64(len(part.Data))
				return nil
			}, func(part Range) error {
				recorder.Note(part)
				if !part.Zero { // got is zero already
					copy(got[part.Off:], part.Data)
				}
				return nil
			})
			if err != nil || size != int64(n) || !bytes.Equal(got, b) {
				t.Errorf("Each(%d bytes, %s) = %d, %v", n, name, size, err)
			}
			m := recorder.Map(size)
			if err := checkWhole(m, b); err != nil {
				t.Errorf("%d %s: %v", n, name, err)
			}
		}
	}
}

// checkWhole holds a map against an image, and against the image with changes.
func checkWhole(m *Map, b []byte) error {
	for i, r := range m.Ranges {
		part := Range{Index: i, Off: r.Off, Data: b[r.Off:r.End()], Zero: AllZero(b[r.Off:r.End()])}
		if err := m.Check(part); err != nil {
			return err
		}
		part.Data = bytes.Clone(part.Data)
		part.Data[0] ^= 1
		part.Zero = AllZero(part.Data)
		if err := m.Check(part); err == nil {
			return fmt.Errorf("Check of a changed range %d = nil", i)
		}
	}
	return nil
}

// chunks is a source that says which pieces are zeros.
type chunks []Chunk

func (c *chunks) Next([]byte) (Chunk, error) {
	if len(*c) == 0 {
		return Chunk{}, io.EOF
	}
	first := (*c)[0]
	*c = (*c)[1:]
	return first, nil
}

// Runs of zeros across the borders of ranges are zeros wherever the buffer had
// something else before.
func TestEachWithZeros(t *testing.T) {
	data := bytes.Repeat([]byte("data"), 1000)
	src := &chunks{{Zeros: 100}, {Data: data}, {Zeros: 2*RangeBytes - 50}, {Data: data}, {Data: make([]byte, 500)}, {Zeros: 3 * RangeBytes}, {Data: data[:1]}}
	var want []byte
	for _, c := range *src {
		want = append(append(want, c.Data...), make([]byte, c.Zeros)...)
	}
	p, err := NewPool(2, func(n int) ([]byte, error) { return bytes.Repeat([]byte{0xff}, n), nil })
	if err != nil {
		t.Fatal(err)
	}
	got := bytes.Repeat([]byte{0xee}, len(want))
	zeros := 0
	n, err := Each(context.Background(), src, nil, p, nil, func(part Range) error {
		if part.Zero {
			zeros++
			clear(got[part.Off:][:len(part.Data)])
		} else {
			copy(got[part.Off:], part.Data)
		}
		for i := range part.Data { // what the next range finds in its buffer
			part.Data[i] = 0xff
		}
		return nil
	})
	if err != nil || n != int64(len(want)) || !bytes.Equal(got, want) {
		t.Errorf("Each = %d, %v; want %d bytes as the chunks say", n, err, len(want))
	}
	if zeros == 0 {
		t.Error("no range was found to be zeros")
	}
}

// The end of a decoder's own data is not the end of the image.
func TestEachKeepsErrors(t *testing.T) {
	mine := errors.New("mine")
	for name, err := range map[string]error{"unexpected EOF": io.ErrUnexpectedEOF, "other": mine} {
		src := io.MultiReader(bytes.NewReader(raw(RangeBytes+5)), iotest.ErrReader(err))
		if _, got := Each(context.Background(), reader{src}, nil, pool(t), nil, func(Range) error { return nil }); !errors.Is(got, err) {
			t.Errorf("%s: Each = %v; want %v", name, got, err)
		}
	}
	p := pool(t)
	_, got := Each(context.Background(), reader{bytes.NewReader(raw(9 * RangeBytes))}, nil, p, nil, func(part Range) error {
		if part.Index == 2 {
			return mine
		}
		return nil
	})
	if !errors.Is(got, mine) {
		t.Errorf("Each with failing work = %v; want its error", got)
	}
	if len(p.free) != cap(p.free) {
		t.Errorf("%d of %d buffers came back", len(p.free), cap(p.free))
	}
}

func TestSignature(t *testing.T) {
	public, private, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key := func(p minisign.PublicKey) Key {
		text, err := p.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		k, err := ParseKey("key", text)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	image := raw(100000)
	signer := minisign.NewReader(bytes.NewReader(image))
	if _, err := io.Copy(io.Discard, signer); err != nil {
		t.Fatal(err)
	}
	good := signer.Sign(private)
	changed := bytes.Clone(image)
	changed[5000] ^= 1
	for _, tt := range []struct {
		name      string
		image     []byte
		signature []byte
		keys      []Key
		want      string
	}{
		{"right", image, good, []Key{key(other), key(public)}, ""},
		{"changed image", changed, good, []Key{key(public)}, "not what was signed"},
		{"shorter image", image[:99999], good, []Key{key(public)}, "not what was signed"},
		{"foreign key", image, good, []Key{key(other)}, "expected one of the trusted keys"},
		{"not prehashed", image, minisign.Sign(private, image), []Key{key(public)}, "not prehashed"},
		{"no signature", image, []byte("hello"), []Key{key(public)}, "parse signature"},
	} {
		c := NewSignatureCheck(bytes.NewReader(tt.image))
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Fatal(err)
		}
		by, err := c.By(tt.keys, tt.signature)
		switch {
		case tt.want == "" && (err != nil || by.ID() != key(public).ID()):
			t.Errorf("%s: By = %v, %v; want the key", tt.name, by, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: By = %v; want an error with %q", tt.name, err, tt.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, format := range formats() {
		f.Add(compress(f, format, raw(1000)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Decode(bytes.NewReader(b), 1)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(d, 1<<22))
		if err := d.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
}
