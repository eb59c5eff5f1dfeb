package imaging

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/disk"
	"reimager/disk/simdisk"
	"reimager/image"
)

// source delivers an image in pieces of odd sizes.
type source struct {
	b   []byte
	err error // in place of the end
}

func (s *source) Next([]byte) (image.Chunk, error) {
	if len(s.b) == 0 {
		if s.err != nil {
			return image.Chunk{}, s.err
		}
		return image.Chunk{}, io.EOF
	}
	n := min(len(s.b), 100_003)
	c := image.Chunk{Data: s.b[:n]}
	if image.AllZero(c.Data) {
		c = image.Chunk{Zeros: int64(n)}
	}
	s.b = s.b[n:]
	return c, nil
}

// random is n bytes with a long run of zeros in them.
func random(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(uint64(n), 7))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	clear(b[n/4 : n/2])
	return b
}

// target is a file of n bytes of old data, and what becomes of it.
func target(t *testing.T, n int) (*disk.Device, func() []byte) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, bytes.Repeat([]byte{0xdd}, n), 0o600); err != nil {
		t.Fatal(err)
	}
	dev, err := disk.OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev, func() []byte {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

// mapOf maps extents of an image.
func mapOf(b []byte, extents ...image.Extent) *image.Map {
	m := &image.Map{Bytes: int64(len(b))}
	for _, e := range extents {
		m.Ranges = append(m.Ranges, image.MapRange{Extent: e, Digest: image.Range{Data: b[e.Off:e.End()]}.Digest()})
	}
	return m
}

const (
	sector = 512
	mib    = 1 << 20
)

// Everything but sector 0 is written, whatever the size, and the map that is made on
// the way is what the image is.
func TestWriteWithoutMap(t *testing.T) {
	for _, n := range []int{sector, 4096, image.RangeBytes - sector, image.RangeBytes, image.RangeBytes + sector, 9*mib + 3*sector} {
		b := random(n)
		dev, read := target(t, n+mib)
		done, err := Write(t.Context(), Job{Device: dev, Source: &source{b: b}})
		if err != nil {
			t.Fatalf("%d: Write = %v", n, err)
		}
		got := read()
		if !bytes.Equal(got[:sector], bytes.Repeat([]byte{0xdd}, sector)) || !bytes.Equal(got[sector:n], b[sector:]) || !bytes.Equal(got[n:], bytes.Repeat([]byte{0xdd}, mib)) {
			t.Errorf("%d: the target is not old sector 0, image, old tail", n)
		}
		if !cmp.Equal(done.Held, []disk.Piece{{Off: 0, Data: b[:sector]}}) || done.Map.Bytes != int64(n) || done.Bytes != int64(n) {
			t.Errorf("%d: Write = %d bytes mapped, %d written", n, done.Map.Bytes, done.Bytes)
		}
		if err := ReadBack(t.Context(), dev, done.Map, done.Held, nil); err != nil {
			t.Errorf("%d: ReadBack = %v", n, err)
		}
		if err := ReadBack(t.Context(), dev, done.Map, nil, nil); err == nil {
			t.Errorf("%d: ReadBack before sector 0 is written = nil", n)
		}
		if err := Land(dev, done.Held); err != nil {
			t.Fatal(err)
		}
		if got := read(); !bytes.Equal(got[:n], b) {
			t.Errorf("%d: the target is not the image", n)
		}
		checkReadBackSees(t, dev, done.Map, b)
	}
}

// checkReadBackSees changes a byte in each range.
func checkReadBackSees(t *testing.T, dev *disk.Device, m *image.Map, b []byte) {
	t.Helper()
	for _, r := range m.Ranges {
		off := (r.Off + r.Bytes/2) / sector * sector
		piece := bytes.Clone(b[off : off+sector])
		piece[7] ^= 1
		if err := dev.WriteSectors(piece, off); err != nil {
			t.Fatal(err)
		}
		if err := ReadBack(context.Background(), dev, m, nil, nil); err == nil || !strings.Contains(err.Error(), "does not hold what was written") {
			t.Errorf("ReadBack with a changed byte at %d = %v", off+7, err)
		}
		if err := dev.WriteSectors(b[off:off+sector], off); err != nil {
			t.Fatal(err)
		}
	}
	if err := ReadBack(context.Background(), dev, m, nil, nil); err != nil {
		t.Errorf("ReadBack = %v", err)
	}
}

// With a map only its ranges are written, and the rest is left, zeroed or discarded,
// but for what has to be kept.
func TestWriteWithMap(t *testing.T) {
	b := random(10 * mib)
	m := mapOf(b, image.Extent{Off: 0, Bytes: 4096}, image.Extent{Off: mib, Bytes: 3 * mib}, image.Extent{Off: 4 * mib, Bytes: mib}, image.Extent{Off: 10*mib - 4096, Bytes: 4096})
	keep := []image.Extent{{Off: 6 * mib, Bytes: mib}, {Off: 11*mib - sector, Bytes: sector}}
	for _, unmapped := range []Unmapped{Leave, Zero, Discard} {
		dev, read := target(t, 12*mib)
		var warned error
		_, err := WriteWhole(t.Context(), Job{Device: dev, Source: &source{b: b}, Map: m, Unmapped: unmapped, Keep: keep, Warn: func(err error) { warned = err }},
			func(done *Result) error { return ReadBack(t.Context(), dev, m, done.Held, nil) })
		if err != nil || warned != nil {
			t.Fatalf("%s: WriteWhole = %v, warned %v", unmapped, err, warned)
		}
		got := read()
		want := bytes.Repeat([]byte{0xdd}, len(got))
		if unmapped == Zero {
			for _, e := range m.Unmapped(int64(len(want)), keep) {
				clear(want[e.Off:e.End()])
			}
		}
		for _, r := range m.Ranges {
			copy(want[r.Off:r.End()], b[r.Off:r.End()])
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the target is not what the map says", unmapped)
		}
	}
}

// What does not fit is refused before anything is written.
func TestRefusedBeforeTheFirstWrite(t *testing.T) {
	b := random(2 * mib)
	whole := image.Extent{Off: 0, Bytes: 2 * mib}
	for _, tt := range []struct {
		name string
		size int
		job  Job
		want string
	}{
		{"too small", mib, Job{Map: mapOf(b, whole)}, "the image 2097152"},
		{"kept", 2 * mib, Job{Map: mapOf(b, whole), Keep: []image.Extent{{Off: mib, Bytes: 512}}}, "must not be touched"},
		{"sector 0 kept", 2 * mib, Job{Keep: []image.Extent{{Off: 0, Bytes: 512}}}, "must not be touched"},
		{"half a sector", 2 * mib, Job{Map: mapOf(b[:mib+100], image.Extent{Off: 0, Bytes: mib + 100})}, "not made of sectors"},
		{"range off a sector", 2 * mib, Job{Map: mapOf(b, image.Extent{Off: 0, Bytes: 512}, image.Extent{Off: 1000, Bytes: 512})}, "not made of sectors"},
	} {
		dev, read := target(t, tt.size)
		tt.job.Device, tt.job.Source = dev, &source{b: b}
		_, err := WriteWhole(t.Context(), tt.job, func(*Result) error { return nil })
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: WriteWhole = %v; want an error with %q", tt.name, err, tt.want)
		}
		if !bytes.Equal(read(), bytes.Repeat([]byte{0xdd}, tt.size)) {
			t.Errorf("%s: something was written", tt.name)
		}
	}
}

// An image that turns out to be wrong leaves no target that looks bootable, and no
// wrong range on it.
func TestFailureLeavesNoBootSector(t *testing.T) {
	b := random(9 * mib)
	b[510], b[511] = 0x55, 0xaa
	changed := bytes.Clone(b)
	changed[5*mib] ^= 1
	mine := errors.New("mine")
	m := mapOf(b, image.Extent{Off: 0, Bytes: 4 * mib}, image.Extent{Off: 4 * mib, Bytes: 4 * mib}, image.Extent{Off: 8 * mib, Bytes: mib})
	for name, job := range map[string]Job{
		"changed":         {Source: &source{b: changed}, Map: m},
		"cut":             {Source: &source{b: b[:6*mib]}, Map: m},
		"longer":          {Source: &source{b: append(bytes.Clone(b), 0)}, Map: m},
		"decoder":         {Source: &source{b: b, err: mine}, Map: m},
		"decoder, no map": {Source: &source{b: b, err: mine}},
		"too long":        {Source: &source{b: append(bytes.Clone(b), make([]byte, 4*mib)...)}},
		"odd end":         {Source: &source{b: b[:9*mib-100]}},
	} {
		dev, read := target(t, 9*mib)
		job.Device = dev
		if _, err := WriteWhole(t.Context(), job, func(*Result) error { return nil }); err == nil {
			t.Errorf("%s: WriteWhole = nil", name)
		}
		got := read()
		if !image.AllZero(got[:sector]) {
			t.Errorf("%s: there is a first sector", name)
		}
		if name == "changed" && bytes.Contains(got, changed[5*mib:5*mib+16]) {
			t.Errorf("%s: the wrong range was written", name)
		}
	}
	dev, read := target(t, 9*mib)
	if _, err := WriteWhole(t.Context(), Job{Device: dev, Source: &source{b: b}, Map: m}, func(*Result) error { return mine }); !errors.Is(err, mine) {
		t.Errorf("WriteWhole with a failing check = %v", err)
	}
	if !image.AllZero(read()[:sector]) {
		t.Error("failing check: there is a first sector")
	}
}

// A map whose ranges are larger than memory holds is checked in a pass of its own.
func TestProve(t *testing.T) {
	b := random(14*mib + 4096)
	large := mapOf(b, image.Extent{Off: 0, Bytes: 4096}, image.Extent{Off: mib, Bytes: 11 * mib}, image.Extent{Off: 12 * mib, Bytes: 2*mib + 4096})
	fine, err := Prove(t.Context(), &source{b: b}, large, 1<<30, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := fine.CheckFine(); err != nil || fine.MappedBytes() != large.MappedBytes() || fine.Bytes != large.Bytes {
		t.Errorf("Prove = %d of %d bytes, %v; want %d of %d", fine.MappedBytes(), fine.Bytes, err, large.MappedBytes(), large.Bytes)
	}
	dev, read := target(t, len(b))
	if _, err := WriteWhole(t.Context(), Job{Device: dev, Source: &source{b: b}, Map: fine}, func(*Result) error { return nil }); err != nil {
		t.Fatal(err)
	}
	for _, r := range large.Ranges {
		if !bytes.Equal(read()[r.Off:r.End()], b[r.Off:r.End()]) {
			t.Errorf("range at %d was not written", r.Off)
		}
	}
	for _, at := range []int{0, 4095, mib, 12*mib - 1, 12 * mib, len(b) - 1} {
		changed := bytes.Clone(b)
		changed[at] ^= 0x10
		if _, err := Prove(t.Context(), &source{b: changed}, large, 1<<30, nil); err == nil {
			t.Errorf("Prove with byte %d changed = nil", at)
		}
	}
	outside := bytes.Clone(b)
	outside[5000] ^= 1
	if _, err := Prove(t.Context(), &source{b: outside}, large, 1<<30, nil); err != nil {
		t.Errorf("Prove with a change outside the map = %v", err)
	}
	if m, err := Prove(t.Context(), &source{b: b}, nil, 1<<30, nil); err != nil || m.MappedBytes() != int64(len(b)) {
		t.Errorf("Prove without a map = %v, %v", m, err)
	}
}

// An image or map that claims more than there is room for costs nothing.
func TestProveIsBounded(t *testing.T) {
	huge := &image.Map{Bytes: 1 << 60, Ranges: []image.MapRange{{Extent: image.Extent{Off: 0, Bytes: 1 << 60}}}}
	if _, err := Prove(t.Context(), &source{b: random(mib)}, huge, 1<<30, nil); err == nil {
		t.Error("Prove of a map of 2^60 bytes = nil")
	}
	if _, err := Prove(t.Context(), &source{b: random(9 * mib)}, nil, 5*mib, nil); err == nil {
		t.Error("Prove of more than the limit = nil")
	}
}

// The gaps of a map are treated whether or not digests are wanted.
func TestUnmappedWithoutDigests(t *testing.T) {
	b := random(8 * mib)
	m := mapOf(b, image.Extent{Off: 0, Bytes: mib}, image.Extent{Off: 6 * mib, Bytes: mib})
	dev, read := target(t, 9*mib)
	if _, err := WriteWhole(t.Context(), Job{Device: dev, Source: &source{b: b}, Map: m, Unmapped: Zero, NoDigests: true}, func(*Result) error { return nil }); err != nil {
		t.Fatal(err)
	}
	got := read()
	for _, gap := range m.Unmapped(9*mib, nil) {
		if !image.AllZero(got[gap.Off:gap.End()]) {
			t.Errorf("the %d bytes at %d are not zeros", gap.Bytes, gap.Off)
		}
	}
}

// Cancelling ends a write soon.
func TestWriteCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	dev, _ := target(t, 20*mib)
	_, err := Write(ctx, Job{Device: dev, Source: &source{b: random(20 * mib)}, Written: cancel})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Write = %v; want it to be cancelled", err)
	}
}

// A write that was cut short goes on with the ranges that differ, those that cannot be
// read included.
func TestDiffering(t *testing.T) {
	b := random(3 * mib)
	m := mapOf(b, image.Extent{Off: 0, Bytes: mib}, image.Extent{Off: mib, Bytes: 4096}, image.Extent{Off: 2 * mib, Bytes: 8192})
	disk0 := simdisk.New(bytes.Clone(b)).Power()
	held := []disk.Piece{{Off: 0, Data: b[:sector]}}
	if err := disk0.Device().WriteSectors(make([]byte, sector), 0); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		spoil func(*simdisk.Disk) error
		want  []bool
	}{
		{"nothing", func(*simdisk.Disk) error { return nil }, []bool{false, false, false}},
		{"one", func(d *simdisk.Disk) error { return d.Device().WriteSectors(make([]byte, sector), 2*mib+sector) }, []bool{false, false, true}},
		{"unreadable", func(d *simdisk.Disk) error {
			d.Bad = func(o simdisk.Operation) bool { return o.Kind == "" && o.Off <= mib && mib < o.Off+o.Len }
			return nil
		}, []bool{false, true, false}},
	} {
		d := disk0.Now().Power()
		if err := tt.spoil(d); err != nil {
			t.Fatal(err)
		}
		got, err := Differing(t.Context(), d.Device(), m, held, nil)
		if err != nil || !cmp.Equal(got, tt.want) {
			t.Errorf("%s: Differing = %v, %v; want %v", tt.name, got, err, tt.want)
		}
		d.Bad = nil
		progress := int64(0)
		job := Job{Device: d.Device(), Source: &source{b: b}, Map: m, Buffers: 2, Only: func(i int) bool { return got[i] }, Progress: func(n int64) { progress += n }}
		before := d.Operations()
		done, err := Write(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		bytesOf := int64(0)
		for i, is := range got {
			if is {
				bytesOf += m.Ranges[i].Bytes
			}
		}
		if done.Bytes != bytesOf || progress != m.MappedBytes() {
			t.Errorf("%s: Write = %d bytes, %d of progress; want %d and %d", tt.name, done.Bytes, progress, bytesOf, m.MappedBytes())
		}
		if bytesOf == 0 && d.Operations()-before != 1 {
			t.Errorf("%s: %d operations; want the flush", tt.name, d.Operations()-before)
		}
		if err := ReadBack(t.Context(), d.Device(), m, held, nil); err != nil {
			t.Errorf("%s: ReadBack = %v", tt.name, err)
		}
	}
}

// A sector that decides what boots, and an error that may mean anything: what is there
// counts, if it stays.
func TestPutSettled(t *testing.T) {
	p := disk.Piece{Off: 0, Data: bytes.Repeat([]byte{7}, sector)}
	for _, tt := range []struct {
		name string
		set  func(*simdisk.Disk)
		ok   bool
	}{
		{"fine", func(*simdisk.Disk) {}, true},
		{"written, and flushed on the second try", func(d *simdisk.Disk) { d.FailAt, d.Fails = 2, simdisk.FailBefore }, true},
		{"written, and never flushed", func(d *simdisk.Disk) {
			d.Bad = func(o simdisk.Operation) bool { return o.Kind == simdisk.Flush }
		}, false},
		{"never written", func(d *simdisk.Disk) {
			d.Bad = func(o simdisk.Operation) bool { return o.Kind == simdisk.Write }
		}, false},
		{"unreadable", func(d *simdisk.Disk) { d.Bad = func(o simdisk.Operation) bool { return o.Kind == "" } }, false},
	} {
		d := simdisk.New(make([]byte, 8192)).Power()
		tt.set(d)
		if err := PutSettled(d.Device(), p); (err == nil) != tt.ok {
			t.Errorf("%s: PutSettled = %v; want success %v", tt.name, err, tt.ok)
		}
	}
}
