package treetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Need fails a test that lacks root or a tool.
func Need(t testing.TB, tools ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test sets owners and attributes, makes devices and mounts filesystems: run it as root")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("this test needs %s: %v", tool, err)
		}
	}
}

// Mount makes a filesystem of that kind and mounts it until the test ends.
func Mount(t testing.TB, kind Kind, bytes int64) string {
	t.Helper()
	dir := t.TempDir()
	point := filepath.Join(dir, "mnt")
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	if kind.Name == "tmpfs" {
		run(t, "mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", point)
	} else {
		image := filepath.Join(dir, "image")
		f, err := os.Create(image)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(bytes); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		run(t, "mkfs."+kind.Name, "-q", image)
		run(t, "mount", "-o", "loop", image, point)
	}
	t.Cleanup(func() { unmount(t, point) })
	return point
}

// unmount waits for whatever looks at the filesystem yet: the kernel's own worker on
// btrfs, or somebody who walks through all of a host's files.
func unmount(t testing.TB, point string) {
	t.Helper()
	for range 100 {
		if exec.Command("umount", point).Run() == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	run(t, "umount", point)
}

func run(t testing.TB, tool string, args ...string) {
	t.Helper()
	Need(t, tool)
	if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", tool, args, err, out)
	}
}
