package simdisk

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// cut does a flushed write of A to four sectors, unflushed ones of B and C to the first
// and the second, and loses its power while it writes D to the last two.
func cut(t *testing.T) Cut {
	t.Helper()
	d := New(bytes.Repeat([]byte{'-'}, 2*pageBytes)).Power()
	d.StopAt = 5
	dev := d.Device()
	for _, err := range []error{
		dev.WriteSectors(bytes.Repeat([]byte{'A'}, 4*SectorBytes), 0), dev.Flush(),
		dev.WriteSectors(bytes.Repeat([]byte{'B'}, SectorBytes), 0), dev.WriteSectors(bytes.Repeat([]byte{'C'}, SectorBytes), SectorBytes),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := dev.WriteSectors(bytes.Repeat([]byte{'D'}, 2*SectorBytes), 2*SectorBytes); !errors.Is(err, ErrOff) {
		t.Fatalf("the write at which the power goes = %v", err)
	}
	if _, err := dev.ReadSectors(0, SectorBytes); !errors.Is(err, ErrOff) || !d.Off() {
		t.Fatalf("ReadSectors without power = %v", err)
	}
	return d.Cut()
}

// What each fate may leave, and that chance leaves all of it some time.
func TestFates(t *testing.T) {
	any4 := strings.Fields("AAAA BAAA ACAA BCAA AADA BADA ACDA BCDA AAAD BAAD ACAD BCAD AADD BADD ACDD BCDD")
	for fate, want := range map[Fate][]string{
		Survives: {"BCAA"}, Lost: {"AAAA"}, Reordered: any4, Scattered: any4,
		Torn: {"BCAA", "BCDA", "BCDD"}, Unreadable: {"BC?A", "BCD?", "BCDD"},
	} {
		got := map[string]bool{}
		for seed := range uint64(400) {
			left := cut(t).Left(fate, rand.New(rand.NewPCG(seed, 1)))
			again := cut(t).Left(fate, rand.New(rand.NewPCG(seed, 1)))
			if at := left.Now().Differ(again.Now(), 0, 2*pageBytes); at >= 0 {
				t.Fatalf("%s: the same seed gives another disk", fate)
			}
			got[sectors(t, left)] = true
		}
		for _, w := range want {
			if !got[w] {
				t.Errorf("%s: never %s", fate, w)
			}
			delete(got, w)
		}
		if len(got) > 0 {
			t.Errorf("%s: also %v", fate, got)
		}
	}
}

// sectors is a letter for each of the first four.
func sectors(t *testing.T, d *Disk) string {
	t.Helper()
	var all strings.Builder
	for i := range int64(4) {
		b, err := d.Device().ReadSectors(i*SectorBytes, SectorBytes)
		if errors.Is(err, unix.EIO) {
			all.WriteByte('?')
			continue
		}
		if err != nil || len(bytes.Trim(b, string(b[:1]))) > 0 {
			t.Fatalf("sector %d: %v, or torn within", i, err)
		}
		all.WriteByte(b[0])
	}
	return all.String()
}

// A sector that a torn write has left unreadable is read again once it is written.
func TestUnreadableIsWritten(t *testing.T) {
	for seed := range uint64(20) {
		d := cut(t).Left(Unreadable, rand.New(rand.NewPCG(seed, 1)))
		if err := d.Device().WriteSectors(bytes.Repeat([]byte{'E'}, 4*SectorBytes), 0); err != nil {
			t.Fatal(err)
		}
		if got := sectors(t, d); got != "EEEE" {
			t.Errorf("seed %d: after writing it reads %s", seed, got)
		}
	}
}

// What a disk may do wrong.
func TestFaults(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(*Disk)
		want string // the error of a write, of the flush, what is read, what a cut leaves
	}{
		{"none", func(*Disk) {}, "<nil> <nil> N N"},
		{"it lies", func(d *Disk) { d.Lies = true }, "<nil> <nil> N -"},
		{"it lies once", func(d *Disk) { d.LieAt = 2 }, "<nil> <nil> N -"},
		{"a flush fails, and was done", func(d *Disk) { d.FailAt, d.Fails = 2, FailAfter }, "<nil> EIO N N"},
		{"a flush fails", func(d *Disk) { d.FailAt, d.Fails = 2, FailBefore }, "<nil> EIO N -"},
		{"a bad spot", func(d *Disk) { d.Bad = func(o Operation) bool { return o.Kind == Write && o.Off == 0 } }, "EIO <nil> - -"},
	} {
		d := New(bytes.Repeat([]byte{'-'}, pageBytes)).Power()
		tt.set(d)
		dev := d.Device()
		wrote, flushed := errno(dev.WriteSectors(bytes.Repeat([]byte{'N'}, SectorBytes), 0)), errno(dev.Flush())
		left := d.CutBefore(Operation{Kind: Flush}).Left(Lost, nil)
		got := fmt.Sprintf("%s %s %s %s", wrote, flushed, d.Now().Slice(0, 1), left.Now().Slice(0, 1))
		if got != tt.want {
			t.Errorf("%s: %s; want %s", tt.name, got, tt.want)
		}
	}
}

func errno(err error) string {
	if errors.Is(err, unix.EIO) {
		return "EIO"
	}
	return fmt.Sprint(err)
}
