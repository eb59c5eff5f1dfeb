package filesystem

import (
	"context"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/disk"
)

func TestSwapFree(t *testing.T) {
	for _, c := range []struct{ page, size, end int64 }{
		{4 << 10, 1 << 20, 1 << 20},
		{4 << 10, 1<<20 + 3000, 1 << 20},
		{8 << 10, 1 << 20, 1 << 20},
		{16 << 10, 1 << 20, 1 << 20},
		{64 << 10, 1<<20 + 32<<10, 1 << 20},
	} {
		image := newImage(t, c.size)
		tool(t, "mkswap", "-q", "-p", strconv.FormatInt(c.page, 10), image)
		want := Free{Extents: []Extent{{c.page, c.end - c.page}}}
		if diff := cmp.Diff(want, unallocated(t, image)); diff != "" {
			t.Errorf("pages of %d (-want +got):\n%s", c.page, diff)
		}
	}
}

func TestSwapDoubts(t *testing.T) {
	image := newImage(t, 1<<20)
	tool(t, "mkswap", "-q", "-L", "exchange", image)
	signature := func(s string) func(*patch) { return func(p *patch) { p.put(4086, []byte(s)) } }
	doubts(t, image, "swap", []doubtCase{
		{"hibernated", signature("S1SUSPEND\x00"), "hibernated"},
		{"hibernated long ago", signature("S2SUSPEND\x00"), "hibernated"},
		{"hibernated by uswsusp", signature("ULSUSPEND\x00"), "hibernated"},
		{"hibernated by TuxOnIce", signature("\xed\xc3\x02\xe9\x98\x56\xe5\x0c"), "hibernated"},
		{"version 0", signature("SWAP-SPACE"), "no filesystem that is known"},
		{"version 2", func(p *patch) { p.put(1024, []byte{2}) }, "version 2"},
		{"other byte order", func(p *patch) { p.put(1024, []byte{0, 0, 0, 1}) }, "version 16777216"},
		{"bad pages", func(p *patch) { p.put(1032, []byte{1}) }, "1 bad pages"},
		{"too long", func(p *patch) { p.put(1028, []byte{0, 1}) }, "ends at byte 1052672"},
		{"empty", func(p *patch) { p.put(1028, []byte{0, 0}) }, "ends at byte 4096"},
		{"boot sector of another", func(p *patch) { p.put(510, []byte{0x55, 0xaa}) }, "more in it than mkswap writes"},
		{"reserved sectors of another", func(p *patch) { p.put(3000, []byte{1}) }, "more in it than mkswap writes"},
		{"btrfs on top", func(p *patch) { p.put(64<<10+64, []byte("_BHRfS_M")) }, "signatures of both"},
	})
	p := readImage(t, image)
	signature("S1SUSPEND\x00")(p)
	// disk.Probe does not know what it is.
	free, err := Unallocated(context.Background(), p, 0, 1<<20, disk.Filesystem{})
	if want := "mapped whole: swap holds a hibernated system"; err != nil || free.Whole != want {
		t.Errorf("hibernated: %q, %v; want %q", free.Whole, err, want)
	}
}
