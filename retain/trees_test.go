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
	trees = flag.Int("trees", 16, "how many random trees on tmpfs; a tenth as many on each of the other filesystems")
	seed  = flag.Uint64("seed", 1, "of the first random tree")
)

// What was captured and put back is what it was, as tools see it that share
// nothing with us, on the filesystems that systems have.
func TestTrees(t *testing.T) {
	treetest.Need(t, "find", "xargs", "sha256sum", "getfattr", "getfacl", "lsattr", "chattr", "mount", "umount")
	for _, fs := range []struct {
		kind  treetest.Kind
		trees int
		size  int64
	}{
		{treetest.Tmpfs(), *trees, 0},
		{treetest.Ext4(), (*trees + 9) / 10, 512 << 20},
		{treetest.XFS(), (*trees + 9) / 10, 512 << 20},
		{treetest.Btrfs(), (*trees + 9) / 10, 512 << 20},
	} {
		t.Run(fs.kind.Name, func(t *testing.T) {
			mnt := treetest.Mount(t, fs.kind, fs.size)
			for i := range fs.trees {
				s := *seed + uint64(i)
				t.Run(fmt.Sprint(s), func(t *testing.T) { roundTripTree(t, mnt, s, fs.kind) })
				if t.Failed() {
					t.Fatalf("again with: go test ./retain -run 'TestTrees/%s' -seed %d -trees 1", fs.kind.Name, s)
				}
			}
		})
	}
}

func roundTripTree(t *testing.T, mnt string, seed uint64, kind treetest.Kind) {
	base, err := os.MkdirTemp(mnt, "")
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(base)) })
	old, target := filepath.Join(base, "old"), filepath.Join(base, "new")
	check(t, os.MkdirAll(filepath.Join(old, "k"), 0o755))
	check(t, os.Mkdir(target, 0o755))
	treetest.ReleaseAtEnd(t, target)
	treetest.Generate(t, filepath.Join(old, "k"), seed, 60, kind)
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
