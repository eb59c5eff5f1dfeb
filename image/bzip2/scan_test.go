package bzip2

import "testing"

func TestFindMagic(t *testing.T) {
	filter := newMagicFilter()
	for at := range 8 * 24 {
		var w bitWriter
		for range at {
			w.write(1, 1)
		}
		w.write(blockMagic, magicBits)
		w.write(0xffff, 16)
		for len(w.bytes) < 40 {
			w.bytes = append(w.bytes, 0xff)
		}
		for _, from := range []int64{0, 1, int64(at) - 8, int64(at) - 1, int64(at), int64(at) + 1} {
			want := int64(at)
			if from > want {
				want = -1
			}
			if from < 0 {
				continue
			}
			if got := filter.find(w.bytes, from); got != want {
				t.Errorf("find(magic at bit %d, %d) = %d; want %d", at, from, got, want)
			}
		}
		// The shortest stretch in which it is promised to be found, and shorter ones.
		if got := filter.find(w.bytes[:at/8+magicBytes], 0); got != int64(at) {
			t.Errorf("find(magic at bit %d, cut behind it) = %d; want it", at, got)
		}
		if got := filter.find(w.bytes[:at/8+5], 0); got != -1 {
			t.Errorf("find(magic at bit %d, cut inside it) = %d; want -1", at, got)
		}
	}
}
