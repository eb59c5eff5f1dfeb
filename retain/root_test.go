package retain

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Both ways of resolving a path lead to the same file or the same error.
func TestResolversAgree(t *testing.T) {
	root := tree(t,
		"etc/hosts=h", "usr/lib/x=x", "lib=-> usr/lib", "abs=-> /usr/lib", "out=-> ../../../../../etc",
		"rootlink=-> /", "up=-> ..", "loop=-> loop", "a=-> b", "b=-> a", "dangling=-> /none",
		"usr/back=-> ../etc/hosts", "slash=-> usr/lib/", "fileslash=-> etc/hosts/", "chain0=-> etc")
	for i := range 45 {
		check(t, os.Symlink(fmt.Sprintf("chain%d", i), filepath.Join(root, fmt.Sprintf("chain%d", i+1))))
	}
	check(t, unix.Mkfifo(filepath.Join(root, "fifo"), 0o600))
	r, err := OpenRoot(root)
	check(t, err)
	defer r.Close()
	if !r.openat2 {
		t.Skip("this kernel has no openat2(2) to compare with")
	}
	for _, path := range []string{
		"", ".", "..", "../..", "etc", "etc/", "etc/.", "etc/hosts", "etc/hosts/", "etc/hosts/x", "etc/hosts/..", "lib", "lib/x", "lib/../etc",
		"abs/x", "abs/..", "abs/../..", "out", "out/hosts", "rootlink", "rootlink/rootlink/etc/hosts", "up", "up/etc/hosts",
		"loop", "loop/x", "a", "dangling", "dangling/x", "usr/back", "usr/back/", "slash", "slash/x", "fileslash", "none", "none/x",
		"chain38/hosts", "chain39/hosts", "chain40/hosts", "chain41/hosts", "chain39", "chain40", "fifo", "fifo/",
		strings.Repeat("n", 256), "../../../../../../etc/passwd",
	} {
		for _, flags := range []int{unix.O_PATH, unix.O_PATH | unix.O_DIRECTORY} {
			want := describe(r.openBeneath(cmpOrDot(path), flags))
			got := describe(r.walk(path, flags))
			if got != want {
				t.Errorf("%q with flags %#x: the walk gives %s, openat2 %s", path, flags, got, want)
			}
		}
	}
}

func cmpOrDot(path string) string {
	if path == "" {
		return "."
	}
	return path
}

func describe(fd int, err error) string {
	if err != nil {
		return err.Error()
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s %d:%d", typeOf(st.Mode), st.Dev, st.Ino)
}

func TestOpenBeyondPathMax(t *testing.T) {
	root := tree(t)
	r, err := OpenRoot(root)
	check(t, err)
	defer r.Close()
	rel := ""
	at, err := r.openDir("")
	check(t, err)
	for range 30 {
		name := strings.Repeat("d", 200)
		check(t, unix.Mkdirat(at, name, 0o755))
		next, err := openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY)
		check(t, err)
		check(t, unix.Close(at))
		at, rel = next, joinPath(rel, name)
	}
	want := describe(at, nil)
	if got := describe(r.openDir(rel)); got != want {
		t.Errorf("open of %d bytes = %s; want %s", len(rel), got, want)
	}
}

func TestDirCache(t *testing.T) {
	var files []string
	for i := range 3 * cachedDirs {
		files = append(files, fmt.Sprintf("%d/", i))
	}
	r, err := OpenRoot(tree(t, files...))
	check(t, err)
	defer r.Close()
	c := &dirCache{root: r}
	first, err := c.open("0")
	check(t, err)
	var st unix.Stat_t
	for i := range 3 * cachedDirs {
		if i == cachedDirs/2 {
			again, err := c.open("0")
			check(t, err)
			if again != first {
				t.Error("a directory was opened twice")
			}
		}
		fd, err := c.open(fmt.Sprint(i))
		check(t, err)
		check(t, unix.Fstat(fd, &st))
	}
	if len(c.dirs) != cachedDirs {
		t.Errorf("%d directories are open; want %d", len(c.dirs), cachedDirs)
	}
	c.flush()
	if _, err := c.open("none"); err != unix.ENOENT {
		t.Errorf("open(none) = %v; want ENOENT", err)
	}
}
