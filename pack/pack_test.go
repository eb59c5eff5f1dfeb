package pack

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"
	"github.com/google/go-cmp/cmp"

	"reimager/disk"
	"reimager/image"
	"reimager/imaging"
	"reimager/report"
)

const (
	sector = 512
	mib    = 1 << 20
)

// quiet is a reporter that nobody hears.
func quiet() *report.Reporter { return report.New(io.Discard, nil, time.Now()) }

// entry is a partition of an MBR.
type entry struct {
	kind         byte
	start, bytes int64
}

// mbr writes a partition table with some boot code.
func mbr(entries ...entry) []byte {
	b := make([]byte, sector)
	copy(b, "\xeb\xfe boot code")
	for i, e := range entries {
		at := b[446+16*i:]
		at[4] = e.kind
		binary.LittleEndian.PutUint32(at[8:], uint32(e.start/sector))
		binary.LittleEndian.PutUint32(at[12:], uint32(e.bytes/sector))
	}
	b[510], b[511] = 0x55, 0xaa
	return b
}

// swapHeader is the first page of a swap area, as mkswap makes it.
func swapHeader(bytes int64) []byte {
	b := make([]byte, 4096)
	binary.LittleEndian.PutUint32(b[1024:], 1)
	binary.LittleEndian.PutUint32(b[1028:], uint32(bytes/4096-1))
	copy(b[4086:], "SWAPSPACE2")
	return b
}

// random is n bytes that do not compress, always the same for a seed.
func random(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := mathrand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

// kiosk is an image of 6 MiB: swap with something in it, something unknown, a hole.
func kiosk(t *testing.T) string {
	t.Helper()
	b := make([]byte, 6*mib)
	copy(b, mbr(entry{0x82, mib, 2 * mib}, entry{0x83, 4 * mib, mib}))
	copy(b[mib:], swapHeader(2*mib))
	copy(b[2*mib:], "swapped out: a password")
	copy(b[4*mib:], random(300_000, 1))
	copy(b[5*mib+5000:], "between partition and end")
	name := filepath.Join(t.TempDir(), "kiosk.img")
	must(t, os.WriteFile(name, b, 0o600))
	return name
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// key makes a key pair.
func key(t *testing.T) (sign func(*image.Manifest, []byte) ([]byte, error), trusted image.Key) {
	t.Helper()
	public, private, err := minisign.GenerateKey(rand.Reader)
	must(t, err)
	text, err := public.MarshalText()
	must(t, err)
	trusted, err = image.ParseKey("fleet.pub", text)
	must(t, err)
	return func(_ *image.Manifest, text []byte) ([]byte, error) {
		r := minisign.NewReader(bytes.NewReader(text))
		if _, err := io.Copy(io.Discard, r); err != nil {
			return nil, err
		}
		return r.SignWithComments(private, "trusted words", "untrusted words"), nil
	}, trusted
}

func options(disk, out string, format image.Format) Options {
	return Options{Disk: disk, Output: out, Format: format, Name: "kiosk", Version: "1", Counter: 1, Workers: 2, Report: quiet()}
}

func pack(t *testing.T, o Options) *Result {
	t.Helper()
	done, err := Pack(t.Context(), o)
	must(t, err)
	return done
}

// write writes a release, or an image with a map, to a new file.
func write(t *testing.T, name string, o image.InputOptions, size int64) (string, error) {
	t.Helper()
	target := filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(target, nil, 0o600))
	must(t, os.Truncate(target, size))
	in, err := image.OpenInput(name, o)
	if err != nil {
		return "", err
	}
	defer in.Close()
	src, err := image.Decode(in, 2)
	if err != nil {
		return "", err
	}
	defer src.Close()
	dev, err := disk.OpenFile(target)
	must(t, err)
	defer dev.Close()
	_, err = imaging.WriteWhole(t.Context(), imaging.Job{Device: dev, Source: src, Map: in.Map}, func(done *imaging.Result) error {
		return imaging.ReadBack(t.Context(), dev, done.Map, done.Held, nil)
	})
	return target, err
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	return b
}

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

// sparseFile leaves holes where there are zeros.
func sparseFile(name string, b []byte) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	for off := 0; off < len(b); off += 64 << 10 {
		if part := b[off:min(len(b), off+64<<10)]; !image.AllZero(part) {
			if _, err := f.WriteAt(part, int64(off)); err != nil {
				return err
			}
		}
	}
	return errors.Join(f.Truncate(int64(len(b))), f.Close())
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

// signedProgram is a PE32+ file with a certificate table behind all else: Microsoft's
// "PE Format".
func signedProgram() []byte {
	const at, table = 0x80, 70000
	b := make([]byte, table+16)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], at)
	copy(b[at:], "PE\x00\x00")
	optional := b[at+24:]
	le.PutUint16(optional, 0x20b)
	le.PutUint32(optional[108:], 16)
	le.PutUint32(optional[112+8*4:], table)
	le.PutUint32(optional[112+8*4+4:], 16)
	le.PutUint32(b[table:], 16)
	return b
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
