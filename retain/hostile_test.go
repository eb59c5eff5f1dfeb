package retain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reimager/retain/treetest"
)

const outsideText = "SECRET that lies outside of the root"

// outside is a folder beside roots, with a file that must never be read or written.
func outside(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"key", "passwd", "deep/key"} {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(outsideText), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// unharmed fails if something outside was changed or added to.
func unharmed(t *testing.T, dir string) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if n++; err != nil || d.IsDir() {
			return err
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != outsideText {
			return fmt.Errorf("%s was changed: %q, %v", path, text, err)
		}
		return nil
	})
	if err != nil || n != 5 {
		t.Errorf("outside: %v, %d entries; want it as it was, 5", err, n)
	}
}

// An old root whose links lead everywhere: what is kept is links, never what they
// lead to outside.
func TestHostileOldRoot(t *testing.T) {
	out := outside(t)
	root := rootOf(t, "/usr/etc/real", "/srv/ok")
	for link, target := range map[string]string{
		"srv/root": "/", "srv/up": "../../../../../..", "srv/out": out, "srv/outfile": out + "/key",
		"srv/loop1": "loop2", "srv/loop2": "loop1", "srv/self": "self", "srv/proc": "/proc/self/root", "etc2": "usr/etc", "etc3": out,
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(root, "srv/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	plan, err := planOf(t, root, "/srv\n/etc2/*\n-/etc3/*\n-/srv/root/usr/etc/real\n-/srv/up/etc/passwd\n-/srv/out/key\n-/srv/loop1/x\n-/srv/proc/etc/passwd\n")
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	captured := make(chan error, 1)
	go func() {
		_, err := Capture(t.Context(), plan, &archive, nil)
		captured <- err
	}()
	select {
	case err := <-captured:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Capture blocks, on the FIFO perhaps")
	}
	if bytes.Contains(archive.Bytes(), []byte(outsideText)) {
		t.Error("the archive has what lies outside of the root")
	}
	fresh := rootOf(t)
	report, err := Restore(t.Context(), fresh, &archive, Options{})
	if err != nil || len(report.Conflicts) > 0 {
		t.Errorf("Restore = %+v, %v", report.Conflicts, err)
	}
	for link, want := range map[string]string{"srv/root": "/", "srv/loop1": "loop2", "srv/out": out} {
		if got, err := os.Readlink(filepath.Join(fresh, link)); err != nil || got != want {
			t.Errorf("%s leads to %q, %v; want %q", link, got, err, want)
		}
	}
	unharmed(t, out)
}

// exchange swaps a directory with a link to the outside, over and over, until the
// returned function is called.
func exchange(t *testing.T, dir, target string) (stop func()) {
	t.Helper()
	link := dir + ".link"
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			if err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE); err != nil {
				t.Errorf("exchange: %v", err)
				return
			}
		}
	})
	return func() { cancel(); running.Wait() }
}

// A directory that becomes a link to the outside while it is walked.
func TestDirectorySwappedDuringCapture(t *testing.T) {
	out := outside(t)
	root := rootOf(t, "/srv/d/key", "/srv/d/deep/key", "/srv/d/passwd")
	stop := exchange(t, filepath.Join(root, "srv/d"), out)
	defer stop()
	list, err := ParseList("list", strings.NewReader("/srv/d/key\n/srv/d/*\n/srv\n/srv/**/key\n"))
	if err != nil {
		t.Fatal(err)
	}
	captured := 0
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		plan, err := Scan(t.Context(), root, list)
		if plan == nil || err != nil && !errors.As(err, new(*MissingError)) {
			continue
		}
		var archive bytes.Buffer
		_, err = Capture(t.Context(), plan, &archive, nil)
		if bytes.Contains(archive.Bytes(), []byte(outsideText)) {
			t.Fatal("the archive has what lies outside of the root")
		}
		if err == nil {
			captured++
		}
	}
	t.Logf("%d captures were whole", captured)
}

// The same in the new root, while files are put back.
func TestDirectorySwappedDuringRestore(t *testing.T) {
	out := outside(t)
	old := rootOf(t, "/srv/d/key", "/srv/d/deep/key", "/srv/d/new", "/srv/d/passwd")
	plan, err := planOf(t, old, "/srv/d/*\n")
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if _, err := Capture(t.Context(), plan, &archive, nil); err != nil {
		t.Fatal(err)
	}
	fresh := rootOf(t, "/srv/d/deep/other")
	stop := exchange(t, filepath.Join(fresh, "srv/d"), out)
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		_, _ = Restore(t.Context(), fresh, bytes.NewReader(archive.Bytes()), Options{}) // it may find a link in the way, or not
	}
	stop()
	unharmed(t, out)
}

// A file that grows or shrinks while it is captured is an error that names it.
func TestFileThatGrows(t *testing.T) {
	root := rootOf(t, "/srv/log")
	plan, err := planOf(t, root, "/srv\n")
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"grown": "/srv/log and more", "shrunk": "/s"} {
		if err := os.WriteFile(filepath.Join(root, "srv/log"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Capture(t.Context(), plan, &bytes.Buffer{}, nil); err == nil || !strings.Contains(err.Error(), "srv/log") {
			t.Errorf("%s: Capture = %v; want an error that names the file", what, err)
		}
	}
}

// allocates is how much memory something asks for, in bytes: once it is done much of it
// is garbage, but a run has to have room for it.
func allocates(do func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// 200,000 names in one directory are listed, captured and put back, and none of them
// takes much memory.
func TestManyNames(t *testing.T) {
	mnt := treetest.Mount(t, treetest.Tmpfs(), 0)
	root, fresh := filepath.Join(mnt, "old"), filepath.Join(mnt, "new")
	const names = 200_000
	dir := filepath.Join(root, "srv")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.Mkdir(fresh, 0o755)); err != nil {
		t.Fatal(err)
	}
	for i := range names {
		fd, err := unix.Open(fmt.Sprintf("%s/%06d", dir, i), unix.O_CREAT|unix.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
	plan, err := planOf(t, root, "/srv/*\n!/srv/*[1-9]\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Entries) != names/10 {
		t.Errorf("the glob keeps %d names; want %d", len(plan.Entries), names/10)
	}
	listing := allocates(func() { plan, err = planOf(t, root, "/srv\n") })
	if err != nil {
		t.Fatal(err)
	}
	archive, err := os.Create(filepath.Join(t.TempDir(), "archive"))
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	if _, err := Capture(t.Context(), plan, archive, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	var report *Report
	restoring := allocates(func() { report, err = Restore(t.Context(), fresh, archive, Options{}) })
	for _, m := range []struct {
		what      string
		got, most int64
	}{{"Scan", listing, 1000}, {"Restore", restoring, 2300}} {
		if got := m.got / names; got > m.most {
			t.Errorf("%s allocates %d bytes for a name; want at most %d", m.what, got, m.most)
		}
	}
	if err != nil || len(report.Entries) != names+1 || len(report.Conflicts) > 0 {
		t.Errorf("Restore: %d entries, %d conflicts, %v; want %d", len(report.Entries), len(report.Conflicts), err, names+1)
	}
}
