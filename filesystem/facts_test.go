package filesystem

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"reimager/disk"
)

// makeRoot makes the files of a root filesystem, with names that are hard to read.
func makeRoot(t testing.TB, dir string) *Root {
	t.Helper()
	files := map[string]string{
		"etc/fstab":                "UUID=1 / ext4 defaults 0 1\n",
		"usr/lib/os-release":       "ID=kiosk\n",
		"etc/passwd":               "root:x:0:0::/root:/bin/sh\n+nis::::::\nkiosk:x:1000:1001:,,,:/:/bin/sh\nroot:x:9:9::/:\nbad:x:-1:0::/:\nshort:x\n",
		"etc/group":                "root:x:0:\nkiosk:x:1001:a,b\n",
		"etc/shadow":               "root:$6$secret:19000:0:99999:7:::\n",
		"etc/a b/with\nnewline":    "x",
		"etc/a b/\"quoted\\\" '":   "x",
		"etc/a b/<12>":             "x",
		"etc/ssl/F\u0151tan\u00fa": "x",
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	long := "/" + strings.Repeat("long/", 40)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Symlink("../usr/lib/os-release", filepath.Join(dir, "etc/os-release")))
	must(os.Symlink(long, filepath.Join(dir, "etc/long")))
	must(os.Symlink("loop", filepath.Join(dir, "etc/loop")))
	must(os.WriteFile(filepath.Join(dir, "etc/bad\xffname"), nil, 0o644))
	must(syscall.Mkfifo(filepath.Join(dir, "etc/fifo"), 0o644))
	must(syscall.Mknod(filepath.Join(dir, "etc/null"), syscall.S_IFCHR|0o666, 1<<8|3))
	must(syscall.Mknod(filepath.Join(dir, "etc/socket"), syscall.S_IFSOCK|0o666, 0))
	want := &Root{
		Fstab: files["etc/fstab"], OSRelease: files["usr/lib/os-release"],
		Users: map[string]uint32{"root": 0, "kiosk": 1000}, Groups: map[string]uint32{"root": 0, "kiosk": 1001},
		Etc: []Path{
			{"/etc", "directory", ""}, {"/etc/a b", "directory", ""}, {"/etc/ssl", "directory", ""}, {"/etc/many", "directory", ""},
			{"/etc/fifo", "fifo", ""}, {"/etc/null", "device", ""}, {"/etc/socket", "socket", ""}, {"/etc/loop", "symlink", "loop"},
			{"/etc/os-release", "symlink", "../usr/lib/os-release"}, {"/etc/long", "symlink", long},
		},
		Missing: []string{`"/etc/bad\xffname": its name is not UTF-8`},
	}
	must(os.Mkdir(filepath.Join(dir, "etc/many"), 0o755))
	for i := range 900 { // a hashed directory
		files["etc/many/a file with a rather long name "+strconv.Itoa(i)] = ""
		must(os.WriteFile(filepath.Join(dir, "etc/many/a file with a rather long name "+strconv.Itoa(i)), nil, 0o644))
	}
	for name := range files {
		if strings.HasPrefix(name, "etc/") {
			want.Etc = append(want.Etc, Path{"/" + name, "file", ""})
		}
	}
	slices.SortFunc(want.Etc, func(a, b Path) int { return strings.Compare(a.Path, b.Path) })
	return want
}

// lookAt puts the partition into an image at the offset before.
func lookAt(t testing.TB, path string) Facts {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found, err := disk.Probe(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.CreateTemp(t.TempDir(), "an image?offset=1")
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	const piece = 1 << 20
	for off := 0; off < len(b); off += piece {
		if data := b[off:min(off+piece, len(b))]; !zeros(data) {
			if _, err := image.WriteAt(data, before+int64(off)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := image.Truncate(before + int64(len(b))); err != nil {
		t.Fatal(err)
	}
	facts, err := Look(context.Background(), image, before, int64(len(b)), found)
	if err != nil {
		t.Fatal(err)
	}
	// The kernel takes a mount apart a moment after its last descriptor is closed.
	for range 50 {
		if tool(t, "losetup", "-j", image.Name()) == "" {
			return facts
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%s still has a loop device", image.Name())
	return facts
}

func TestLookAtExt(t *testing.T) {
	for _, args := range []string{"-t ext4", "-t ext4 -b 1024", "-t ext3 -b 1024", "-t ext2 -b 4096 -I 128", "-t ext4 -b 1024 -O ^dir_index,^filetype,^64bit"} {
		dir := t.TempDir()
		want := makeRoot(t, dir)
		image := newImage(t, 64<<20)
		tool(t, "mke2fs", append(strings.Fields("-q -F -L kiosk -U 01234567-89ab-cdef-0123-456789abcdef -d "+dir+" "+args), image)...)
		got := lookAt(t, image)
		text := tool(t, "dumpe2fs", "-h", image)
		size := field(t, text, "Block size:")
		facts := Facts{
			Type: strings.Fields(args)[1], UUID: "01234567-89ab-cdef-0123-456789abcdef", Label: "kiosk", Bytes: 64 << 20, BlockSize: size,
			FreeBytes: new(field(t, text, "Free blocks:") * size), FreeInodes: new(field(t, text, "Free inodes:")), Root: want,
		}
		if diff := cmp.Diff(facts, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", args, diff)
		}
	}
}

func TestLookAtMounted(t *testing.T) {
	for _, c := range []struct{ args, subvolume string }{
		{"mkfs.xfs -q -L kiosk", ""},
		{"mkfs.btrfs -q -L kiosk", ""},
		{"mkfs.btrfs -q -L kiosk", "@"},
	} {
		image := newImage(t, 300<<20)
		args := append(strings.Fields(c.args), image)
		tool(t, args[0], args[1:]...)
		var want *Root
		var free, inodes int64
		withMount(t, image, "rw", func(dir string) {
			root := dir
			if c.subvolume != "" {
				root = filepath.Join(dir, c.subvolume)
				tool(t, "btrfs", "subvolume", "create", root)
			}
			want = makeRoot(t, root)
		})
		withMount(t, image, "ro", func(dir string) {
			var s syscall.Statfs_t
			if err := syscall.Statfs(dir, &s); err != nil {
				t.Fatal(err)
			}
			free, inodes = int64(s.Bfree)*s.Bsize, int64(s.Ffree)
		})
		got := lookAt(t, image)
		if got.UUID == "" || got.Label != "kiosk" || got.Bytes != 300<<20 || got.BlockSize != 4096 || len(got.Missing) > 0 {
			t.Errorf("%s: %+v", c.args, got)
		}
		want.Subvolume = c.subvolume
		if diff := cmp.Diff(want, got.Root); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.args, c.subvolume, diff)
		}
		if got.Type == "xfs" {
			// The kernel keeps some blocks back for its own use, of which inodes could be made too.
			if d := *got.FreeBytes - free; d < 0 || d > 32<<20 {
				t.Errorf("%s: %d bytes are free, statfs says %d", c.args, *got.FreeBytes, free)
			}
			if d := *got.FreeInodes - inodes; d < 0 || d > 32<<20/512 {
				t.Errorf("%s: %d inodes are free, statfs says %d", c.args, *got.FreeInodes, inodes)
			}
		}
	}
}

func TestLookAtOthers(t *testing.T) {
	for _, c := range []struct {
		args string
		size int64
		want Facts
	}{
		{"mkfs.vfat -F 32 -i 12345678 -n BOOT -s 1", 40 << 20, Facts{Type: "vfat", UUID: "1234-5678", Label: "BOOT", Bytes: 40 << 20, BlockSize: 512, FreeBytes: new(int64(80627 * 512))}},
		{"mkfs.vfat -F 16 -i 12345678 -n BOOT -s 4", 16 << 20, Facts{Type: "vfat", UUID: "1234-5678", Label: "BOOT", Bytes: 16 << 20, BlockSize: 2048}},
		{"mkswap -q -L s -U 01234567-89ab-cdef-0123-456789abcdef", 1 << 20, Facts{Type: "swap", UUID: "01234567-89ab-cdef-0123-456789abcdef", Label: "s", Bytes: 1 << 20, BlockSize: 4096}},
		{"true", 1 << 20, Facts{}},
	} {
		image := newImage(t, c.size)
		args := append(strings.Fields(c.args), image)
		tool(t, args[0], args[1:]...)
		if diff := cmp.Diff(c.want, lookAt(t, image)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.args, diff)
		}
	}
}

// A separate /usr hides os-release; a dirty journal and a damaged superblock are said.
func TestLookMissing(t *testing.T) {
	dir := t.TempDir()
	makeRoot(t, dir)
	if err := os.RemoveAll(filepath.Join(dir, "usr")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/group"), bytes.Repeat([]byte("x"), maxText+1), 0o644); err != nil {
		t.Fatal(err)
	}
	image := newImage(t, 32<<20)
	tool(t, "mke2fs", "-q", "-F", "-t", "ext4", "-d", dir, image)
	tool(t, "debugfs", "-w", "-R", "feature needs_recovery", image)
	got := lookAt(t, image)
	if diff := cmp.Diff([]string{"ext4 needs journal recovery: what was read is from before it"}, got.Missing); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want := []string{"/etc/os-release: not on this filesystem", "/etc/group: 1048577 bytes are more than 1048576", `"/etc/bad\xffname": its name is not UTF-8`}
	if diff := cmp.Diff(want, got.Root.Missing); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if text, err := json.Marshal(got); err != nil || bytes.Contains(text, []byte("secret")) {
		t.Errorf("%v; or it has a secret in it", err)
	}
	p := readImage(t, image)
	p.put(1024+0x200, []byte{9})
	l := &look{p: &partition{ctx: context.Background(), r: p, size: int64(len(p.base))}}
	if err := l.extSizes(); err == nil || l.extFiles() != nil || l.facts.Root != nil {
		t.Errorf("a damaged superblock: %v, %+v", err, l.facts)
	}
}

// fakeTree is a tree of symbolic links (a target), directories ("/") and files ("").
type fakeTree map[string]string

func (f fakeTree) kind(name string) (string, error) {
	what, ok := f[name]
	switch {
	case name == "/" || what == "/":
		return "directory", nil
	case !ok:
		return "", os.ErrNotExist
	case what == "":
		return "file", nil
	}
	return "symlink", nil
}

func (f fakeTree) names(string) ([]string, error)     { return nil, nil }
func (f fakeTree) target(link string) (string, error) { return f[link], nil }
func (f fakeTree) text(string, int64) ([]byte, error) { return nil, nil }

func TestResolve(t *testing.T) {
	tree := fakeTree{
		"/a": "/", "/a/b": "/", "/a/b/c": "", "/up": "..", "/rel": "a/../a/b", "/abs": "/a/./b/", "/deep": "../../../../a/b/c",
		"/loop": "loop", "/gone": "nowhere", "/a/up": "../rel/c",
	}
	for name, want := range map[string]string{
		"/": "/", "/a/b/c": "/a/b/c", "/rel/c": "/a/b/c", "/abs/c": "/a/b/c", "/deep": "/a/b/c", "/up/up/a": "/a", "/a/up": "/a/b/c",
		"/loop": "", "/gone": "", "/a/b/c/d": "", "/x": "", "/../a": "/a",
	} {
		if got, err := resolve(tree, name); got != want || (err == nil) != (want != "") {
			t.Errorf("resolve(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
}
