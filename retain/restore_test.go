package retain

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// The table in the documentation of Restore, line by line.
func TestConflicts(t *testing.T) {
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	dir := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o750} }
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	hard := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
	}
	const content = "from the archive"
	for _, test := range []struct {
		name      string
		there     []string
		archive   []tar.Header
		want      map[string]string
		conflicts []string // "path: part of why"
	}{
		{"file onto file", []string{"a=old"}, []tar.Header{file("a")}, map[string]string{"a": content}, nil},
		{"file onto link, never through it", []string{"a=-> b", "b=kept"}, []tar.Header{file("a")}, map[string]string{"a": content, "b": "kept"}, nil},
		{"file onto dangling link", []string{"a=-> none"}, []tar.Header{file("a")}, map[string]string{"a": content}, nil},
		{"file onto link to a directory", []string{"a=-> d", "d/x=kept"}, []tar.Header{file("a")},
			map[string]string{"a": content, "d": "drwxr-xr-x", "d/x": "kept"}, nil},
		{"link onto file", []string{"a=old"}, []tar.Header{link("a", "/x")}, map[string]string{"a": "-> /x"}, nil},
		{"file onto empty directory", []string{"a/"}, []tar.Header{file("a")}, map[string]string{"a": content}, nil},
		{"file onto directory with content", []string{"a/x=kept"}, []tar.Header{file("a")},
			map[string]string{"a": "drwxr-xr-x", "a/x": "kept"}, []string{"/a: directory with content"}},
		{"directory onto directory", []string{"a/x=kept"}, []tar.Header{dir("a"), file("a/y")},
			map[string]string{"a": "drwxr-x---", "a/x": "kept", "a/y": content}, nil},
		{"directory onto link to a directory", []string{"lib=-> usr/lib", "usr/lib/x=kept"}, []tar.Header{dir("lib"), file("lib/y")},
			map[string]string{"lib": "-> usr/lib", "usr": "drwxr-xr-x", "usr/lib": "drwxr-x---", "usr/lib/x": "kept", "usr/lib/y": content}, nil},
		{"directory onto file", []string{"a=kept"}, []tar.Header{dir("a"), file("a/y")}, map[string]string{"a": "kept"},
			[]string{"/a: directory in the archive", "/a/y: is none"}},
		{"directory onto dangling link", []string{"a=-> none"}, []tar.Header{dir("a"), file("a/y")}, map[string]string{"a": "-> none"},
			[]string{"/a: directory in the archive", "/a/y: link to nothing"}},
		{"parent is a link in a circle", []string{"a=-> a"}, []tar.Header{file("a/y")}, map[string]string{"a": "-> a"}, []string{"/a/y: circle"}},
		{"merged /usr", []string{"bin=-> usr/bin", "usr/bin/sh=kept"}, []tar.Header{file("bin/x")},
			map[string]string{"bin": "-> usr/bin", "usr": "drwxr-xr-x", "usr/bin": "drwxr-xr-x", "usr/bin/sh": "kept", "usr/bin/x": content}, nil},
		{"parents are made", nil, []tar.Header{file("p/q/f")},
			map[string]string{"p": "drwxr-xr-x", "p/q": "drwxr-xr-x", "p/q/f": content}, nil},
		{"hard link", nil, []tar.Header{file("a"), hard("b", "a"), hard("b", "a")}, map[string]string{"a": content, "b": content}, nil},
		{"hard link to a file of the new system", []string{"shadow=secret"}, []tar.Header{hard("b", "shadow")}, map[string]string{"shadow": "secret"},
			[]string{"/b: was not put back"}},
		{"hard link whose target was refused", []string{"a/x=kept"}, []tar.Header{file("a"), hard("b", "a")},
			map[string]string{"a": "drwxr-xr-x", "a/x": "kept"}, []string{"/a: content", "/b: was not put back"}},
		{"left of a run that was cut", []string{temporaryName + "=half", "a=old"}, []tar.Header{file("a")}, map[string]string{"a": content}, nil},

		{"absolute name", nil, []tar.Header{file("/a")}, map[string]string{"a": content}, nil},
		{"..", nil, []tar.Header{file("../a"), file("x/../../a"), dir(".."), hard("h", "../../etc/passwd")}, map[string]string{},
			[]string{"../a: ..", "x/../../a: ..", "..: ..", "/h: .."}},
		{"the root", nil, []tar.Header{dir("./"), dir("/")}, map[string]string{}, []string{"./: root", "/: root"}},
		{"through its own link", []string{"in/"}, []tar.Header{link("l", "/../../in"), file("l/f"), link("m", ".."), file("m/g")},
			map[string]string{"in": "drwxr-xr-x", "in/f": content, "l": "-> /../../in", "m": "-> ..", "g": content}, nil},
		{"through a link it made instead of a directory", nil, []tar.Header{dir("d"), link("d", "/etc"), file("d/f")},
			map[string]string{"d": "-> /etc"}, []string{"/d: took its place", "/d/f: link to nothing"}},
		{"owner out of range", nil, []tar.Header{{Typeflag: tar.TypeReg, Name: "a", Uid: -1, Format: tar.FormatPAX}}, map[string]string{},
			[]string{"/a: out of range"}},
		{"unknown type", nil, []tar.Header{{Typeflag: 'Z', Name: "a"}}, map[string]string{}, []string{"/a: type"}},
		{"reserved name", nil, []tar.Header{file("d/" + temporaryName)}, map[string]string{}, []string{"d/" + temporaryName + ": itself uses"}},
		{"name too long", nil, []tar.Header{file(strings.Repeat("n", 256)), file(strings.Repeat("m", 256) + "/a")}, map[string]string{},
			[]string{"/" + strings.Repeat("n", 256) + ": refuses its name", "/" + strings.Repeat("m", 256) + "/a: refuses its name"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			outside := t.TempDir()
			check(t, os.Chmod(outside, 0o755))
			target := filepath.Join(outside, "root")
			check(t, os.Rename(tree(t, test.there...), target))
			report := restore(t, target, archiveOf(t, test.archive...), Options{Owners: ByID})
			if diff := cmp.Diff(test.want, snapshot(t, target)); diff != "" {
				t.Error(diff)
			}
			if got := len(snapshot(t, outside)) - len(test.want); got != 1 {
				t.Errorf("something was written outside the root: %v", snapshot(t, outside))
			}
			if len(report.Conflicts) != len(test.conflicts) {
				t.Fatalf("conflicts %v; want %v", report.Conflicts, test.conflicts)
			}
			for i, c := range report.Conflicts {
				path, why, _ := strings.Cut(test.conflicts[i], ": ")
				if string(c.Path) != path || !strings.Contains(c.Why, why) {
					t.Errorf("conflict %q: %s; want %q: %s", c.Path, c.Why, path, why)
				}
			}
		})
	}
}

func TestCreatedParents(t *testing.T) {
	needRoot(t)
	target := tree(t, "srv/")
	// A setgid directory with a default ACL must not shape what is made in it.
	check(t, unix.Chown(filepath.Join(target, "srv"), 5, 5))
	check(t, unix.Chmod(filepath.Join(target, "srv"), 0o2777))
	check(t, unix.Setxattr(filepath.Join(target, "srv"), "system.posix_acl_default", []byte(aclFor), 0))
	archive := archiveOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "srv/a/b/f", Mode: 0o640}, tar.Header{Typeflag: tar.TypeDir, Name: "srv/d", Mode: 0o700},
		tar.Header{Typeflag: tar.TypeReg, Name: "srv/g", Mode: 0o640})
	report := restore(t, target, archive, Options{Owners: ByID})
	if diff := cmp.Diff([]Path{"/srv/a", "/srv/a/b"}, report.CreatedParents); diff != "" {
		t.Error(diff)
	}
	for path, want := range map[string]string{"srv/a": "40755 0:0", "srv/a/b": "40755 0:0", "srv/a/b/f": "100640 0:0", "srv/d": "40700 0:0", "srv/g": "100640 0:0"} {
		st := lstat(t, target, path)
		xattrs, err := unix.Llistxattr(filepath.Join(target, path), nil)
		if got := Octal(st.Mode).String() + " " + ownerOf(st); got != want || err != nil || xattrs > 0 {
			t.Errorf("%s is %s with %d bytes of attribute names, %v; want %s without an ACL", path, got, xattrs, err, want)
		}
	}
	if diff := cmp.Diff([]Difference(nil), verify(t, target, archive, Options{Owners: ByID})); diff != "" {
		t.Error(diff)
	}
}

// A filesystem without some attribute is reported, and the file is there.
func TestLostAttributes(t *testing.T) {
	needRoot(t)
	target := tree(t, "mnt/")
	mnt := filepath.Join(target, "mnt")
	check(t, unix.Mount("ramfs", mnt, "ramfs", 0, ""))
	defer func() { check(t, unix.Unmount(mnt, 0)) }()
	archive := archiveOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "mnt/f", PAXRecords: map[string]string{xattrKey("user.x"): "v", xattrKey("system.other"): "w"}},
		tar.Header{Typeflag: tar.TypeDir, Name: "mnt"})
	report := restore(t, target, archive, Options{Owners: ByID})
	want := []Lost{{"/mnt/f", "system.other", "it is in no namespace that is kept"}, {"/mnt/f", "user.x", "operation not supported"}}
	if diff := cmp.Diff(want, report.Lost); diff != "" {
		t.Error(diff)
	}
	if got := snapshot(t, mnt)["f"]; got != "from the archive" {
		t.Errorf("content %q", got)
	}
	report = restore(t, target, archiveOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "mnt"}), Options{Owners: ByID})
	if len(report.Conflicts) != 1 {
		t.Errorf("a file onto a mount point: conflicts %v; want one", report.Conflicts)
	}
}

func TestNoSpace(t *testing.T) {
	needRoot(t)
	target := tree(t, "old=kept whole")
	check(t, unix.Mount("tmpfs", target, "tmpfs", 0, "size=64k"))
	defer func() { check(t, unix.Unmount(target, 0)) }()
	check(t, os.WriteFile(filepath.Join(target, "f"), []byte("old, whole"), 0o600))
	source := tree(t)
	check(t, os.WriteFile(filepath.Join(source, "f"), make([]byte, 1<<20), 0o600))
	archive, _ := capture(t, scan(t, source, "/f"))
	_, err := Restore(context.Background(), target, bytes.NewReader(archive), Options{})
	if err == nil || !strings.Contains(err.Error(), target+"/f: write: no space left on device") {
		t.Errorf("Restore = %v; want no space and the path", err)
	}
	if diff := cmp.Diff(map[string]string{"f": "old, whole"}, snapshot(t, target)); diff != "" {
		t.Error(diff)
	}
}

// An archive that ends early is an error wherever the cut is, and leaves no half
// file behind.
func TestTruncatedArchive(t *testing.T) {
	archive, _ := capture(t, scan(t, tree(t, "d/f="+strings.Repeat("x", 1500)), "/d"))
	whole := len(archive) - archiveEndBytes
	before := openFiles(t)
	defer func() {
		if got := openFiles(t); got != before {
			t.Errorf("%d files are open; want %d as before: none may keep the root from being unmounted", got, before)
		}
	}()
	for _, n := range []int{1, 511, 513, 1024, whole - 2048, whole - 1537, whole - 600, whole - 1} {
		target := t.TempDir()
		_, err := Restore(context.Background(), target, bytes.NewReader(archive[:n]), Options{})
		if err == nil {
			t.Errorf("an archive cut at %d of %d was restored without an error", n, len(archive))
		}
		for name := range snapshot(t, target) {
			if name != "d" && name != "d/f" {
				t.Errorf("cut at %d: left %q", n, name)
			}
		}
		if _, err := Verify(context.Background(), target, bytes.NewReader(archive[:n]), Options{}); err == nil {
			t.Errorf("an archive cut at %d of %d was verified without an error", n, len(archive))
		}
	}
}

func openFiles(t testing.TB) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	return len(fds)
}

// Deeper than a path that the kernel takes in one call.
func TestDeepTree(t *testing.T) {
	source, name := t.TempDir(), strings.Repeat("d", 250)
	at, err := openat(unix.AT_FDCWD, source, unix.O_RDONLY|unix.O_DIRECTORY)
	check(t, err)
	for range 40 {
		check(t, unix.Mkdirat(at, name, 0o700))
		next, err := openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY)
		check(t, err)
		check(t, unix.Close(at))
		at = next
	}
	check(t, unix.Symlinkat("bottom", at, "link"))
	check(t, unix.Close(at))
	plan := scan(t, source, "/"+name)
	if len(plan.Entries) != 41 {
		t.Fatalf("the plan has %d entries; want 41", len(plan.Entries))
	}
	archive, _ := capture(t, plan)
	target := t.TempDir()
	if report := restore(t, target, archive, Options{Owners: ByID}); len(report.Conflicts) > 0 {
		t.Errorf("conflicts %v; want none", report.Conflicts)
	}
	if diff := cmp.Diff([]Difference(nil), verify(t, target, archive, Options{Owners: ByID})); diff != "" {
		t.Error(diff)
	}
}

// Whatever the archive, nothing appears beside the root, and nothing fails in a
// way that Restore doesn't tell.
func FuzzRestore(f *testing.F) {
	needRoot(f)
	file := tar.Header{Typeflag: tar.TypeReg, Name: "a/b"}
	f.Add(archiveOf(f, file, tar.Header{Typeflag: tar.TypeDir, Name: "a"}, tar.Header{Typeflag: tar.TypeLink, Name: "c", Linkname: "a/b"}))
	f.Add(archiveOf(f, tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "../.."}, file))
	f.Add(archiveOf(f, tar.Header{Typeflag: tar.TypeReg, Name: "../../x"}, tar.Header{Typeflag: tar.TypeFifo, Name: "/f"}))
	f.Add(archiveOf(f, tar.Header{Typeflag: tar.TypeReg, Name: "é", PAXRecords: map[string]string{xattrKey("user.x"): "v"}}))
	f.Fuzz(func(t *testing.T, archive []byte) {
		outside := t.TempDir()
		root := filepath.Join(outside, "root")
		check(t, os.MkdirAll(filepath.Join(root, "etc"), 0o755))
		before := lstat(t, outside)
		_, err := Restore(context.Background(), root, bytes.NewReader(archive), Options{})
		entries, readErr := os.ReadDir(outside)
		after := lstat(t, outside)
		if readErr != nil || len(entries) != 1 || after.Mode != before.Mode || after.Mtim != before.Mtim {
			t.Errorf("written outside the root: %v", entries)
		}
		if err == nil {
			_, err = Verify(context.Background(), root, bytes.NewReader(archive), Options{})
			if err != nil {
				t.Errorf("Verify = %v after Restore without an error", err)
			}
		}
	})
}
