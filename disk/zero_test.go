package disk

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// slowly is a medium without a quick way to zeros, and with a bad sector.
type slowly struct {
	content []byte
	bad     int64 // first byte of that sector; -1: none
}

func (s *slowly) Pread(p []byte, off int64) (int, error) { return copy(p, s.content[off:]), nil }

func (s *slowly) Pwrite(p []byte, off int64) (int, error) {
	if s.bad >= off && s.bad < off+int64(len(p)) {
		return 0, unix.EIO
	}
	return copy(s.content[off:], p), nil
}

func (s *slowly) Zero(int64, int64) error    { return unix.EIO }
func (s *slowly) Discard(int64, int64) error { return unix.EOPNOTSUPP }
func (s *slowly) Sync() error                { return nil }
func (s *slowly) Close() error               { return nil }

// BLKZEROOUT names no sector when it fails: zeros are written, so that an error does.
func TestZeroWhereTheQuickWayFails(t *testing.T) {
	const size, off, n = 8 << 20, 1 << 20, 5<<20 + 512
	for _, bad := range []int64{-1, off, off + 3<<20 + 512, off + n - 512} {
		m := &slowly{content: make([]byte, size), bad: bad}
		for i := range m.content {
			m.content[i] = 0xee
		}
		err := NewDevice(m, "disk", size, 512).Zero(off, n)
		var sector *SectorError
		if bad < 0 && err != nil || bad >= 0 && (!errors.As(err, &sector) || sector.Sector != bad/512) {
			t.Errorf("Zero with a bad sector at %d: %v; want an error that names sector %d", bad, err, bad/512)
		}
		for i, c := range m.content {
			inside := i >= off && i < off+n
			if bad < 0 && (c == 0) != inside || c == 0 && !inside {
				t.Fatalf("Zero with a bad sector at %d: byte %d is %#x", bad, i, c)
			}
		}
	}
}
