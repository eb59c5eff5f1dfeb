package lab

import (
	"bytes"
	"compress/bzip2"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func oddTree() Tree {
	return Tree{
		Dir("private", 0o700, 1000, 1000),
		{Path: "private/a key", Mode: 0o600, UID: 990, GID: 991, Content: "secret\n", ModTime: time.Unix(1500000000, 123456789)},
		{Path: "new\nline \"quoted\" $(x)", Content: "odd\n", UID: 7, GID: 8},
		{Path: "bin/su", Mode: 0o755 | fs.ModeSetuid, Content: "x", Xattrs: oddXattrs()},
		Symlink("link", "target with space"),
		{Path: "null", Mode: 0o666 | fs.ModeDevice | fs.ModeCharDevice, Major: 1, Minor: 3},
		{Path: "aaa", HardLink: "private/a key"},
	}
}

// oddXattrs are a binary value, cap_net_raw+ep (linux/capability.h) and an ACL
// with one named user (linux/posix_acl_xattr.h).
func oddXattrs() map[string]string {
	return map[string]string{
		"user.note":               "a\x00b",
		"security.capability":     "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"system.posix_acl_access": "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x05\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff",
	}
}

func oddDisk() DiskSpec {
	return DiskSpec{SizeMiB: 64, Label: MBR, ID: "0x12345678", Partitions: []Partition{
		{SizeMiB: 16, FS: Ext4, Label: "one"},
		{SizeMiB: 4, FS: Swap, Label: "swap"},
		{FS: Extended},
		{SizeMiB: 16, Logical: true, FS: Ext4, Tree: oddTree()},
		{Logical: true},
	}}
}

func TestBuildDisk(t *testing.T) {
	disk, err := BuildDisk(t.Context(), filepath.Join(t.TempDir(), "disk"), oddDisk())
	if err != nil {
		t.Fatal(err)
	}
	table, err := ReadTable(t.Context(), disk.Path)
	if err != nil {
		t.Fatal(err)
	}
	want := Table{Label: MBR, ID: "0x12345678", Entries: []TableEntry{
		{Number: 1, Offset: 1 * mib, Size: 16 * mib, Type: "83"},
		{Number: 2, Offset: 17 * mib, Size: 4 * mib, Type: "82"},
		{Number: 3, Offset: 21 * mib, Size: 43 * mib, Type: "5"},
		{Number: 5, Offset: 22 * mib, Size: 16 * mib, Type: "83"},
		{Number: 6, Offset: 39 * mib, Size: 25 * mib, Type: "83"},
	}}
	if diff := cmp.Diff(want, table); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	for path, want := range map[string]string{"private/a key": "secret\n", "new\nline \"quoted\" $(x)": "odd\n"} {
		got, err := ReadFile(t.Context(), disk.Path, 5, path)
		if err != nil || string(got) != want {
			t.Errorf("ReadFile(%q) = %q, %v; want %q", path, got, err, want)
		}
	}
	if got, err := ReadFile(t.Context(), disk.Path, 5, "/absent"); err == nil {
		t.Errorf("ReadFile(absent) = %q; want an error", got)
	}
}

func TestBuildDiskIsReproducible(t *testing.T) {
	var images [2][]byte
	for i := range images {
		disk, err := BuildDisk(t.Context(), filepath.Join(t.TempDir(), "disk"), oddDisk())
		if err != nil {
			t.Fatal(err)
		}
		if images[i], err = os.ReadFile(disk.Path); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			time.Sleep(1100 * time.Millisecond) // another second on the clock: the times must not show
		}
	}
	differing := 0
	for i := range images[0] {
		if images[0][i] != images[1][i] {
			if differing++; differing < 10 {
				t.Logf("byte %#x: %#x and %#x", i, images[0][i], images[1][i])
			}
		}
	}
	if differing > 0 {
		t.Errorf("%d bytes differ between two builds; want none", differing)
	}
}

func TestReadTree(t *testing.T) {
	needRoot(t)
	disk, err := BuildDisk(t.Context(), filepath.Join(t.TempDir(), "disk"), oddDisk())
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadTree(t.Context(), disk.Path, 5)
	if err != nil {
		t.Fatal(err)
	}
	at := Epoch()
	const secret = "b37e50cedcd3e3f1ff64f4afc0422084ae694253cf399326868e07a35f4a45fb"
	key := Entry{Mode: 0o600, UID: 990, GID: 991, ModTime: time.Unix(1500000000, 123456789).UTC(), Size: 7, SHA256: secret, Links: 2}
	first, second := key, key
	first.Path, second.Path = "aaa", "private/a key"
	want := []Entry{
		{Path: ".", Mode: fs.ModeDir | 0o755, ModTime: at, Links: 5},
		first,
		{Path: "bin", Mode: fs.ModeDir | 0o755, ModTime: at, Links: 2},
		{Path: "bin/su", Mode: fs.ModeSetuid | 0o755, ModTime: at, Size: 1, Links: 1, SHA256: "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", Xattrs: oddXattrs()},
		{Path: "link", Mode: fs.ModeSymlink | 0o777, ModTime: at, Target: "target with space", Links: 1},
		{Path: "lost+found", Mode: fs.ModeDir | 0o700, ModTime: at, Links: 2},
		{Path: "new\nline \"quoted\" $(x)", Mode: 0o644, UID: 7, GID: 8, ModTime: at, Size: 4, Links: 1, SHA256: "80a3ef2f5539b0a6b5ee045e2a1de83bfb38550da54aa4d60dc1b9526b4b0805"},
		{Path: "null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, ModTime: at, Links: 1, Rdev: 0x103},
		{Path: "private", Mode: fs.ModeDir | 0o700, UID: 1000, GID: 1000, ModTime: at, Links: 2},
		second,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
}

func TestTreeRefuses(t *testing.T) {
	for _, tc := range []struct {
		name string
		tree Tree
	}{
		{"a NUL in a path", Tree{Text("a\x00b", 0o644, "")}},
		{"no path", Tree{Text("", 0o644, "")}},
		{"a file below a file", Tree{Text("a", 0o644, ""), Text("a/b", 0o644, "")}},
	} {
		if _, err := tc.tree.complete(); err == nil {
			t.Errorf("%s: no error; want one", tc.name)
		}
	}
}

// needRoot skips, but not where skipping would hide that nothing was tested.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	const sentence = "comparing owners and extended attributes needs root for a loop mount; run the tests as root"
	if os.Getenv("CI") == "true" {
		t.Fatal(sentence)
	}
	t.Skip(sentence)
}

func TestOverwriteFile(t *testing.T) {
	content := strings.Repeat("0123456789abcdef", 600) // 9600 bytes: three blocks
	spec := DiskSpec{SizeMiB: 18, Label: MBR, ID: "0x1", Partitions: []Partition{{FS: Ext4, Tree: Tree{Text("dir/file", 0o644, content)}}}}
	disk, err := BuildDisk(t.Context(), filepath.Join(t.TempDir(), "disk"), spec)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.ToUpper(content)
	if err := OverwriteFile(t.Context(), disk.Path, 1, "dir/file", []byte(want)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := Dump(t.Context(), disk.Path, 1, dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "dir/file"))
	if err != nil || string(got) != want {
		t.Errorf("dumped file: %d bytes, %v; want the new content", len(got), err)
	}
	for _, tc := range []struct{ path, content, want string }{
		{"dir/file", "short", "it has 9600 bytes, want 5"},
		{"absent", "x", "File not found"},
	} {
		err := OverwriteFile(t.Context(), disk.Path, 1, tc.path, []byte(tc.content))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("OverwriteFile(%s) = %v; want %q", tc.path, err, tc.want)
		}
	}
}

func TestCompressBzip2(t *testing.T) {
	dir := t.TempDir()
	raw, out := filepath.Join(dir, "raw"), filepath.Join(dir, "raw.bz2")
	want := bytes.Repeat([]byte("kiosk\x00"), 300000) // two blocks of 900 kB
	if err := os.WriteFile(raw, want, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := CompressBzip2(t.Context(), raw, out); err != nil {
		t.Fatal(err)
	}
	packed, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close() // read only: nothing can be lost
	got, err := io.ReadAll(bzip2.NewReader(packed))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("decompressed: %d bytes, %v; want %d", len(got), err, len(want))
	}
	if err := CompressBzip2(t.Context(), filepath.Join(dir, "absent"), out); err == nil {
		t.Error("CompressBzip2(absent): no error; want one")
	}
}
