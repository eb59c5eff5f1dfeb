package retain

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/retain/treetest"
)

// chattr sets inode flags with the system's own tool.
func chattr(t testing.TB, flags string, paths ...string) {
	t.Helper()
	if out, err := exec.Command("chattr", append([]string{flags}, paths...)...).CombinedOutput(); err != nil {
		t.Fatalf("chattr %s: %v\n%s", flags, err, out)
	}
}

// lsattr returns the flags of a file but for those that its filesystem chose.
func lsattr(t testing.TB, path string) string {
	t.Helper()
	out, err := exec.Command("lsattr", "-d", path).Output()
	check(t, err)
	flags, _, _ := strings.Cut(string(out), " ")
	return strings.NewReplacer("-", "", "e", "").Replace(flags)
}

// Each flag comes back, those of hard links and of directories with content too,
// and with libarchive's names. j is not tried: it takes CAP_SYS_RESOURCE, which root
// in a container lacks.
func TestInodeFlags(t *testing.T) {
	treetest.Need(t, "chattr", "lsattr")
	mnt := treetest.Mount(t, treetest.Ext4(), 64<<20)
	treetest.ReleaseAtEnd(t, mnt)
	old, target := filepath.Join(mnt, "old"), filepath.Join(mnt, "new")
	check(t, os.MkdirAll(target, 0o755))
	want := map[string]string{}
	for _, flag := range []string{"a", "i", "d", "A", "S", "t", "aidAS"} {
		path := filepath.Join(old, "k", "file-"+flag)
		check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		check(t, os.WriteFile(path, []byte("content"), 0o640))
		check(t, os.Link(path, path+"-link"))
		want["file-"+flag] = flag
	}
	for _, flag := range []string{"a", "i", "D", "T", "dA"} {
		path := filepath.Join(old, "k", "dir-"+flag)
		check(t, os.MkdirAll(filepath.Join(path, "below"), 0o755))
		check(t, os.WriteFile(filepath.Join(path, "file"), nil, 0o600))
		want["dir-"+flag] = flag
	}
	// None, though the directories have some.
	want["dir-dA/file"], want["dir-dA/below"], want["dir-i/below"] = "", "", ""
	for name, flags := range want {
		if flags != "" {
			chattr(t, "+"+flags, filepath.Join(old, "k", name))
		}
	}
	for name, flags := range want {
		if got := lsattr(t, filepath.Join(old, "k", name)); !sameLetters(got, flags) {
			t.Fatalf("chattr gave %s %q; want %q", name, got, flags)
		}
	}
	archive, _ := capture(t, scan(t, old, "/k"))
	for _, how := range []string{"into an empty root", "over itself"} {
		report := restore(t, target, archive, Options{Owners: ByID})
		if len(report.Conflicts)+len(report.Lost) > 0 {
			t.Errorf("%s: conflicts %v, lost %v; want none", how, report.Conflicts, report.Lost)
		}
		for name, flags := range want {
			if got := lsattr(t, filepath.Join(target, "k", name)); !sameLetters(got, flags) {
				t.Errorf("%s: %s has flags %q; want %q", how, name, got, flags)
			}
		}
		if diff := cmp.Diff([]Difference(nil), verify(t, target, archive, Options{Owners: ByID})); diff != "" {
			t.Errorf("%s: %s", how, diff)
		}
		// chattr changes no time but ctime; find, not we, tells.
		if diff := cmp.Diff(treetest.Describe(t, filepath.Join(old, "k")), treetest.Describe(t, filepath.Join(target, "k"))); diff != "" {
			t.Errorf("%s: %s", how, diff)
		}
	}
	chattr(t, "-i", filepath.Join(target, "k/file-i"))
	got := verify(t, target, archive, Options{Owners: ByID})
	if diff := cmp.Diff([]Difference{{"/k/file-i", "inode flags", "schg", ""}}, got); diff != "" {
		t.Error(diff)
	}
}

func sameLetters(a, b string) bool {
	return len(a) == len(b) && strings.Trim(a, b) == "" && strings.Trim(b, a) == ""
}

// What is immutable in the new system gives way, and a directory that is not in
// the archive is immutable again afterwards.
func TestLockedNewRoot(t *testing.T) {
	treetest.Need(t, "chattr", "lsattr")
	mnt := treetest.Mount(t, treetest.Ext4(), 64<<20)
	treetest.ReleaseAtEnd(t, mnt)
	for _, file := range []string{"i/f", "a/f", "full/x", "p/q/x", "empty/dir/.keep"} {
		check(t, os.MkdirAll(filepath.Dir(filepath.Join(mnt, file)), 0o755))
		check(t, os.WriteFile(filepath.Join(mnt, file), []byte("old"), 0o600))
	}
	check(t, os.Remove(filepath.Join(mnt, "empty/dir/.keep")))
	chattr(t, "+i", mnt+"/i/f", mnt+"/full", mnt+"/p/q", mnt+"/p", mnt+"/empty/dir")
	chattr(t, "+a", mnt+"/a/f")
	chattr(t, "+a", mnt+"/a")
	reg := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	archive := archiveOf(t, reg("i/f"), reg("a/f"), reg("full"), reg("p/q/f"), reg("p/made/f"), reg("empty/dir"), tar.Header{Typeflag: tar.TypeDir, Name: "p/q", Mode: 0o750})
	report := restore(t, mnt, archive, Options{Owners: ByID})
	if diff := cmp.Diff([]Conflict{{"/full", "it is a directory with content in the new system"}}, report.Conflicts); diff != "" {
		t.Error(diff)
	}
	got := snapshot(t, mnt)
	for path, want := range map[string]string{"i/f": "from the archive", "a/f": "from the archive", "full/x": "old", "p/q/x": "old",
		"p/q/f": "from the archive", "p/made/f": "from the archive", "empty/dir": "from the archive"} {
		if got[path] != want {
			t.Errorf("%s is %q; want %q", path, got[path], want)
		}
	}
	for path, want := range map[string]string{"i/f": "", "a/f": "", "a": "a", "full": "i", "p": "i", "p/q": "", "p/q/f": "", "empty/dir": "", "p/made": ""} {
		if got := lsattr(t, filepath.Join(mnt, path)); got != want {
			t.Errorf("%s has flags %q; want %q", path, got, want)
		}
	}
}

// A flag that a filesystem has not is told, and the file is there with the others.
func TestLostFlags(t *testing.T) {
	treetest.Need(t, "chattr", "lsattr")
	old := tree(t, "k/f=content")
	chattr(t, "+SdA", filepath.Join(old, "k/f"))
	archive, _ := capture(t, scan(t, old, "/k"))
	target := treetest.Mount(t, treetest.Tmpfs(), 0)
	report := restore(t, target, archive, Options{Owners: ByID})
	if len(report.Lost) != 1 || report.Lost[0].Path != "/k/f" || report.Lost[0].Attribute != "inode flag sync" {
		t.Errorf("lost %v; want the flag sync", report.Lost)
	}
	if got := lsattr(t, filepath.Join(target, "k/f")); !sameLetters(got, "dA") {
		t.Errorf("flags %q; want d and A", got)
	}
	if got := verify(t, target, archive, Options{Owners: ByID}); len(got) != 1 || got[0].What != "inode flags" {
		t.Errorf("differences %v; want the flags", got)
	}
	if !bytes.Contains(archive, []byte(" SCHILY.fflags=nodump,noatime,sync\n")) {
		t.Error("the archive has no flags under libarchive's name")
	}
}
