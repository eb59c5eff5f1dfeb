package lab

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestInjectFiles(t *testing.T) {
	needRoot(t)
	before := Tree{
		Dir("root", 0o700, 0, 0), Text("root/old", 0o600, "old\n"), Dir("usr/lib", 0o711, 0, 0), Symlink("lib", "usr/lib"), Symlink("run", "/etc"),
	}
	disk, err := BuildDisk(t.Context(), filepath.Join(t.TempDir(), "disk"), DiskSpec{
		SizeMiB: 64, Label: MBR, ID: "0x1", Partitions: []Partition{{SizeMiB: 16, FS: Swap}, {FS: Ext4, Tree: before}},
	})
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(source, []byte("from the host\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1500000000, 123456789).UTC()
	tree := Tree{
		Dir("home/atm", 0o750|fs.ModeSetgid, 990, 991),
		{Path: "home/atm/key", Mode: 0o600, UID: 990, GID: 991, Content: "secret\n", ModTime: at},
		{Path: "home/atm/again", HardLink: "home/atm/key"},
		{Path: "root/old", Mode: 0o755 | fs.ModeSetuid, Source: source, Xattrs: map[string]string{"user.note": "a\x00b"}},
		Text("lib/module", 0, "m\n"),
		Symlink("home/atm/link", "key"),
	}
	if err := InjectFiles(t.Context(), disk.Path, 2, tree); err != nil {
		t.Fatal(err)
	}
	entries, err := ReadTree(t.Context(), disk.Path, 2)
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		Path     string
		Mode     fs.FileMode
		UID, GID int
		Size     int64
		Links    uint64
		Target   string
		Xattrs   map[string]string
	}
	var got []row
	for _, e := range entries {
		if e.Path == "." || e.Path == "lost+found" {
			continue
		}
		got = append(got, row{e.Path, e.Mode, e.UID, e.GID, e.Size, e.Links, e.Target, e.Xattrs})
		want := Epoch()
		switch e.Path {
		case "home/atm/key", "home/atm/again":
			want = at
		case "home/atm", "root/old", "usr/lib/module":
		default:
			continue // touched by the making, or a link
		}
		if !e.ModTime.Equal(want) {
			t.Errorf("mtime of %s = %v; want %v", e.Path, e.ModTime, want)
		}
	}
	want := []row{
		{Path: "home", Mode: fs.ModeDir | 0o755, Links: 3},
		{Path: "home/atm", Mode: fs.ModeDir | fs.ModeSetgid | 0o750, UID: 990, GID: 991, Links: 2},
		{Path: "home/atm/again", Mode: 0o600, UID: 990, GID: 991, Size: 7, Links: 2},
		{Path: "home/atm/key", Mode: 0o600, UID: 990, GID: 991, Size: 7, Links: 2},
		{Path: "home/atm/link", Mode: fs.ModeSymlink | 0o777, Links: 1, Target: "key"},
		{Path: "lib", Mode: fs.ModeSymlink | 0o777, Links: 1, Target: "usr/lib"},
		{Path: "root", Mode: fs.ModeDir | 0o700, Links: 2},
		{Path: "root/old", Mode: fs.ModeSetuid | 0o755, Size: 14, Links: 1, Xattrs: map[string]string{"user.note": "a\x00b"}},
		{Path: "run", Mode: fs.ModeSymlink | 0o777, Links: 1, Target: "/etc"},
		{Path: "usr", Mode: fs.ModeDir | 0o755, Links: 3},
		{Path: "usr/lib", Mode: fs.ModeDir | 0o711, Links: 2},
		{Path: "usr/lib/module", Mode: 0o644, Size: 2, Links: 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
	for _, tc := range []struct {
		name      string
		partition int
		tree      Tree
		want      string
	}{
		{"a path out of the filesystem", 2, Tree{Text("run/lab-escape", 0o644, "x")}, "lab-escape"},
		{"a device", 2, Tree{{Path: "null", Mode: 0o666 | fs.ModeDevice | fs.ModeCharDevice}}, "neither file, directory nor link"},
		{"a swap partition", 1, Tree{Text("x", 0o644, "x")}, "mount"},
		{"no partition", 3, Tree{Text("x", 0o644, "x")}, "find partition 3"},
	} {
		err := InjectFiles(t.Context(), disk.Path, tc.partition, tc.tree)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v; want an error with %q", tc.name, err, tc.want)
		}
	}
	if _, err := os.Lstat("/etc/lab-escape"); err == nil {
		t.Error("a file was injected into the host")
	}
}
