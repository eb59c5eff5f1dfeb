// Package lifeboat is what makes a power cut harmless: kernel, initrd, image and retained
// files in a berth, a range of the disk that neither system needs, bootable on its own.
package lifeboat

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"reimager/disk"
	"reimager/image"
	"reimager/report"
)

// Berth is the range of the disk in which a lifeboat lies.
type Berth struct {
	Off   int64  `json:"off"` // both in bytes, and whole MiB
	Bytes int64  `json:"bytes"`
	Where string `json:"where"` // "the inside of swap partition 3"
}

// Extent is the range of a berth.
func (b Berth) Extent() image.Extent { return image.Extent{Off: b.Off, Bytes: b.Bytes} }

const (
	// berthAlign keeps a berth clear of its neighbours' physical sectors and erase blocks.
	berthAlign = 1 << 20
	// edgeBytes at either end of a disk belong to boot loaders, to a GPT and its backup, and to
	// RAID controllers.
	edgeBytes = 1 << 20
	// swapHeader is what a swap area begins with: its header is its first page, which has
	// up to 64 KiB (union swap_header in include/linux/swap.h).
	swapHeader = 64 << 10
)

// What lies in a berth, in bytes. Header, journal and key slot are in the fixed part.
const (
	fixedBytes     = 64 << 10
	coreMost       = 128 << 10
	scriptMost     = 4 << 10
	sectionAlign   = 4 << 10
	alignedSection = 7 // kernel and initrd twice, image, archive, state
	// Overhead is the most that a berth takes beyond kernel and initrd, twice each, image,
	// archive and state.
	Overhead = fixedBytes + coreMost + scriptMost + alignedSection*sectionAlign
)

// Need is how large a berth has to be for a kernel, an initrd, a compressed image, a
// retained archive and a saved state of so many bytes.
func Need(kernel, initrd, image, archive, state int64) int64 {
	n := int64(fixedBytes + coreMost + scriptMost)
	for _, bytes := range []int64{kernel, kernel, initrd, initrd, image, archive, state} {
		n += (bytes + sectionAlign - 1) / sectionAlign * sectionAlign
	}
	return n
}

// Supported tells whether there is a lifeboat for such a machine.
func Supported(uefi bool, sectorSize int) error {
	switch {
	case uefi:
		return errors.New("there is no lifeboat yet for a machine that UEFI boots")
	case sectorSize != 512:
		return fmt.Errorf("there is no lifeboat yet for a disk with sectors of %d bytes", sectorSize)
	}
	return nil
}

// System is what an operating system has on the disk.
type System struct {
	Table       *disk.Table
	Filesystems map[int]disk.Filesystem // by partition number
}

// Search is what a berth is looked for in.
type Search struct {
	DiskBytes int64
	Old, New  System
	// Written is what the image writes: the ranges of its map, and what landing puts elsewhere.
	Written []image.Extent
	Need    int64
	// Named is the partition of the old system that [power_cut] berth names; 0: none.
	// It may hold anything, and nothing but it is looked at.
	Named int
	// InUse says why partitions of the old system must stay as they are, by their number:
	// "the old system mounts it on /data".
	InUse map[int]string
}

// NoBerthError says why each place on the disk is none.
type NoBerthError struct {
	Need int64
	Why  []string
}

func (e *NoBerthError) Error() string {
	return fmt.Sprintf("find berth of %s: %s", disk.Size(e.Need), strings.Join(e.Why, "; "))
}

// Choose finds a berth: all of the first place that is large enough. A swap partition comes
// first, since its signature says that what it holds is worth nothing; then unpartitioned
// space, what a BIOS reaches most surely first; the end of the disk is the last. It never
// touches what the old system, the image, or the restored system until it has landed may
// read or write. Where there is none, the error is a NoBerthError with a hint.
func Choose(s Search) (Berth, error) {
	if s.Old.Table == nil || s.New.Table == nil {
		return Berth{}, errors.New("find berth: the partition tables of both systems are needed")
	}
	places, why := s.places()
	for _, p := range places {
		free := s.free(p)
		if free.Bytes >= s.Need && free.Bytes > 0 {
			return Berth{free.Off, free.Bytes, p.where}, nil
		}
		why = append(why, s.tooSmall(p, free))
	}
	if len(why) == 0 {
		why = []string{"the disk has no swap partition and no unpartitioned space"}
	}
	err := &NoBerthError{s.Need, why}
	if s.Named > 0 {
		return Berth{}, report.Hint(err, "name another partition in [power_cut] berth, or none")
	}
	return Berth{}, report.Hint(err, "give both systems a swap partition of %s at the same place, or leave as much unpartitioned", disk.Size(up(s.Need)+3*berthAlign))
}

// Room lists what the old system leaves, in the order of Choose. It needs no New.
func Room(s Search) []Berth {
	places, _ := s.places()
	var all []Berth
	for _, p := range places {
		if free := largest(p.Extent, s.oldNeeds(p)); free.Bytes > 0 {
			all = append(all, Berth{free.Off, free.Bytes, p.where})
		}
	}
	return all
}

// place is where a berth may be.
type place struct {
	image.Extent
	where string
	entry int // the old system's partition that it is in; 0: none
}

// places are those that the old system leaves, best first, and why others are none.
func (s *Search) places() (all []place, why []string) {
	if s.Named > 0 {
		return s.named()
	}
	for _, e := range s.Old.partitions() {
		p, reason := s.swapPlace(e)
		if reason != "" {
			why = append(why, reason)
		} else if p.Bytes > 0 {
			all = append(all, p)
		}
	}
	var taken []image.Extent
	for _, e := range s.Old.partitions() {
		taken = append(taken, extent(e))
	}
	for _, gap := range image.Complement(taken, s.DiskBytes) {
		p := place{Extent: gap, where: "the end of the disk"}
		if gap.End() < s.DiskBytes {
			p.where = "the unpartitioned space at " + disk.Size(gap.Off)
		}
		// A gap of less than a MiB, or for an EBR, is no place that anybody means.
		if largest(gap, s.oldNeeds(p)).Bytes > 0 {
			all = append(all, p)
		}
	}
	return all, why
}

// swapPlace is the inside of a swap partition. A partition that only looks like one is
// refused with its reason; any other is no place and needs none.
func (s *Search) swapPlace(e disk.Entry) (p place, why string) {
	kind := s.Old.Filesystems[e.Number].Type
	switch {
	case kind != "swap" && kind != disk.Hibernated && !swapType(e.Type):
		if kind == "LVM2_member" {
			return place{}, fmt.Sprintf("partition %d is of LVM, and a swap within it is not looked for", e.Number)
		}
		return place{}, ""
	case s.InUse[e.Number] != "":
		return place{}, fmt.Sprintf("swap partition %d: %s", e.Number, s.InUse[e.Number])
	case kind == disk.Hibernated:
		return place{}, fmt.Sprintf("swap partition %d holds a hibernated system", e.Number)
	case kind == "":
		return place{}, fmt.Sprintf("swap partition %d has no swap signature; it may be encrypted", e.Number)
	case kind != "swap":
		return place{}, fmt.Sprintf("partition %d has the type of a swap partition, but holds %s", e.Number, kind)
	}
	return s.inside(e, fmt.Sprintf("the inside of swap partition %d", e.Number), swapHeader), ""
}

func (s *Search) inside(e disk.Entry, where string, header int64) place {
	return place{image.Extent{Off: e.Start + header, Bytes: e.Bytes - header}, where, e.Number}
}

// named is the partition that the configuration names.
func (s *Search) named() ([]place, []string) {
	where := fmt.Sprintf("partition %d", s.Named)
	e, there := s.Old.Table.Entry(s.Named)
	kind := s.Old.Filesystems[s.Named].Type
	switch {
	case !there:
		return nil, []string{"the disk has no " + where}
	case e.Extended:
		return nil, []string{where + " holds other partitions"}
	case s.InUse[s.Named] != "":
		return nil, []string{where + ": " + s.InUse[s.Named]}
	case kind == disk.Hibernated:
		return nil, []string{where + " holds a hibernated system"}
	case kind == "swap":
		return []place{s.inside(e, "the inside of swap "+where, swapHeader)}, nil
	}
	return []place{s.inside(e, where, 0)}, nil
}

// free is the largest range of a place that nobody needs.
func (s *Search) free(p place) image.Extent {
	return largest(p.Extent, append(s.oldNeeds(p), s.newNeeds(p)...))
}

// oldNeeds is what the old system has, and what firmware and boot loaders have.
func (s *Search) oldNeeds(p place) []image.Extent {
	needs := []image.Extent{{Off: 0, Bytes: edgeBytes}, {Off: s.DiskBytes - edgeBytes, Bytes: edgeBytes}}
	for _, e := range s.Old.partitions() {
		if e.Number != p.entry {
			needs = append(needs, extent(e))
		}
	}
	return append(needs, s.Old.ebrs()...)
}

// newNeeds is what the image writes, and what restore and hooks may write: every
// partition but the inside of a swap.
func (s *Search) newNeeds(p place) []image.Extent {
	needs := slices.Concat(s.Written, s.New.ebrs())
	for _, e := range s.New.partitions() {
		switch kind := s.New.Filesystems[e.Number].Type; {
		case kind == "swap":
			needs = append(needs, image.Extent{Off: e.Start, Bytes: min(e.Bytes, swapHeader)})
		case kind == "" && p.entry == s.Named && s.Named > 0:
			// Nothing is known in it, and what was named is the berth.
		default:
			needs = append(needs, extent(e))
		}
	}
	return needs
}

// tooSmall says what there is, and what of it the new system takes.
func (s *Search) tooSmall(p place, free image.Extent) string {
	old := largest(p.Extent, s.oldNeeds(p))
	if old.Bytes == free.Bytes {
		return fmt.Sprintf("%s has %s", p.where, disk.Size(free.Bytes))
	}
	return fmt.Sprintf("%s has %s, of which the new system leaves %s", p.where, disk.Size(old.Bytes), disk.Size(free.Bytes))
}

// largest is the largest range of whole MiB in within that no need touches; the first of
// several.
func largest(within image.Extent, needs []image.Extent) image.Extent {
	// Outside of within is a need like any other.
	needs = append(needs, image.Extent{Off: 0, Bytes: within.Off})
	free := image.Inward(image.Complement(needs, within.End()), berthAlign)
	if len(free) == 0 {
		return image.Extent{Off: within.Off}
	}
	return slices.MaxFunc(free, func(a, b image.Extent) int { return cmp.Or(cmp.Compare(a.Bytes, b.Bytes), cmp.Compare(b.Off, a.Off)) })
}

// partitions are those that hold something themselves.
func (s *System) partitions() []disk.Entry {
	return slices.DeleteFunc(slices.Clone(s.Table.Entries), func(e disk.Entry) bool { return e.Extended })
}

func (s *System) ebrs() []image.Extent {
	var all []image.Extent
	for _, off := range s.Table.EBRs {
		all = append(all, image.Extent{Off: off, Bytes: 512})
	}
	return all
}

func extent(e disk.Entry) image.Extent { return image.Extent{Off: e.Start, Bytes: e.Bytes} }

func up(n int64) int64 { return (n + berthAlign - 1) / berthAlign * berthAlign }

// swapType knows a swap partition by the type in its table: Linux swap of an MBR, which
// Solaris has too, and of a GPT (UAPI.2, Discoverable Partitions).
func swapType(kind string) bool {
	return kind == "82" || kind == "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"
}
