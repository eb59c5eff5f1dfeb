package lifeboat

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/disk"
	"reimager/image"
	"reimager/report"
)

const mib = 1 << 20

// part is a partition in MiB.
type part struct {
	number     int
	start, mib int64
	kind       string // of its filesystem; "05": an extended one
}

// system makes a System; EBRs are in MiB.
func system(kind string, parts []part, ebrs ...int64) System {
	s := System{Table: &disk.Table{Kind: kind}, Filesystems: map[int]disk.Filesystem{}}
	for _, p := range parts {
		e := disk.Entry{Number: p.number, Start: p.start * mib, Bytes: p.mib * mib, Type: "83", Extended: p.kind == "05"}
		switch p.kind {
		case "swap", disk.Hibernated, "82":
			e.Type = "82"
		}
		s.Table.Entries = append(s.Table.Entries, e)
		if p.kind != "05" && p.kind != "82" {
			s.Filesystems[p.number] = disk.Filesystem{Type: p.kind}
		}
	}
	for _, at := range ebrs {
		s.Table.EBRs = append(s.Table.EBRs, at*mib)
	}
	return s
}

func extents(mibs ...int64) []image.Extent {
	var all []image.Extent
	for i := 0; i < len(mibs); i += 2 {
		all = append(all, image.Extent{Off: mibs[i] * mib, Bytes: mibs[i+1] * mib})
	}
	return all
}

// kiosk is a classic one: root, swap, and data in an extended partition.
func kiosk() System {
	return system("mbr", []part{{1, 1, 400, "ext4"}, {2, 401, 200, "swap"}, {4, 601, 300, "05"}, {5, 602, 299, "ext4"}}, 601)
}

func TestChoose(t *testing.T) {
	plain := system("mbr", []part{{1, 1, 400, "ext4"}})
	for _, tt := range []struct {
		name   string
		search Search
		want   Berth  // in MiB
		err    string // "; " between what it says of each place
	}{
		{name: "the inside of a swap of both systems",
			search: Search{DiskBytes: 902 * mib, Old: kiosk(), New: kiosk(), Written: extents(0, 100, 401, 1), Need: 120 * mib},
			want:   Berth{402, 199, "the inside of swap partition 2"}},
		{name: "GPT",
			search: Search{DiskBytes: 902 * mib, Old: system("gpt", []part{{1, 1, 400, "xfs"}, {2, 401, 500, "swap"}}),
				New: system("gpt", []part{{1, 1, 400, "xfs"}, {2, 401, 500, "swap"}}), Need: 498 * mib},
			want: Berth{402, 499, "the inside of swap partition 2"}},
		{name: "the swap moves: what both leave",
			search: Search{DiskBytes: 902 * mib, Old: kiosk(), New: system("mbr", []part{{1, 1, 500, "ext4"}, {3, 501, 401, "swap"}}), Need: 50 * mib},
			want:   Berth{502, 99, "the inside of swap partition 2"}},
		{name: "the new swap begins in the middle of the old one, which is split",
			search: Search{DiskBytes: 902 * mib, Old: kiosk(), New: system("mbr", []part{{1, 1, 400, "ext4"}, {2, 451, 151, "swap"}}), Need: 50 * mib},
			want:   Berth{452, 149, "the inside of swap partition 2"}},
		{name: "a swap between EBRs",
			search: Search{DiskBytes: 902 * mib,
				Old: system("mbr", []part{{1, 1, 400, "ext4"}, {4, 401, 500, "05"}, {5, 402, 98, "swap"}, {6, 501, 400, "ext4"}}, 401, 500),
				New: system("mbr", []part{{1, 1, 400, "ext4"}, {4, 401, 500, "05"}, {5, 402, 98, "swap"}, {6, 501, 400, "ext4"}}, 401, 500), Need: 90 * mib},
			want: Berth{403, 97, "the inside of swap partition 5"}},
		{name: "an EBR of the new system within the old swap",
			search: Search{DiskBytes: 902 * mib, Old: kiosk(),
				New: system("mbr", []part{{1, 1, 400, "ext4"}, {4, 401, 500, "05"}, {5, 403, 57, "swap"}, {6, 471, 100, "swap"}}, 401, 470), Need: 90 * mib},
			want: Berth{472, 129, "the inside of swap partition 2"}},
		{name: "the end of the disk",
			search: Search{DiskBytes: 902 * mib, Old: plain, New: plain, Written: extents(0, 401), Need: 500 * mib},
			want:   Berth{401, 500, "the end of the disk"}},
		{name: "the end of a disk that is no whole MiB",
			search: Search{DiskBytes: 902*mib + 512, Old: plain, New: plain, Need: 500 * mib},
			want:   Berth{401, 500, "the end of the disk"}},
		{name: "the image leaves a GPT's backup in the middle of the end",
			search: Search{DiskBytes: 902 * mib, Old: system("gpt", []part{{1, 1, 400, "ext4"}}), New: system("gpt", []part{{1, 1, 400, "ext4"}}),
				Written: []image.Extent{{Off: 0, Bytes: 401 * mib}, {Off: 502*mib - 33*512, Bytes: 33 * 512}}, Need: 300 * mib},
			want: Berth{502, 399, "the end of the disk"}},
		{name: "unpartitioned space comes before the end, and the lower before the larger",
			search: Search{DiskBytes: 902 * mib, Old: system("mbr", []part{{1, 1, 99, "ext4"}, {2, 200, 100, "ext4"}, {3, 600, 100, "ext4"}}), New: plain, Need: 100 * mib,
				Written: nil},
			want: Berth{401, 199, "the unpartitioned space at 300 MiB"}},
		{name: "a swap comes before all else",
			search: Search{DiskBytes: 902 * mib, Old: system("mbr", []part{{1, 1, 99, "ext4"}, {2, 500, 200, "swap"}}), New: plain, Need: 10 * mib},
			want:   Berth{501, 199, "the inside of swap partition 2"}},
		{name: "unpartitioned space within an extended partition",
			search: Search{DiskBytes: 402 * mib, Old: system("mbr", []part{{1, 1, 99, "ext4"}, {4, 100, 300, "05"}, {5, 101, 100, "ext4"}, {6, 351, 49, "ext4"}}, 100, 350),
				New: system("mbr", []part{{1, 1, 99, "ext4"}}), Need: 100 * mib},
			want: Berth{201, 149, "the unpartitioned space at 201 MiB"}},
		{name: "what the image maps in the swap",
			search: Search{DiskBytes: 902 * mib, Old: kiosk(), New: kiosk(), Written: extents(0, 100, 401, 1, 480, 10), Need: 100 * mib},
			want:   Berth{490, 111, "the inside of swap partition 2"}},
		{name: "pages of 64 KiB: a swap that ends a MiB just behind its header",
			search: Search{DiskBytes: 902 * mib, Old: shifted(kiosk(), -32<<10), New: shifted(kiosk(), -32<<10), Need: 100 * mib},
			want:   Berth{402, 198, "the inside of swap partition 2"}},
		{name: "a partition that is named holds anything",
			search: Search{DiskBytes: 902 * mib, Old: kiosk(), New: plain, Named: 5, Need: 100 * mib},
			want:   Berth{602, 299, "partition 5"}},
		{name: "a partition that is named, where the new one has nothing known",
			search: Search{DiskBytes: 902 * mib, Old: kiosk(), New: system("mbr", []part{{3, 600, 300, ""}}), Written: extents(600, 50), Named: 5, Need: 100 * mib},
			want:   Berth{650, 251, "partition 5"}},
		{name: "a swap that is named keeps its header",
			search: Search{DiskBytes: 902 * mib, Old: kiosk(), New: plain, Named: 2, Need: 100 * mib},
			want:   Berth{402, 199, "the inside of swap partition 2"}},

		{name: "nothing at all",
			search: Search{DiskBytes: 402 * mib, Old: plain, New: plain, Need: 100 * mib},
			err:    "find berth of 100 MiB: the disk has no swap partition and no unpartitioned space"},
		{name: "nothing is large enough",
			search: Search{DiskBytes: 952 * mib, Old: kiosk(), New: kiosk(), Written: extents(0, 901), Need: 120 * mib},
			err:    "find berth of 120 MiB: the inside of swap partition 2 has 199 MiB, of which the new system leaves 0 B; the end of the disk has 50 MiB"},
		{name: "hibernated",
			search: Search{DiskBytes: 402 * mib, Old: system("mbr", []part{{1, 1, 201, "ext4"}, {2, 202, 200, disk.Hibernated}}), New: plain, Need: mib},
			err:    "find berth of 1 MiB: swap partition 2 holds a hibernated system"},
		{name: "encrypted swap, and swap on LVM",
			search: Search{DiskBytes: 402 * mib, Old: system("mbr", []part{{1, 1, 1, "ext4"}, {2, 2, 200, "82"}, {3, 202, 200, "LVM2_member"}}), New: plain, Need: mib},
			err:    "find berth of 1 MiB: swap partition 2 has no swap signature; it may be encrypted; partition 3 is of LVM, and a swap within it is not looked for"},
		{name: "in use",
			search: Search{DiskBytes: 402 * mib, Old: system("mbr", []part{{1, 1, 201, "ext4"}, {2, 202, 200, "swap"}}), New: plain, Need: mib, InUse: map[int]string{2: "it is part of dm-0"}},
			err:    "find berth of 1 MiB: swap partition 2: it is part of dm-0"},
		{name: "a type that does not fit",
			search: Search{DiskBytes: 402 * mib, Old: retyped(system("mbr", []part{{1, 1, 201, "ext4"}, {2, 202, 200, "vfat"}}), 1, "82"), New: plain, Need: mib},
			err:    "find berth of 1 MiB: partition 2 has the type of a swap partition, but holds vfat"},
		{name: "the one that is named is too small, and no other counts",
			search: Search{DiskBytes: 902 * mib, Old: kiosk(), New: plain, Named: 5, Need: 300 * mib},
			err:    "find berth of 300 MiB: partition 5 has 299 MiB"},
		{name: "the one that is named is mounted",
			search: Search{DiskBytes: 902 * mib, Old: kiosk(), New: plain, Named: 5, Need: mib, InUse: map[int]string{5: "the old system mounts it on /data"}},
			err:    "find berth of 1 MiB: partition 5: the old system mounts it on /data"},
		{name: "the one that is named is a filesystem of the new system",
			search: Search{DiskBytes: 902 * mib, Old: kiosk(), New: kiosk(), Named: 5, Need: mib},
			err:    "find berth of 1 MiB: partition 5 has 299 MiB, of which the new system leaves 0 B"},
		{name: "the one that is named is not there",
			search: Search{DiskBytes: 902 * mib, Old: kiosk(), New: plain, Named: 7, Need: mib},
			err:    "find berth of 1 MiB: the disk has no partition 7"},
		{name: "the one that is named is extended",
			search: Search{DiskBytes: 902 * mib, Old: kiosk(), New: plain, Named: 4, Need: mib},
			err:    "find berth of 1 MiB: partition 4 holds other partitions"},
		{name: "no table",
			search: Search{DiskBytes: 902 * mib, Old: kiosk(), Need: mib},
			err:    "find berth: the partition tables of both systems are needed"},
	} {
		got, err := Choose(tt.search)
		want := Berth{tt.want.Off * mib, tt.want.Bytes * mib, tt.want.Where}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: Choose (-want +got):\n%s", tt.name, diff)
		}
		if message := fmt.Sprint(err); tt.err != "" && message != tt.err || tt.err == "" && err != nil {
			t.Errorf("%s: Choose: error\n  %s; want\n  %s", tt.name, message, tt.err)
		}
		var none *NoBerthError
		if errors.As(err, &none) && !strings.Contains(report.Explain(err), "hint: ") {
			t.Errorf("%s: no hint", tt.name)
		}
	}
}

func TestRoom(t *testing.T) {
	got := Room(Search{DiskBytes: 952 * mib, Old: kiosk()})
	want := []Berth{{402 * mib, 199 * mib, "the inside of swap partition 2"}, {901 * mib, 50 * mib, "the end of the disk"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Room (-want +got):\n%s", diff)
	}
	if got := Room(Search{DiskBytes: 902 * mib, Old: system("mbr", []part{{1, 1, 900, "ext4"}})}); got != nil {
		t.Errorf("Room of a full disk = %v", got)
	}
}

// shifted moves all partitions.
func shifted(s System, by int64) System {
	for i := range s.Table.Entries {
		s.Table.Entries[i].Start += by
	}
	return s
}

func retyped(s System, i int, kind string) System {
	s.Table.Entries[i].Type = kind
	return s
}

func TestNeed(t *testing.T) {
	const fixed = 64<<10 + 128<<10 + 4<<10
	for _, tt := range []struct{ kernel, initrd, image, archive, state, want int64 }{
		{want: fixed},
		{kernel: 1, want: fixed + 2*4096},
		{kernel: 4096, initrd: 4097, image: 10 << 20, archive: 1, state: 4096, want: fixed + 2*4096 + 2*8192 + 10<<20 + 4096 + 4096},
	} {
		got := Need(tt.kernel, tt.initrd, tt.image, tt.archive, tt.state)
		if got != tt.want {
			t.Errorf("Need(%+v) = %d; want %d", tt, got, tt.want)
		}
		if most := 2*tt.kernel + 2*tt.initrd + tt.image + tt.archive + tt.state + Overhead; got > most {
			t.Errorf("Need(%+v) = %d; with Overhead it is %d at most", tt, got, most)
		}
	}
}

func TestSupported(t *testing.T) {
	for _, tt := range []struct {
		uefi   bool
		sector int
		want   string
	}{
		{false, 512, ""},
		{true, 512, "there is no lifeboat yet for a machine that UEFI boots"},
		{false, 4096, "there is no lifeboat yet for a disk with sectors of 4096 bytes"},
	} {
		if err := Supported(tt.uefi, tt.sector); err == nil != (tt.want == "") || err != nil && err.Error() != tt.want {
			t.Errorf("Supported(%t, %d) = %v; want %q", tt.uefi, tt.sector, err, tt.want)
		}
	}
}

// Whatever the layouts are, the berth overlaps nothing that is needed, and where none is
// found there is none: both are asked of each MiB by itself.
func TestChooseProperty(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 1))
	found := 0
	for n := range 20000 {
		s := randomSearch(r)
		got, err := Choose(s)
		longest, run, last := int64(0), int64(0), -1
		for at := int64(0); at < s.DiskBytes; at += mib {
			why, owner := forbidden(s, at), owner(s.Old, at)
			if err == nil && why != "" && at < got.Off+got.Bytes && got.Off < at+mib {
				t.Fatalf("search %d: berth %+v: the MiB at %d is %s\n%+v", n, got, at/mib, why, s)
			}
			if owner != last {
				run, last = 0, owner
			}
			if run += mib; why != "" || owner < 0 || s.Named > 0 && owner != s.Named {
				run = 0
			}
			longest = max(longest, run)
		}
		switch {
		case err == nil && (got.Off%mib != 0 || got.Bytes%mib != 0 || got.Bytes < s.Need):
			t.Fatalf("search %d: berth %+v; need %d", n, got, s.Need)
		case err != nil && longest >= s.Need:
			t.Fatalf("search %d: %v, but %d MiB are free in a row\n%+v", n, err, longest/mib, s)
		case err == nil:
			found++
		}
	}
	if found < 2000 {
		t.Errorf("%d of 20000 layouts have a berth; the test looks at too few", found)
	}
}

// owner is the one partition that a MiB is in, 0 if it is in none, -1 if it is not wholly
// in one or in none.
func owner(s System, at int64) int {
	owner := 0
	for _, e := range s.Table.Entries {
		switch {
		case e.Start >= at+mib || e.Start+e.Bytes <= at:
		case e.Start > at || e.Start+e.Bytes < at+mib || owner != 0:
			return -1
		default:
			owner = e.Number
		}
	}
	return owner
}

// randomSearch makes two layouts at odd sectors.
func randomSearch(r *rand.Rand) Search {
	s := Search{DiskBytes: (64 + r.Int64N(200)) * mib, Need: 1 + r.Int64N(20*mib), InUse: map[int]string{}}
	s.DiskBytes += r.Int64N(4) * 512
	s.Old, s.New = randomSystem(r, s.DiskBytes), randomSystem(r, s.DiskBytes)
	for range r.IntN(8) {
		s.Written = append(s.Written, image.Extent{Off: r.Int64N(s.DiskBytes), Bytes: r.Int64N(4 * mib)})
	}
	if r.IntN(4) == 0 {
		s.Named = 1 + r.IntN(8)
	}
	if r.IntN(4) == 0 {
		s.InUse[1+r.IntN(8)] = "it is in use"
	}
	return s
}

func randomSystem(r *rand.Rand, diskBytes int64) System {
	s := System{Table: &disk.Table{}, Filesystems: map[int]disk.Filesystem{}}
	at := int64(63 * 512)
	for n := 1; n <= 8 && at < diskBytes; n++ {
		at += r.Int64N(10*mib) / 512 * 512 * r.Int64N(2)
		if n > 4 { // logical
			s.Table.EBRs = append(s.Table.EBRs, at)
			at += 512 * (1 + r.Int64N(63))
		}
		bytes := 512 * (1 + r.Int64N(60*mib)/512)
		if r.IntN(3) == 0 {
			at = at / mib * mib
		}
		kind := []string{"ext4", "swap", "swap", "", disk.Hibernated, "LVM2_member"}[r.IntN(6)]
		s.Table.Entries = append(s.Table.Entries, disk.Entry{Number: n, Start: at, Bytes: bytes, Type: []string{"82", "83"}[r.IntN(2)]})
		s.Filesystems[n] = disk.Filesystem{Type: kind}
		at += bytes
	}
	return s
}

// forbidden says why the MiB at an offset may not be in a berth.
func forbidden(s Search, at int64) string {
	touches := func(off, bytes int64) bool { return bytes > 0 && off < at+mib && at < off+bytes }
	if touches(0, mib) || touches(s.DiskBytes-mib, 2*mib) {
		return "at the edge"
	}
	for _, w := range s.Written {
		if touches(w.Off, w.Bytes) {
			return "written"
		}
	}
	for which, system := range []System{s.Old, s.New} {
		for _, e := range system.Table.EBRs {
			if touches(e, 512) {
				return "an EBR"
			}
		}
		for _, e := range system.Table.Entries {
			kind := system.Filesystems[e.Number].Type
			old := which == 0
			switch {
			case old && s.InUse[e.Number] != "" && touches(e.Start, e.Bytes):
				return "in use"
			case old && kind == disk.Hibernated && touches(e.Start, e.Bytes):
				return "hibernated"
			case kind == "swap" && touches(e.Start, min(e.Bytes, 64<<10)):
				return "a swap's header"
			case kind == "swap" || old && e.Number == s.Named || !old && s.Named > 0 && kind == "":
			case touches(e.Start, e.Bytes):
				return fmt.Sprintf("in partition %d, %q", e.Number, kind)
			}
		}
	}
	return ""
}
