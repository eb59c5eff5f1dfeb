package image

import (
	"bytes"
	"context"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExtents(t *testing.T) {
	for _, tt := range []struct {
		name      string
		in        []Extent
		gap, size int64
		union     []Extent
		rest      []Extent
	}{
		{"none", nil, 0, 100, nil, []Extent{{0, 100}}},
		{"all", []Extent{{0, 100}}, 0, 100, []Extent{{0, 100}}, nil},
		{"touching, unordered, nested, empty", []Extent{{50, 10}, {0, 10}, {10, 5}, {2, 3}, {70, 0}}, 0, 100, []Extent{{0, 15}, {50, 10}}, []Extent{{15, 35}, {60, 40}}},
		{"behind the end", []Extent{{90, 20}, {200, 5}}, 0, 100, []Extent{{90, 20}, {200, 5}}, []Extent{{0, 90}}},
		{"small gap", []Extent{{0, 10}, {13, 7}, {24, 1}}, 4, 30, []Extent{{0, 20}, {24, 1}}, []Extent{{10, 3}, {20, 4}, {25, 5}}},
	} {
		if diff := cmp.Diff(tt.union, Union(tt.in, tt.gap)); diff != "" {
			t.Errorf("%s: Union (-want +got):\n%s", tt.name, diff)
		}
		if diff := cmp.Diff(tt.rest, Complement(tt.in, tt.size)); diff != "" {
			t.Errorf("%s: Complement (-want +got):\n%s", tt.name, diff)
		}
	}
	if diff := cmp.Diff([]Extent{{8, 8}, {24, 8}}, Inward([]Extent{{5, 12}, {18, 4}, {24, 8}, {33, 7}}, 8)); diff != "" {
		t.Errorf("Inward (-want +got):\n%s", diff)
	}
}

// mapOf makes a map of extents of an image.
func mapOf(b []byte, extents ...Extent) *Map {
	m := &Map{Bytes: int64(len(b))}
	for _, e := range extents {
		part := Range{Off: e.Off, Data: b[e.Off:e.End()]}
		m.Ranges = append(m.Ranges, MapRange{e, part.Digest()})
	}
	return m
}

// With a map its ranges, and only they, are handed on; inspect sees everything.
func TestEachByMap(t *testing.T) {
	b := raw(3*RangeBytes + 4096)
	m := mapOf(b, Extent{0, 4096}, Extent{8192, RangeBytes}, Extent{8192 + RangeBytes, 4096}, Extent{3 * RangeBytes, 4096})
	for _, inspected := range []bool{false, true} {
		seen := make([]byte, 0, len(b))
		var inspect func(Range) error
		if inspected {
			inspect = func(r Range) error {
				data := r.Data
				if r.Zero {
					data = make([]byte, len(r.Data))
				}
				seen = append(seen, data...)
				return nil
			}
		}
		p := pool(t)
		got := make(chan Extent, 10)
		n, err := Each(context.Background(), reader{bytes.NewReader(b)}, m, p, inspect, func(r Range) error {
			got <- Extent{r.Off, int64(len(r.Data))}
			return m.Check(r)
		})
		close(got)
		if err != nil || n != int64(len(b)) {
			t.Errorf("Each = %d, %v; want %d", n, err, len(b))
		}
		if len(got) != len(m.Ranges) {
			t.Errorf("%d ranges came; want %d", len(got), len(m.Ranges))
		}
		if inspected && !bytes.Equal(seen, b) {
			t.Errorf("inspect saw another image")
		}
		if len(p.free) != cap(p.free) {
			t.Errorf("%d of %d buffers came back", len(p.free), cap(p.free))
		}
	}
	for name, other := range map[string][]byte{"shorter": b[:len(b)-512], "longer": append(bytes.Clone(b), 1), "cut in a hole": b[:2*RangeBytes]} {
		if _, err := Each(context.Background(), reader{bytes.NewReader(other)}, m, pool(t), nil, m.Check); err == nil {
			t.Errorf("Each of an image that is %s than its map = nil", name)
		}
	}
	large := &Map{Bytes: 2 * RangeBytes, Ranges: []MapRange{{Extent: Extent{0, RangeBytes + 4096}}}}
	if _, err := Each(context.Background(), reader{bytes.NewReader(b)}, large, pool(t), nil, m.Check); err == nil || !strings.Contains(err.Error(), "expected at most") {
		t.Errorf("Each with a range too large = %v", err)
	}
}

func encodeMap(t testing.TB, m *Map) []byte {
	t.Helper()
	text, err := EncodeMap(m)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestMapRoundTrip(t *testing.T) {
	b := raw(64<<10 + 512)
	for _, m := range []*Map{
		mapOf(b),
		mapOf(b, Extent{0, 4096}),
		mapOf(b, Extent{0, 4096}, Extent{4096, 8192}, Extent{64 << 10, 512}),
	} {
		got, err := ParseMap(encodeMap(t, m))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got); diff != "" {
			t.Errorf("ParseMap(EncodeMap) (-want +got):\n%s", diff)
		}
	}
	if _, err := EncodeMap(mapOf(b, Extent{512, 4096})); err == nil {
		t.Error("EncodeMap of a range that is no block = nil")
	}
}

// resum gives a changed map a right checksum, so that its other errors show.
func resum(text []byte) []byte {
	const open = "<BmapFileChecksum> "
	i := bytes.Index(text, []byte(open)) + len(open)
	return bytes.Replace(text, text[i:i+64], []byte(sumOf(bytes.Replace(text, text[i:i+64], []byte(noChecksum), 1))), 1)
}

func sumOf(b []byte) string { return Range{Data: b}.Digest().String() }

func TestParseMapRefuses(t *testing.T) {
	b := raw(64 << 10)
	text := string(encodeMap(t, mapOf(b, Extent{0, 4096}, Extent{8192, 8192})))
	for _, tt := range []struct{ name, old, new, want string }{
		{"version", `version="2.0"`, `version="1.4"`, "expected \"2.0\""},
		{"checksum kind", "sha256 <", "sha1 <", "expected sha256"},
		{"number", "<ImageSize> 65536", "<ImageSize> 64k", "expected a number"},
		{"block size", "<BlockSize> 4096", "<BlockSize> 4095", "power of two"},
		{"count", "<BlocksCount> 16", "<BlocksCount> 17", "BlocksCount 17"},
		{"mapped", "<MappedBlocksCount> 3", "<MappedBlocksCount> 4", "1 less"},
		{"overlap", " 2-3 ", " 0-1 ", "ascending"},
		{"behind the end", " 2-3 ", " 15-16 ", "ascending"},
		{"backwards", " 2-3 ", " 3-2 ", "such as 7 or 7-9"},
		{"no digest", `chksum="`, `other="`, "expected 64"},
		{"garbage", "</bmap>", "</bmap><bmap/>", "follows"},
		{"cut", "</bmap>", "", "EOF"},
	} {
		changed := strings.Replace(text, tt.old, tt.new, 1)
		if changed == text {
			t.Fatalf("%s: nothing was changed", tt.name)
		}
		if _, err := ParseMap(resum([]byte(changed))); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: ParseMap = %v; want an error with %q", tt.name, err, tt.want)
		}
	}
}

// Every single flipped bit of a map is seen.
func TestMapBitFlips(t *testing.T) {
	b := raw(32 << 10)
	text := encodeMap(t, mapOf(b, Extent{0, 4096}, Extent{8192, 8192}))
	for bit := range len(text) * 8 {
		flipped := bytes.Clone(text)
		flipped[bit/8] ^= 1 << (bit % 8)
		if _, err := ParseMap(flipped); err == nil {
			t.Errorf("bit %d of %q flipped: no error", bit%8, text[max(0, bit/8-10):min(len(text), bit/8+10)])
		}
	}
}

func FuzzParseMap(f *testing.F) {
	b := raw(64 << 10)
	f.Add(encodeMap(f, mapOf(b, Extent{0, 4096}, Extent{8192, 8192})))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseMap(resumAny(text))
		if err != nil {
			return
		}
		end := int64(0)
		for _, r := range m.Ranges {
			if r.Off < end || r.Bytes <= 0 || r.End() > m.Bytes {
				t.Fatalf("range %+v of %d bytes after %d", r, m.Bytes, end)
			}
			end = r.End()
		}
	})
}

// resumAny is resum for what may not be a map at all.
func resumAny(text []byte) []byte {
	const open = "<BmapFileChecksum> "
	if i := bytes.Index(text, []byte(open)); i >= 0 && i+len(open)+64 <= len(text) {
		return resum(text)
	}
	return text
}

// The gaps of a map and what is to be kept together leave the rest.
func TestUnmapped(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		const size = 500
		disk := make([]byte, size)
		m := &Map{Bytes: 300}
		var keep []Extent
		for off := int64(r.IntN(20)); off < 280; off += int64(20 + r.IntN(20)) {
			e := Extent{off, int64(1 + r.IntN(20))}
			m.Ranges = append(m.Ranges, MapRange{Extent: e})
			copy(disk[e.Off:e.End()], bytes.Repeat([]byte{1}, 20))
		}
		for range r.IntN(3) {
			e := Extent{int64(r.IntN(450)), int64(r.IntN(50))}
			keep = append(keep, e)
			copy(disk[e.Off:e.End()], bytes.Repeat([]byte{1}, 50))
		}
		for _, e := range m.Unmapped(size, keep) {
			for i := e.Off; i < e.End(); i++ {
				disk[i] += 2
			}
		}
		for i, b := range disk {
			if b != 1 && b != 2 {
				t.Fatalf("byte %d: %d; want it either taken or free (%+v, keep %+v)", i, b, m.Ranges, keep)
			}
		}
	}
}
