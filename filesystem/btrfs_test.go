package filesystem

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBtrfsFree(t *testing.T) {
	for _, c := range []struct {
		args, whole string
	}{
		{"", ""},
		{"-m single -n 4096", ""},
		{"--mixed", ""},
		{"-m dup -d dup --csum sha256", ""},
		{"-R ^free-space-tree -O ^no-holes", ""},
		{"-d raid0 -m single", "mapped whole: btrfs has a chunk with the flags 0x9 and 1 stripes; only single and DUP are known"},
		{"--csum xxhash", "mapped whole: btrfs has checksums of type 1; only crc32c and sha256 are known"},
	} {
		t.Run(c.args, func(t *testing.T) {
			image := newImage(t, 400<<20)
			tool(t, "mkfs.btrfs", append(strings.Fields("-q "+c.args), image)...)
			withMount(t, image, "rw", func(dir string) { churn(t, dir); special(t, dir) })
			free := unallocated(t, image)
			if free.Whole != c.whole {
				t.Fatalf("%q, want %q", free.Whole, c.whole)
			}
			if c.whole != "" {
				return
			}
			used := field(t, tool(t, "btrfs", "inspect-internal", "dump-super", image), "bytes_used")
			// Two copies at most, the first MiB, and one more superblock.
			if got, least := free.Bytes(), 400<<20-2*used-2<<20; got < least {
				t.Errorf("%d bytes are free, want at least %d", got, least)
			}
			want := contents(t, image, "ro")
			spoil(t, image, free)
			tool(t, "btrfs", "check", "--readonly", "--check-data-csum", image)
			if diff := cmp.Diff(want, contents(t, image, "ro")); diff != "" {
				t.Errorf("files differ (-want +got):\n%s", diff)
			}
			// The second copies too are whole.
			withMount(t, image, "rw", func(dir string) {
				if out := tool(t, "btrfs", "scrub", "start", "-B", dir); !strings.Contains(out, "no errors found") {
					t.Error(out)
				}
			})
		})
	}
}

// special makes what other readers of btrfs have missed: data without checksums, a
// chunk that lies elsewhere than its logical address, a snapshot.
func special(t testing.TB, dir string) {
	t.Helper()
	plain := filepath.Join(dir, "without-checksums")
	if err := os.Mkdir(plain, 0o755); err != nil {
		t.Fatal(err)
	}
	tool(t, "chattr", "+C", plain)
	data := make([]byte, 5<<20)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(data)
	if err := os.WriteFile(filepath.Join(plain, "file"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	tool(t, "btrfs", "balance", "start", "--full-balance", dir)
	tool(t, "btrfs", "subvolume", "snapshot", dir, filepath.Join(dir, "snapshot"))
	if err := os.Remove(filepath.Join(dir, "large")); err != nil {
		t.Fatal(err)
	}
}

func TestBtrfsNeedsReplay(t *testing.T) {
	image := newImage(t, 200<<20)
	tool(t, "mkfs.btrfs", "-q", image)
	copied := newImage(t, 0)
	withMount(t, image, "rw", func(dir string) {
		file := filepath.Join(dir, "file")
		if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		tool(t, "sync", file) // fsync: into the log tree
		tool(t, "cp", "--sparse=always", image, copied)
	})
	if got, want := unallocated(t, copied).Whole, "mapped whole: btrfs needs log replay"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := unallocated(t, image).Whole; got != "" {
		t.Errorf("unmounted: %q", got)
	}
}
