// Package filesystem looks inside the partitions of a disk image on the build
// host: which bytes their filesystems do not use, and what lies on them. It only
// reads, and needs no tool; root only for the files of XFS and btrfs.
package filesystem

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"reimager/disk"
)

// Extent is a run of bytes, counted from the beginning of the partition.
type Extent struct {
	Off   int64 `json:"off"`
	Bytes int64 `json:"bytes"`
}

func (e Extent) end() int64 { return e.Off + e.Bytes }

// Free is what a filesystem says it does not use.
type Free struct {
	// Extents ascend and do not touch. What lies in the partition behind the
	// filesystem's end is in none of them.
	Extents []Extent `json:"extents"`
	// Whole says why nothing may be left out ("mapped whole: ext4 needs
	// journal recovery"); then Extents is empty. Otherwise it is empty.
	Whole string `json:"whole,omitempty"`
}

// Bytes is the sum of the extents.
func (f Free) Bytes() int64 {
	var sum int64
	for _, e := range f.Extents {
		sum += e.Bytes
	}
	return sum
}

// Unallocated reads which bytes of the partition at off the filesystem on it does
// not use. What is named here is not written on a machine's disk, so a filesystem
// in which anything is unusual (not cleanly unmounted, errors flagged, an unknown
// feature, a wrong checksum, counts that do not add up) has nothing free, with the
// reason in Free.Whole. An error means that the image could not be read, or ctx
// has ended.
func Unallocated(ctx context.Context, image io.ReaderAt, off, size int64, fs disk.Filesystem) (Free, error) {
	p := &partition{ctx: ctx, r: image, off: off, size: size}
	err := p.unambiguous(fs.Type)
	var extents []Extent
	if err == nil {
		extents, err = p.unallocated(fs.Type)
	}
	var d *doubt
	switch {
	case errors.As(err, &d):
		return Free{Whole: "mapped whole: " + d.text}, nil
	case err != nil:
		return Free{}, err
	}
	return Free{Extents: extents}, nil
}

func (p *partition) unallocated(kind string) ([]Extent, error) {
	switch kind {
	case "ext2", "ext3", "ext4":
		return p.extFree()
	case "xfs":
		return p.xfsFree()
	case "btrfs":
		return p.btrfsFree()
	case "swap", disk.Hibernated, "": // one with rare pages is known by nobody else
		return p.swapFree()
	}
	return nil, doubtf("free space of %s is not read", kind)
}

// doubt is a reason not to trust what a filesystem says of itself.
type doubt struct{ text string }

func (d *doubt) Error() string { return d.text }

func doubtf(format string, args ...any) error { return &doubt{fmt.Sprintf(format, args...)} }

// partition reads a part of an image and never leaves it.
type partition struct {
	ctx       context.Context
	r         io.ReaderAt
	off, size int64
}

// read returns n bytes at off. Bytes outside the partition are a doubt, since only
// a structure that makes no sense points there.
func (p *partition) read(off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || n > p.size || off > p.size-n {
		return nil, doubtf("%d bytes at %d lie outside the partition of %d bytes", n, off, p.size)
	}
	if err := p.ctx.Err(); err != nil {
		return nil, err
	}
	b := make([]byte, n)
	if got, err := p.r.ReadAt(b, p.off+off); int64(got) < n {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read image: %d bytes at %d: %w", n, p.off+off, err)
	}
	return b, nil
}

// add appends a run of bytes, merged with the one before it where they touch.
func add(extents []Extent, off, bytes int64) []Extent {
	if bytes <= 0 {
		return extents
	}
	if last := len(extents) - 1; last >= 0 && extents[last].end() == off {
		extents[last].Bytes += bytes
		return extents
	}
	return append(extents, Extent{off, bytes})
}

// gaps returns what of [from, to) the used extents leave, which may come in any
// order and overlap.
func gaps(from, to int64, used []Extent) []Extent {
	used = slices.Clone(used)
	slices.SortFunc(used, byOffset)
	var free []Extent
	for _, u := range used {
		free = add(free, from, min(u.Off, to)-from)
		from = max(from, u.end())
	}
	return add(free, from, to-from)
}

func byOffset(a, b Extent) int { return cmp.Compare(a.Off, b.Off) }
