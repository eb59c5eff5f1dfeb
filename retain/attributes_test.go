package retain

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"reimager/retain/treetest"
)

// As large and as many as the kernel lets them be, with labels of SELinux, which
// are kept as they are whatever the system makes of them.
func TestLargeXattrs(t *testing.T) {
	treetest.Need(t)
	mnt := treetest.Mount(t, treetest.XFS(), 512<<20)
	old, target := filepath.Join(mnt, "old"), filepath.Join(mnt, "new")
	check(t, os.MkdirAll(filepath.Join(old, "k"), 0o755))
	check(t, os.Mkdir(target, 0o755))
	set := func(path, name string, value []byte) {
		t.Helper()
		if err := unix.Lsetxattr(path, name, value, 0); err != nil {
			t.Fatalf("set %s of %s: %v", name, path, err)
		}
	}
	all := filepath.Join(old, "k/all")
	check(t, os.WriteFile(all, []byte("x"), 0o600))
	for i := range 100 {
		set(all, fmt.Sprintf("user.%d%s", i, strings.Repeat("n", 240)), []byte(strings.Repeat(fmt.Sprint(i%10), maxXattr)))
	}
	link := filepath.Join(old, "k/link")
	check(t, os.Symlink("all", link))
	set(link, "security.selinux", []byte("system_u:object_r:etc_t:s0\x00"))
	set(link, "trusted.large", make([]byte, maxXattr))
	set(filepath.Join(old, "k"), "security.selinux", []byte("system_u:object_r:usr_t:s0\x00"))
	plan := scan(t, old, "/k")
	archive, _ := capture(t, plan)
	restore(t, target, archive, Options{Owners: ByID})
	if diff := cmp.Diff([]Difference(nil), verify(t, target, archive, Options{Owners: ByID})); diff != "" {
		t.Error(diff)
	}
	compareTrees(t, filepath.Join(old, "k"), filepath.Join(target, "k"))
	t.Run("unpacked by tar", func(t *testing.T) {
		t.Setenv("TMPDIR", mnt) // where such attributes fit
		unpackWithTar(t, old, archive)
	})
	// Beyond what an archive takes of one file: Scan says so.
	for i := range 200 {
		set(all, fmt.Sprintf("user.more%d", i), make([]byte, maxXattr))
	}
	_, err := Scan(t.Context(), old, parseList(t, "/k"))
	if err == nil || !strings.Contains(err.Error(), "/k/all: extended attributes take") {
		t.Errorf("Scan = %v; want that /k/all has too many attributes", err)
	}
}

// To the nanosecond, before 1970 and after 2038, as far as the kernel goes.
func TestTimes(t *testing.T) {
	treetest.Need(t)
	mnt := treetest.Mount(t, treetest.Btrfs(), 512<<20) // which has 64 bits of seconds
	old, target := filepath.Join(mnt, "old"), filepath.Join(mnt, "new")
	check(t, os.MkdirAll(filepath.Join(old, "k"), 0o755))
	check(t, os.Mkdir(target, 0o755))
	for i, want := range []unix.Timespec{{Sec: -1, Nsec: 1}, {Sec: -1, Nsec: 999999999}, {Nsec: 1}, {}, {Sec: -1}, {Sec: -1 << 31, Nsec: 5}, {Sec: -1<<31 - 1},
		{Sec: 1<<31 - 1, Nsec: 999999999}, {Sec: 1 << 31}, {Sec: 1 << 33, Nsec: 100000000}, {Sec: 1<<33 - 1}, {Sec: 1 << 62}, {Sec: -1 << 62, Nsec: 7}} {
		path := filepath.Join(old, "k", fmt.Sprint(i))
		check(t, os.WriteFile(path, nil, 0o600))
		check(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{want, want}, 0))
		if got := lstat(t, path).Mtim; got != want {
			t.Fatalf("the filesystem keeps %v as %v", want, got)
		}
	}
	archive, _ := capture(t, scan(t, old, "/k"))
	restore(t, target, archive, Options{Owners: ByID})
	compareTrees(t, filepath.Join(old, "k"), filepath.Join(target, "k"))
	if diff := cmp.Diff([]Difference(nil), verify(t, target, archive, Options{Owners: ByID})); diff != "" {
		t.Error(diff)
	}
}
