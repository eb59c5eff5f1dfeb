package pack

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/image"
	"reimager/imaging"
)

// The inside of swap is neither mapped nor packed; all else comes out as it was.
func TestPackAndWrite(t *testing.T) {
	img := kiosk(t)
	want := read(t, img)
	clear(want[mib+4096 : 3*mib])
	for _, format := range []image.Format{image.Zstd, image.Bzip2} {
		out := filepath.Join(t.TempDir(), "release")
		sign, trusted := key(t)
		o := options(img, out, format)
		o.Sign = sign
		done := pack(t, o)
		m := done.Manifest
		if m.Image.Format != format || m.Image.RawBytes != 6*mib || m.Image.MappedBytes != 4*mib+4096 {
			t.Errorf("%s: manifest %+v", format, m.Image)
		}
		if got := fmt.Sprint(m.Disk); got != "{6291456 512 mbr [bios] [{1 1048576 2097152 82 false} {2 4194304 1048576 83 false}] []}" {
			t.Errorf("%s: disk %s", format, got)
		}
		if w := done.Partitions; w[0].Whole != "" || w[0].FreeBytes != 2*mib-4096 || w[1].Whole == "" {
			t.Errorf("%s: partitions %+v", format, w)
		}
		target, err := write(t, out, image.InputOptions{Keys: []image.Key{trusted}}, 6*mib)
		must(t, err)
		if !bytes.Equal(read(t, target), want) {
			t.Errorf("%s: another disk came out", format)
		}
		if _, err := Pack(t.Context(), o); err == nil || !strings.Contains(err.Error(), "there is something in it") {
			t.Errorf("%s: Pack over a release = %v", format, err)
		}
	}
}

// A GPT is read with the sectors that it was written for, and UEFI boots it only with
// the loader that needs no boot entry.
func TestPackGPT(t *testing.T) {
	run := func(input, name string, args ...string) {
		t.Helper()
		c := exec.Command(name, args...)
		c.Stdin = strings.NewReader(input)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v (`./dev test` installs it)\n%s", name, err, out)
		}
	}
	loader := filepath.Join(t.TempDir(), "loader")
	must(t, os.WriteFile(loader, []byte("MZ program"), 0o600))
	signed := filepath.Join(t.TempDir(), "signed")
	must(t, os.WriteFile(signed, signedProgram(), 0o600))
	for _, tt := range []struct {
		name     string
		loaders  []string
		firmware string
		missing  string
	}{
		{"removable", []string{"/EFI/BOOT/BOOTX64.EFI", "/EFI/DEBIAN/SHIMX64.EFI"}, "[uefi]", "/etc/fstab"},
		{"vendor's only", []string{"/EFI/DEBIAN/SHIMX64.EFI"}, "[]", "no /EFI/BOOT/BOOTX64.EFI"},
		{"none", nil, "[]", "no /EFI/BOOT/BOOTX64.EFI"},
	} {
		img := filepath.Join(t.TempDir(), "gpt.img")
		must(t, os.WriteFile(img, nil, 0o600))
		must(t, os.Truncate(img, 8*mib))
		run("label: gpt\nsize=2MiB,type=uefi\nsize=4MiB,type=linux\n", "sfdisk", "-q", img)
		run("", "mkfs.vfat", "--offset", "2048", img, "2048")
		esp := img + "@@1048576"
		run("", "mmd", "-i", esp, "::EFI", "::EFI/BOOT", "::EFI/DEBIAN")
		for _, l := range tt.loaders {
			from := loader
			if strings.Contains(l, "SHIM") {
				from = signed
			}
			run("", "mcopy", "-i", esp, from, "::"+l)
		}
		m := pack(t, options(img, filepath.Join(t.TempDir(), "release"), image.Zstd)).Manifest
		if got, want := fmt.Sprint(m.Disk), "{8388608 512 gpt "+tt.firmware+" [{1 "; !strings.HasPrefix(got, want) {
			t.Errorf("%s: disk %s; want %s", tt.name, got, want)
		}
		if diff := cmp.Diff(tt.loaders, m.System.UEFILoader); diff != "" {
			t.Errorf("%s: loaders (-want +got):\n%s", tt.name, diff)
		}
		if want := tt.loaders[max(0, len(tt.loaders)-1):]; m.System.UEFISigned == nil || !slices.Equal(want, m.System.UEFISigned) {
			t.Errorf("%s: signed are %#v; want %v", tt.name, m.System.UEFISigned, want)
		}
		if got := strings.Join(m.System.Missing, "\n"); !strings.Contains(got, tt.missing) || tt.firmware == "[uefi]" && strings.Contains(got, "BOOTX64") {
			t.Errorf("%s: missing %q; want %q in it", tt.name, got, tt.missing)
		}
	}
}

// The same input gives the same bytes.
func TestPackIsReproducible(t *testing.T) {
	img := kiosk(t)
	var all [2]string
	for i, workers := range []int{1, 4} {
		o := options(img, filepath.Join(t.TempDir(), "release"), image.Zstd)
		o.Workers = workers
		pack(t, o)
		entries, err := os.ReadDir(o.Output)
		must(t, err)
		for _, e := range entries {
			all[i] += e.Name() + string(read(t, filepath.Join(o.Output, e.Name())))
		}
	}
	if all[0] != all[1] {
		t.Error("two releases of one image differ")
	}
}

// An image that is compressed already keeps its bytes, whatever is outside its map.
func TestPackTakesCompressed(t *testing.T) {
	img := kiosk(t)
	for _, tool := range []string{"bzip2", "lbzip2", "pbzip2", "zstd", "gzip", "xz"} {
		compressed, err := exec.Command(tool, "-c", img).Output()
		if err != nil {
			t.Fatalf("%s: %v (`./dev test` installs it)", tool, err)
		}
		name := filepath.Join(t.TempDir(), "some image")
		must(t, os.WriteFile(name, compressed, 0o600))
		o := options(name, filepath.Join(t.TempDir(), "release"), image.Zstd)
		m := pack(t, o).Manifest
		if !bytes.Equal(read(t, filepath.Join(o.Output, m.Image.Name)), compressed) {
			t.Errorf("%s: the image is not the one that was given", tool)
		}
		if m.Image.RawSHA256 != (image.Range{Data: read(t, img)}).Digest() {
			t.Errorf("%s: raw_sha256 is not that of the image", tool)
		}
		target, err := write(t, o.Output, image.InputOptions{}, 6*mib)
		must(t, err)
		if bytes.Contains(read(t, target), []byte("a password")) {
			t.Errorf("%s: the inside of swap was written", tool)
		}
		must(t, os.WriteFile(name, compressed[:len(compressed)-3], 0o600))
		o.Output += "2"
		if _, err := Pack(t.Context(), o); err == nil {
			t.Errorf("%s: Pack of a truncated image = nil", tool)
		}
		expectNothing(t, filepath.Dir(o.Output), "release")
	}
}

// The two tools that speak .bmap write the same disk from each other's maps.
func TestBmaptool(t *testing.T) {
	bmaptool, err := exec.LookPath("bmaptool")
	if err != nil {
		t.Fatalf("%v: `./dev test` installs bmap-tools", err)
	}
	img := kiosk(t)
	out := filepath.Join(t.TempDir(), "release")
	m := pack(t, options(img, out, image.Zstd)).Manifest
	ours, err := write(t, out, image.InputOptions{}, 6*mib)
	must(t, err)
	theirs := filepath.Join(t.TempDir(), "theirs")
	command := exec.Command(bmaptool, "copy", "--bmap", filepath.Join(out, m.Map.Name), filepath.Join(out, m.Image.Name), theirs)
	if text, err := command.CombinedOutput(); err != nil {
		t.Fatalf("bmaptool copy with our map: %v\n%s", err, text)
	}
	if !bytes.Equal(read(t, ours), read(t, theirs)) {
		t.Error("bmaptool wrote another disk from our map")
	}
	// A map of bmaptool's has one range as long as the data goes on. It is checked
	// whole before it is written.
	raw := filepath.Join(t.TempDir(), "raw")
	b := make([]byte, 24*mib)
	copy(b, mbr(entry{0x83, mib, 20 * mib}))
	copy(b[8*mib:], random(9*mib, 2))
	must(t, sparseFile(raw, b))
	bmap, err := exec.Command(bmaptool, "create", raw).Output()
	must(t, err)
	large, err := image.ParseMap(bmap)
	must(t, err)
	if large.CheckFine() == nil {
		t.Fatal("bmaptool made ranges of at most 4 MiB: the test is without point")
	}
	src, err := image.Decode(bytes.NewReader(b), 2)
	must(t, err)
	fine, err := imaging.Prove(t.Context(), src, large, 1<<30, nil)
	must(t, err)
	fineFile := filepath.Join(t.TempDir(), "map")
	text, err := image.EncodeMap(fine)
	must(t, err)
	must(t, os.WriteFile(fineFile, text, 0o600))
	target, err := write(t, raw, image.InputOptions{Map: fineFile}, 24*mib)
	must(t, err)
	if !bytes.Equal(read(t, target), b) {
		t.Error("another disk came out of bmaptool's map")
	}
}

// Sizes where 32 bits end, as sparse files.
func TestLargeImages(t *testing.T) {
	for _, size := range []int64{2<<30 - sector, 2<<30 + 4096, 4<<30 - 4096, 4<<30 + sector} {
		name := filepath.Join(t.TempDir(), "large.img")
		f, err := os.Create(name)
		must(t, err)
		must(t, f.Truncate(size))
		_, err = f.WriteAt(mbr(entry{0x83, mib, size - mib}), 0)
		must(t, err)
		marks := map[int64][]byte{}
		for i, off := range []int64{2*mib - 7, 2<<30 - 5000, size - 100} {
			marks[off] = random(100, uint64(size)+uint64(i))
			_, err = f.WriteAt(marks[off], off)
			must(t, err)
		}
		must(t, f.Close())
		out := filepath.Join(t.TempDir(), "release")
		m := pack(t, options(name, out, image.Zstd)).Manifest
		if m.Image.RawBytes != size || m.Disk.MinBytes != size {
			t.Errorf("%d: manifest has %d", size, m.Image.RawBytes)
		}
		target, err := write(t, out, image.InputOptions{}, size)
		must(t, err)
		got, err := os.Open(target)
		must(t, err)
		for off, want := range marks {
			b := make([]byte, len(want))
			if _, err := got.ReadAt(b, off); err != nil || !bytes.Equal(b, want) {
				t.Errorf("%d: byte %d: %x, %v; want %x", size, off, b[:8], err, want[:8])
			}
		}
		must(t, got.Close())
		_, err = write(t, out, image.InputOptions{}, size-sector)
		if err == nil {
			t.Errorf("%d: a disk that is a sector too small was written", size)
		}
		must(t, os.Remove(target))
	}
}
