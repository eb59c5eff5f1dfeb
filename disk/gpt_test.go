package disk

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func sfdisk(t *testing.T, path, input string, args ...string) string {
	t.Helper()
	cmd := exec.Command("sfdisk", append(args, path)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	return string(out)
}

// gptImage is an image with a GPT of that script.
func gptImage(t *testing.T, size int64, script string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	sfdisk(t, path, script)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A GPT lands with both headers where they belong on this disk, and tools find nothing
// to complain of.
func TestLandGPT(t *testing.T) {
	const size = 8 << 20
	image := gptImage(t, size, "label: gpt\nsize=2MiB, name=root\nsize=1MiB\n")
	broken := bytes.Clone(image)
	broken[size-512+60] ^= 1
	for _, tt := range []struct {
		name  string
		image []byte
		disk  int64
		want  []int64 // offsets in the order of writing
	}{
		{"the same size", image, size, []int64{size - 512, 512}},
		{"the image's backup is damaged", broken, size, []int64{size - 33*512, size - 512, 512}},
		{"larger by a sector", image, size + 512, []int64{size - 32*512, size, 512}},
		{"larger", image, 20 << 20, []int64{20<<20 - 33*512, 20<<20 - 512, 512}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var last []byte
			if tt.disk == size {
				last = tt.image[size-512:]
			}
			pieces, err := LandGPT(bytes.NewReader(tt.image), last, tt.disk, 512)
			if err != nil {
				t.Fatal(err)
			}
			content := append(bytes.Clone(tt.image), make([]byte, tt.disk-size)...)
			var got []int64
			for _, p := range pieces {
				got = append(got, p.Off)
				copy(content[p.Off:], p.Data)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("offsets (-want +got):\n%s", diff)
			}
			if tt.name == "the same size" && !bytes.Equal(content, image) {
				t.Error("the disk is not the image")
			}
			checkGPT(t, content, image)
		})
	}
}

// checkGPT asks two tools about a disk, and holds its partitions to those of an image.
func checkGPT(t *testing.T, content, image []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	if out := sfdisk(t, path, "", "--verify"); !strings.Contains(out, "No errors detected") || strings.Contains(strings.ToLower(out), "backup gpt") {
		t.Errorf("sfdisk --verify:\n%s", out)
	}
	out, err := exec.Command("sgdisk", "--verify", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No problems found") {
		t.Errorf("sgdisk --verify: %v\n%s", err, out)
	}
	want, err := ReadTable(bytes.NewReader(image), 512)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadTable(bytes.NewReader(content), 512)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the table changed (-want +got):\n%s", diff)
	}
}

// What has no room for a table, or has none, is refused before anything is written.
func TestLandGPTRefuses(t *testing.T) {
	image := gptImage(t, 8<<20, "label: gpt\nsize=6MiB\n")
	full := image[:7<<20] // it ends with its partition
	mbr := gptImage(t, 8<<20, "label: dos\nsize=6MiB\n")
	for _, tt := range []struct {
		name  string
		image []byte
		disk  int64
		want  string
	}{
		{"no room", full, 7<<20 + 10*512, "partition 1 ends at byte 7340032"},
		{"MBR", mbr, 8 << 20, "the image has none"},
		{"tiny disk", image, 1024, "the disk is too small"},
		{"no table", make([]byte, 8<<20), 8 << 20, ErrNoTable.Error()},
	} {
		_, err := LandGPT(bytes.NewReader(tt.image), nil, tt.disk, 512)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: LandGPT = %v; want an error with %q", tt.name, err, tt.want)
		}
	}
	if _, err := LandGPT(bytes.NewReader(full), nil, 7<<20+33*512, 512); err != nil {
		t.Errorf("just enough room: LandGPT = %v", err)
	}
	// A partition behind the disk's end is the caller's to refuse; here nothing may panic.
	if _, err := LandGPT(bytes.NewReader(image), nil, 4<<20, 512); err == nil || errors.Is(err, ErrNoTable) {
		t.Errorf("smaller disk: LandGPT = %v", err)
	}
}
