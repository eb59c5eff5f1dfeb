package image

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"sync"
)

// RangeBytes is the largest range of an image that is digested, verified and
// written as one: small enough to be held in memory until it is proven, large
// enough for a disk at full speed.
const RangeBytes = 4 << 20

// Extent is a stretch of an image or a disk, in bytes.
type Extent struct {
	Off   int64 `json:"off"`
	Bytes int64 `json:"bytes"`
}

// End is the offset behind the extent.
func (e Extent) End() int64 { return e.Off + e.Bytes }

// Digest is the SHA-256 of a range.
type Digest [sha256.Size]byte

// MarshalText writes a digest in hexadecimal.
func (d Digest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

// String returns the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// UnmarshalText reads what MarshalText has written.
func (d *Digest) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(d) {
		return fmt.Errorf("digest %q: expected %d hexadecimal digits", text, 2*len(d))
	}
	_, err := hex.Decode(d[:], text)
	return err
}

// Map is a block map: which ranges of a decoded image carry data, and what each
// of them must be. What lies between them need not be written.
type Map struct {
	Bytes  int64      `json:"bytes"`  // of the decoded image
	Ranges []MapRange `json:"ranges"` // ascending, not overlapping
}

// MapRange is a range that carries data.
type MapRange struct {
	Extent
	Digest Digest `json:"digest"`
}

// MappedBytes is how much of the image carries data.
func (m *Map) MappedBytes() int64 {
	n := int64(0)
	for _, r := range m.Ranges {
		n += r.Bytes
	}
	return n
}

// Zero tells whether range i holds only zeros.
func (m *Map) Zero(i int) bool { return m.Ranges[i].Digest == zeroDigest(int(m.Ranges[i].Bytes)) }

// CheckFine tells whether each range can be verified before it is written.
func (m *Map) CheckFine() error {
	for _, r := range m.Ranges {
		if r.Bytes > RangeBytes {
			return fmt.Errorf("block map: the range at byte %d has %d bytes, expected at most %d", r.Off, r.Bytes, RangeBytes)
		}
	}
	return nil
}

// CheckSectors tells whether the ranges are made of whole sectors, and the first sector
// is among them: it decides whether a disk boots, and has to be the image's.
func (m *Map) CheckSectors(sector int64) error {
	if len(m.Ranges) == 0 || m.Ranges[0].Off != 0 {
		return errors.New("block map: it leaves out the first sector, which a disk boots from")
	}
	for _, r := range m.Ranges {
		if r.Off%sector != 0 || r.Bytes%sector != 0 {
			return fmt.Errorf("block map: the range of %d bytes at %d is not made of sectors of %d", r.Bytes, r.Off, sector)
		}
	}
	return nil
}

// Check tells whether a mapped range is what the map says.
func (m *Map) Check(r Range) error {
	if r.Index < 0 || r.Index >= len(m.Ranges) {
		return fmt.Errorf("image range at byte %d: not in the block map", r.Off)
	}
	want := m.Ranges[r.Index]
	if want.Off != r.Off || want.Bytes != int64(len(r.Data)) {
		return fmt.Errorf("image range at byte %d: %d bytes, expected %d at byte %d", r.Off, len(r.Data), want.Bytes, want.Off)
	}
	if got := r.Digest(); got != want.Digest {
		return fmt.Errorf("image range at byte %d: SHA-256 %x, expected %x", r.Off, got[:8], want.Digest[:8])
	}
	return nil
}

// Unmapped returns what a disk of that size has outside the map and outside the
// extents to keep, ascending.
func (m *Map) Unmapped(diskBytes int64, keep []Extent) []Extent {
	taken := make([]Extent, 0, len(m.Ranges)+len(keep))
	for _, r := range m.Ranges {
		taken = append(taken, r.Extent)
	}
	return Complement(append(taken, keep...), diskBytes)
}

// Recorder makes the map of an image that came without one.
type Recorder struct {
	mu     sync.Mutex
	ranges []MapRange
}

// Note takes a range; several goroutines may at once.
func (r *Recorder) Note(part Range) {
	digest := part.Digest()
	r.mu.Lock()
	defer r.mu.Unlock()
	for part.Index >= len(r.ranges) {
		r.ranges = append(r.ranges, MapRange{})
	}
	r.ranges[part.Index] = MapRange{Extent{part.Off, int64(len(part.Data))}, digest}
}

// Map returns the map of all that was noted, of an image with that many bytes.
func (r *Recorder) Map(bytes int64) *Map { return &Map{Bytes: bytes, Ranges: r.ranges} }

// zeroPowers returns the digests of as many zeros as each power of two up to RangeBytes,
// which are computed once: nearly all ranges of zeros have such sizes.
var zeroPowers = sync.OnceValue(func() (all [zeroLog + 1]Digest) {
	for i := range all {
		all[i] = hashZeros(1 << i)
	}
	return all
})

const zeroLog = 22 // of RangeBytes

func zeroDigest(n int) Digest {
	if n > 0 && n <= RangeBytes && n&(n-1) == 0 {
		return zeroPowers()[bits.TrailingZeros(uint(n))]
	}
	return hashZeros(n)
}

func hashZeros(n int) (d Digest) {
	h := sha256.New()
	for n > 0 {
		k := min(n, len(zeros))
		h.Write(zeros[:k])
		n -= k
	}
	h.Sum(d[:0])
	return d
}
