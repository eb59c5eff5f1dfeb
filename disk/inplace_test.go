package disk

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// tool runs a program of the host; a test that cannot is no test.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s(this test needs root and e2fsprogs, xfsprogs)", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// A file is overwritten where it lies, and nothing else on the filesystem changes.
func TestOverwriteInPlace(t *testing.T) {
	for _, tt := range []struct{ kind, mkfs string }{
		{"ext4", "mkfs.ext4 -q -b 4096"}, {"ext4", "mkfs.ext4 -q -b 1024"}, {"ext3", "mkfs.ext3 -q"}, {"ext2", "mkfs.ext2 -q"},
		{"xfs", "mkfs.xfs -q"},
	} {
		t.Run(tt.mkfs, func(t *testing.T) {
			dir := t.TempDir()
			image, at := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
			if err := os.WriteFile(image, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(image, 320<<20); err != nil {
				t.Fatal(err)
			}
			words := strings.Fields(tt.mkfs)
			tool(t, words[0], append(words[1:], image)...)
			loop := tool(t, "losetup", "--find", "--show", image)
			t.Cleanup(func() { tool(t, "losetup", "--detach", loop) })
			if err := os.Mkdir(at, 0o700); err != nil {
				t.Fatal(err)
			}
			block := func(c byte) []byte { return bytes.Repeat([]byte{c}, 1024) }
			tool(t, "mount", "-t", tt.kind, loop, at)
			name := filepath.Join(at, "gate")
			err := os.WriteFile(name, append(block('a'), block('b')...), 0o600)
			tool(t, "umount", at)
			if err != nil {
				t.Fatal(err)
			}
			extents := extentsOf(t, tt.kind, loop, at)
			before, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			ours := func(i int, b []byte) bool { return bytes.Equal(b, block([]byte("ab")[i])) }
			others := func(int, []byte) bool { return false }
			if err := OverwriteExtents(loop, extents, 1024, [][]byte{block('X'), block('Y')}, others); err == nil {
				t.Error("a block that is not the file's was overwritten")
			}
			if err := OverwriteExtents(loop, extents, 1024, [][]byte{block('X'), block('Y')}, ours); err != nil {
				t.Fatal(err)
			}
			after, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			differing := 0
			for i := range before {
				if before[i] != after[i] {
					differing++
				}
			}
			if differing != 2048 {
				t.Errorf("%d bytes of the filesystem were changed; want the 2048 of the file", differing)
			}
			tool(t, "mount", "-t", tt.kind, "-o", "ro", loop, at)
			got, err := os.ReadFile(name)
			tool(t, "umount", at)
			if err != nil || !bytes.Equal(got, append(block('X'), block('Y')...)) {
				t.Errorf("the file holds %.40q, %v; want what was written", got, err)
			}
		})
	}
}

func extentsOf(t *testing.T, kind, device, at string) []Extent {
	t.Helper()
	tool(t, "mount", "-t", kind, "-o", "ro", device, at)
	defer tool(t, "umount", at)
	f, err := os.Open(filepath.Join(at, "gate"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	extents, err := Extents(f)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	// The old call, all that vfat has, finds the same place.
	old, err := fibmapExtents(f, info)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{0, 1024} {
		a, errA := locate(extents, off, 1024)
		b, errB := locate(old, off, 1024)
		if a != b || errA != nil || errB != nil {
			t.Errorf("byte %d lies at %d (%v) by FIEMAP, at %d (%v) by FIBMAP", off, a, errA, b, errB)
		}
	}
	return extents
}

// Files that have no bytes of their own on the device are refused.
func TestExtentsRefuse(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	if extents, err := Extents(f); err == nil {
		t.Errorf("Extents of a sparse file = %v; want an error", extents)
	}
}
