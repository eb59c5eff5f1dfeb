package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"reimager/image"
)

// expectNothing fails if a folder has more than the names.
func expectNothing(t *testing.T, dir string, but ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != len(but) {
		t.Errorf("%s holds %v; want %q alone", dir, entries, but)
	}
}

func TestPackRefuses(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		name = filepath.Join(dir, name)
		must(t, os.WriteFile(name, b, 0o600))
		return name
	}
	behind := mbr(entry{0x83, mib, 10 * mib})
	for _, tt := range []struct{ name, disk, want string }{
		{"nothing", filepath.Join(dir, "missing"), "no such file"},
		{"empty", file("empty", nil), "the image is empty"},
		{"no table", file("text", bytes.Repeat([]byte("text"), mib)), "expected bzip2, gzip, xz, zstd or a boot sector"},
		{"partition behind the end", file("behind", append(behind, make([]byte, 2*mib-sector)...)), "ends at byte 11534336"},
		{"cut", file("cut", append(mbr(entry{0x83, mib, mib}), make([]byte, 2*mib-100-sector)...)), "not a whole number of sectors"},
		{"folder", dir, "is a directory"},
	} {
		out := filepath.Join(t.TempDir(), "release")
		if _, err := Pack(t.Context(), options(tt.disk, out, image.Zstd)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Pack = %v; want an error with %q", tt.name, err, tt.want)
		}
		expectNothing(t, filepath.Dir(out))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	out := filepath.Join(t.TempDir(), "release")
	if _, err := Pack(ctx, options(kiosk(t), out, image.Zstd)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: Pack = %v", err)
	}
	expectNothing(t, filepath.Dir(out))
}

// Ten thousand flipped bits in a signed release: none is written.
func TestBitFlips(t *testing.T) {
	b := make([]byte, 256<<10)
	copy(b, mbr(entry{0x83, 64 << 10, 128 << 10}))
	copy(b[70_000:], random(3000, 3))
	img := filepath.Join(t.TempDir(), "small.img")
	must(t, os.WriteFile(img, b, 0o600))
	for _, format := range []image.Format{image.Zstd, image.Bzip2} {
		out := filepath.Join(t.TempDir(), "release")
		sign, trusted := key(t)
		o := options(img, out, format)
		o.Sign = sign
		m := pack(t, o).Manifest
		r := mathrand.New(mathrand.NewPCG(1, 2))
		for file, flips := range map[string]int{m.Image.Name: 2000, m.Map.Name: 1000, image.ManifestName: 1000, image.ManifestName + image.SignatureSuffix: 1000} {
			name := filepath.Join(out, file)
			good := read(t, name)
			from := 0
			if strings.HasSuffix(file, image.SignatureSuffix) {
				from = bytes.IndexByte(good, '\n') + 1 // nobody signs the untrusted comment
			}
			for range flips {
				bit := from*8 + r.IntN((len(good)-from)*8)
				bad := bytes.Clone(good)
				bad[bit/8] ^= 1 << (bit % 8)
				must(t, os.WriteFile(name, bad, 0o600))
				if err := decodeRelease(out, trusted); err == nil {
					t.Errorf("%s: %s with bit %d of byte %d (%q) flipped is accepted", format, file, bit%8, bit/8, good[bit/8])
				}
			}
			for n := range len(good) {
				if n%97 == 0 || n > len(good)-12 {
					must(t, os.WriteFile(name, good[:n], 0o600))
					if err := decodeRelease(out, trusted); err == nil && n < len(bytes.TrimRight(good, "\n")) {
						t.Errorf("%s: %s cut to %d of %d bytes is accepted", format, file, n, len(good))
					}
				}
			}
			must(t, os.Remove(name))
			if err := decodeRelease(out, trusted); !errors.Is(err, fs.ErrNotExist) && !strings.Contains(fmt.Sprint(err), "there is no") {
				t.Errorf("%s: without %s: %v", format, file, err)
			}
			must(t, os.WriteFile(name, good, 0o600))
		}
		must(t, decodeRelease(out, trusted))
	}
}

// decodeRelease goes the whole way to the disk but for the disk.
func decodeRelease(dir string, trusted image.Key) error {
	in, err := image.OpenInput(dir, image.InputOptions{Keys: []image.Key{trusted}})
	if err != nil {
		return err
	}
	defer in.Close()
	src, err := image.Decode(in, 1)
	if err != nil {
		return err
	}
	pool, err := image.NewPool(2, func(n int) ([]byte, error) { return make([]byte, n), nil })
	if err != nil {
		return err
	}
	_, err = image.Each(context.Background(), src, in.Map, pool, nil, in.Map.Check)
	return errors.Join(err, src.Close())
}

// An EFI system partition that is none is no reason not to pack, and is said.
func TestPackUnreadableESP(t *testing.T) {
	img := filepath.Join(t.TempDir(), "gpt.img")
	must(t, os.WriteFile(img, nil, 0o600))
	must(t, os.Truncate(img, 8*mib))
	c := exec.Command("sfdisk", "-q", img)
	c.Stdin = strings.NewReader("label: gpt\nsize=2MiB,type=uefi\n")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v (`./dev test` installs it)\n%s", err, out)
	}
	m := pack(t, options(img, filepath.Join(t.TempDir(), "release"), image.Zstd)).Manifest
	if !m.System.ESPUnread() {
		t.Errorf("missing %q; want word of the EFI system partition", m.System.Missing)
	}
}
