package filesystem

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"reimager/disk"
)

// before is where the partition lies in the image that is read.
const before = 1<<20 + 512

// tool runs a command, which has to be there and to succeed.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = filepath.Join("/usr/sbin", name)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return string(out)
}

func newImage(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "partition")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// withMount gives a directory in which the filesystem is mounted.
func withMount(t testing.TB, image, options string, do func(dir string)) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("mounting takes root")
	}
	flags := []string{"--find", "--show"}
	if slices.Contains(strings.Split(options, ","), "ro") {
		flags = append(flags, "--read-only")
	}
	// Not `mount -o loop`: it takes any device that has the file, even a read-only one that
	// the kernel has not yet taken apart, and then mounts read-only with a mere warning.
	device := strings.TrimSpace(tool(t, "losetup", append(flags, image)...))
	defer tool(t, "losetup", "--detach", device)
	dir := t.TempDir()
	tool(t, "mount", "-o", options, device, dir)
	defer func() {
		tool(t, "umount", dir)
		released(t, device)
	}()
	do(dir)
}

// released waits until nothing holds a device that was mounted. A program that was started
// in a mount namespace of its own meanwhile, as other packages' tests do, keeps a filesystem
// that is unmounted here, and it is written to until that program ends.
func released(t testing.TB, device string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0)
		if err == nil {
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is held a minute after it was unmounted: %v", device, err)
		}
	}
}

// A filesystem that another mount namespace still has is waited for.
func TestReleased(t *testing.T) {
	image := newImage(t, 64<<20)
	tool(t, "mkfs.ext4", "-q", image)
	var other *exec.Cmd
	began, kept := time.Now(), 500*time.Millisecond
	withMount(t, image, "rw", func(string) {
		other = exec.Command("sleep", fmt.Sprint(kept.Seconds()))
		other.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
		began = time.Now()
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
	})
	if waited := time.Since(began); waited < kept {
		t.Errorf("unmounted after %v, while another process had it for %v", waited, kept)
	}
	if err := other.Wait(); err != nil {
		t.Error(err)
	}
}

// churn fills and empties a filesystem so that its free space is in pieces.
func churn(t testing.TB, dir string) {
	t.Helper()
	data := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	write := func(name string, n int) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data[:n], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 600 {
		write("many/"+strconv.Itoa(i), i*37%20000)
	}
	write("large", len(data))
	if out, err := exec.Command("fallocate", "-l", "1M", filepath.Join(dir, "reserved")).CombinedOutput(); err != nil && !bytes.Contains(out, []byte("not supported")) {
		t.Fatalf("fallocate: %v: %s", err, out) // ext2 and ext3 know no reserved blocks
	}
	tool(t, "truncate", "-s", "1G", filepath.Join(dir, "sparse"))
	tool(t, "sync", "-f", dir)
	for i := 0; i < 600; i += 3 {
		if err := os.Remove(filepath.Join(dir, "many", strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	write("late/file", 70000)
}

// contents are the digests of all files, by path.
func contents(t testing.TB, image, options string) map[string]string {
	t.Helper()
	sums := map[string]string{}
	withMount(t, image, options, func(dir string) {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || d.Name() == "sparse" {
				return err
			}
			b, err := os.ReadFile(path)
			sum := sha256.Sum256(b)
			sums[path[len(dir):]] = hex.EncodeToString(sum[:4])
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	return sums
}

// unallocated asks for the free space of a partition that lies inside of an image.
func unallocated(t testing.TB, path string) Free {
	t.Helper()
	partition, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer partition.Close()
	info, err := partition.Stat()
	if err != nil {
		t.Fatal(err)
	}
	found, err := disk.Probe(partition)
	if err != nil {
		t.Fatal(err)
	}
	free, err := Unallocated(context.Background(), shifted{partition}, before, info.Size(), found)
	if err != nil {
		t.Fatal(err)
	}
	sound(t, free, info.Size())
	return free
}

// shifted is an image in which a partition begins at offset before; nobody may read
// beside it.
type shifted struct{ partition io.ReaderAt }

func (s shifted) ReadAt(b []byte, off int64) (int, error) { return s.partition.ReadAt(b, off-before) }

// sound checks what has to hold of every answer.
func sound(t testing.TB, free Free, size int64) {
	t.Helper()
	if free.Whole != "" && len(free.Extents) > 0 {
		t.Fatalf("%q, and yet %d extents", free.Whole, len(free.Extents))
	}
	end := int64(-1)
	for _, e := range free.Extents {
		if e.Off <= end || e.Bytes <= 0 || e.end() > size {
			t.Fatalf("extent %+v follows byte %d of %d", e, end, size)
		}
		end = e.end()
	}
}

// spoil writes garbage into everything that is free.
func spoil(t testing.TB, path string, free Free) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	garbage := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(garbage)
	for _, e := range free.Extents {
		for off := e.Off; off < e.end(); off += int64(len(garbage)) {
			if _, err := f.WriteAt(garbage[:min(int64(len(garbage)), e.end()-off)], off); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// field returns the number behind a name in a tool's output.
func field(t testing.TB, text, name string) int64 {
	t.Helper()
	_, rest, ok := strings.Cut(text, name)
	if !ok {
		t.Fatalf("no %q in:\n%s", name, text)
	}
	n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestGaps(t *testing.T) {
	for _, c := range []struct {
		name string
		used []Extent
		want []Extent
	}{
		{"nothing used", nil, []Extent{{10, 90}}},
		{"all used", []Extent{{0, 200}}, nil},
		{"overlapping, out of order", []Extent{{50, 10}, {20, 5}, {22, 10}, {32, 1}}, []Extent{{10, 10}, {33, 17}, {60, 40}}},
		{"across both ends", []Extent{{90, 50}, {5, 6}}, []Extent{{11, 79}}},
		{"behind the end", []Extent{{150, 10}}, []Extent{{10, 90}}},
	} {
		if diff := cmp.Diff(c.want, gaps(10, 100, c.used)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestUnknown(t *testing.T) {
	for _, kind := range []string{"vfat", "crypto_LUKS", "LVM2_member", "linux_raid_member", ""} {
		free, err := Unallocated(context.Background(), bytes.NewReader(make([]byte, 1<<20)), 0, 1<<20, disk.Filesystem{Type: kind})
		if err != nil || len(free.Extents) > 0 || !strings.HasPrefix(free.Whole, "mapped whole: ") {
			t.Errorf("Unallocated of %q = %+v, %v; want it mapped whole, with a reason", kind, free, err)
		}
	}
}

func TestUnallocatedErrors(t *testing.T) {
	short := bytes.NewReader(make([]byte, 1000))
	if _, err := Unallocated(context.Background(), short, 0, 1<<20, disk.Filesystem{Type: "ext4"}); err == nil {
		t.Error("an image that ends inside of the partition is no error")
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Unallocated(ended, bytes.NewReader(make([]byte, 1<<20)), 0, 1<<20, disk.Filesystem{Type: "ext4"}); err == nil {
		t.Error("an ended context is no error")
	}
}
