package lifeboat

import (
	"bytes"
	"testing"

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
	if found, err := Found(d.Now(), b.Header().Berth.Off, dev.Bytes(), simRun); found || err != nil {
		t.Errorf("a lifeboat is found afterwards: %v, %v", found, err)
	}
}
