package lifeboat

import (
	"bytes"
	"fmt"
	"testing"

	"reimager/disk/simdisk"
	"reimager/image"
	"reimager/imaging"
)

// That the disk has landed is told while the lifeboat is still there: who is stopped as it
// is cleared away would not find it again.
func TestLandedIsTold(t *testing.T) {
	s := newScenario(t, "dos", "dos", imaging.Zero)
	d := s.old.Power()
	dev := d.Device()
	b, err := s.board(t.Context(), dev)
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	err = sailWith(t.Context(), s, d, func(v *Voyage) error {
		v.Landed = func() {
			told++
			sector0, err := dev.ReadSectors(0, 512)
			if err != nil || !bytes.Equal(sector0, s.image[:512]) {
				t.Errorf("sector 0 is not the image's when it is told, %v", err)
			}
			if _, err := Open(dev, simBerth, simRun); err != nil {
				t.Errorf("the lifeboat is gone when it is told: %v", err)
			}
		}
		if err := s.restore(v, d); err != nil {
			return err
		}
		return v.EndRestore(dev)
	})
	if err != nil || told != 1 {
		t.Errorf("told %d times, %v; want once", told, err)
	}
	if is, err := found(d.Now(), b.Header().Berth.Off, dev.Bytes(), simRun); is || err != nil {
		t.Errorf("a lifeboat is found afterwards: %v, %v", is, err)
	}
}

// A lifeboat that is given up while it is loaded leaves no key, whatever was written.
func TestAbandon(t *testing.T) {
	for name, clear := range map[string]func(l *Loader, b *Boat) error{
		"abandoned": func(l *Loader, _ *Boat) error { return l.Abandon() },
		"sunk":      func(l *Loader, b *Boat) error { return b.Sink(l.dev) },
		"cleared":   func(l *Loader, b *Boat) error { return Clear(l.dev, b.header.Berth, image.Extent{}) },
	} {
		for _, bad := range []int64{-1, journalOff, headerOff} { // a block that cannot be written any more
			t.Run(fmt.Sprintf("%s/%d", name, bad), func(t *testing.T) { testAbandon(t, clear, bad) })
		}
	}
}

// A loader that died before its header was written leaves nothing that was gathered, if it
// is known where that was going to lie.
func TestClearUnfinished(t *testing.T) {
	berth := Berth{Off: mib, Bytes: mib}
	d := simdisk.New(make([]byte, 4*mib)).Power()
	l, err := NewLoader(d.Device(), berth, simRun)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.add(Kernel, bytes.Repeat([]byte("x"), 5000)); err != nil {
		t.Fatal(err)
	}
	at := l.Next(9000)
	if err := l.add(Saved, bytes.Repeat([]byte("x"), 9000)); err != nil {
		t.Fatal(err)
	}
	if saved, _ := l.header.Section(Saved); saved.extent() != at {
		t.Fatalf("the section lies at %v, foretold was %v", saved.extent(), at)
	}
	before := bytes.Clone(d.Now().Slice(0, 4*mib))
	for _, elsewhere := range []image.Extent{{}, {Off: 0, Bytes: 4096}, {Off: berth.Off + mib - 4096, Bytes: 8192}} {
		if err := Clear(d.Device(), berth, elsewhere); err != nil || !bytes.Equal(d.Now().Slice(0, 4*mib), before) {
			t.Errorf("%v was cleared: %v", elsewhere, err)
		}
	}
	if err := Clear(d.Device(), berth, at); err != nil || !image.AllZero(d.Now().Slice(at.Off, at.Bytes)) {
		t.Errorf("what was gathered is left, %v", err)
	}
}

func testAbandon(t *testing.T, clear func(*Loader, *Boat) error, bad int64) {
	berth := Berth{Off: mib, Bytes: 2 * mib}
	d := simdisk.New(make([]byte, 4*mib)).Power()
	l, err := NewLoader(d.Device(), berth, simRun)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{Saved, Archive, Kernel, Kernel2, Initrd, Initrd2} {
		if err := l.add(name, bytes.Repeat([]byte("x"), 5000)); err != nil {
			t.Fatal(err)
		}
	}
	boat, err := l.Finish(t.Context(), fakeGRUB(t), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	d.Bad = func(o simdisk.Operation) bool {
		return bad >= 0 && o.Kind == simdisk.Write && o.Off < berth.Off+bad+blockBytes && o.Off+o.Len > berth.Off+bad
	}
	if err := clear(l, boat); (err == nil) != (bad < 0) {
		t.Errorf("cleared, with a bad block at %d: %v", bad, err)
	}
	saved, _ := l.header.Section(Saved)
	for off := range int64(headBytes / blockBytes) {
		if off *= blockBytes; off != bad && !image.AllZero(d.Now().Slice(berth.Off+off, blockBytes)) {
			t.Errorf("something is left at byte %d of the berth", off)
		}
	}
	// Without its header nobody but the loader knows where that lies.
	if bad != headerOff && !image.AllZero(d.Now().Slice(saved.Off, saved.Bytes)) {
		t.Error("what was gathered is left")
	}
}
