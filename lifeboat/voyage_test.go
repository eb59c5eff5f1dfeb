package lifeboat

import (
	"bytes"
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
	berth := Berth{Off: mib, Bytes: 2 * mib}
	d := simdisk.New(make([]byte, 4*mib)).Power()
	l, err := NewLoader(d.Device(), berth, simRun)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{Archive, Kernel, Kernel2, Initrd, Initrd2} {
		if err := l.add(name, bytes.Repeat([]byte("x"), 5000)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Finish(t.Context(), fakeGRUB(t), nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Abandon(); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, headBytes)
	if _, err := d.Now().ReadAt(head, berth.Off); err != nil || !image.AllZero(head) {
		t.Errorf("something is left in the fixed part of the berth, %v", err)
	}
}
