package retain

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/retain/treetest"
)

var (
	trees = flag.Int("trees", 1000, "how many random trees on ext4; a twentieth as many on each of the other filesystems")
	seed  = flag.Uint64("seed", 1, "of the first random tree")
)

// grove is how many trees are captured together: what the tools cost that look at
// them afterwards is mostly their start.
const grove = 25

// What was captured and put back is what it was, as tools see it that share
// nothing with us, on the filesystems that systems have.
func TestTrees(t *testing.T) {
	treetest.Need(t, "find", "xargs", "b2sum", "getfattr", "getfacl", "lsattr", "chattr", "mount", "umount")
	few := (*trees + 19) / 20
	for _, fs := range []struct {
		kind  treetest.Kind
		trees int
		size  int64
	}{
		{treetest.Ext4(), *trees, 1 << 30},
		{treetest.Tmpfs(), few, 0},
		{treetest.XFS(), few, 512 << 20},
		{treetest.Btrfs(), few, 512 << 20},
	} {
		t.Run(fs.kind.Name, func(t *testing.T) {
			t.Parallel()
			mnt := treetest.Mount(t, fs.kind, fs.size)
			for i := 0; i < fs.trees; i += grove {
				s, n := *seed+uint64(i), min(grove, fs.trees-i)
				t.Run(fmt.Sprint(s), func(t *testing.T) { roundTripTrees(t, mnt, s, n, fs.kind) })
				if t.Failed() {
					t.Fatalf("again with: go test ./retain -run 'TestTrees/%s' -seed %d -trees %d", fs.kind.Name, s, n)
				}
			}
		})
	}
}

func roundTripTrees(t *testing.T, mnt string, seed uint64, n int, kind treetest.Kind) {
	base, err := os.MkdirTemp(mnt, "")
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(base)) })
	old, target := filepath.Join(base, "old"), filepath.Join(base, "new")
	check(t, os.Mkdir(target, 0o755))
	check(t, os.Mkdir(old, 0o755))
	check(t, os.Mkdir(filepath.Join(old, "k"), 0o755))
	treetest.ReleaseAtEnd(t, target)
	for i := range n {
		dir := filepath.Join(old, "k", fmt.Sprint(i))
		check(t, os.Mkdir(dir, 0o755))
		treetest.Generate(t, dir, seed+uint64(i), 60, kind)
	}
	archive, summary := capture(t, scan(t, old, "/k"))
	want := treetest.Describe(t, filepath.Join(old, "k"))
	for _, how := range []string{"into an empty root", "over itself"} {
		report := restore(t, target, archive, Options{})
		if len(report.Conflicts)+len(report.Lost) > 0 || len(report.Entries) != len(summary.Entries) {
			t.Errorf("%s: conflicts %v, lost %v; want none", how, report.Conflicts, report.Lost)
		}
		if diff := cmp.Diff(want, treetest.Describe(t, filepath.Join(target, "k"))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", how, diff)
		}
		if diff := cmp.Diff([]Difference(nil), verify(t, target, archive, Options{})); diff != "" {
			t.Errorf("%s: %s", how, diff)
		}
		if t.Failed() {
			return
		}
	}
}
