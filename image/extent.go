package image

import (
	"cmp"
	"slices"
)

// Union returns the same bytes as ascending extents that neither overlap nor
// touch. Gaps shorter than gap bytes are swallowed.
func Union(extents []Extent, gap int64) []Extent {
	sorted := slices.Clone(extents)
	slices.SortFunc(sorted, func(a, b Extent) int { return cmp.Compare(a.Off, b.Off) })
	var out []Extent
	for _, e := range sorted {
		if e.Bytes <= 0 {
			continue
		}
		if n := len(out); n > 0 && e.Off <= out[n-1].End()+max(0, gap-1) {
			out[n-1].Bytes = max(out[n-1].End(), e.End()) - out[n-1].Off
			continue
		}
		out = append(out, e)
	}
	return out
}

// Complement returns what lies outside the extents, from 0 to size.
func Complement(extents []Extent, size int64) []Extent {
	var out []Extent
	at := int64(0)
	for _, e := range Union(extents, 0) {
		if e.Off >= size {
			break
		}
		if e.Off > at {
			out = append(out, Extent{at, e.Off - at})
		}
		at = max(at, e.End())
	}
	if at < size {
		out = append(out, Extent{at, size - at})
	}
	return out
}

// Inward returns the whole blocks of that many bytes that lie within the extents.
func Inward(extents []Extent, block int64) []Extent {
	var out []Extent
	for _, e := range extents {
		first, last := (e.Off+block-1)/block*block, e.End()/block*block
		if last > first {
			out = append(out, Extent{first, last - first})
		}
	}
	return out
}
