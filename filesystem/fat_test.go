package filesystem

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// makeESP makes a FAT with loaders, things that look like some, and long names.
func makeESP(t testing.TB, size int64, flags ...string) string {
	t.Helper()
	image := newImage(t, size)
	tool(t, "mkfs.vfat", append(flags, image)...)
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	loader, text := file("loader", "MZ"+strings.Repeat("program ", 2000)), file("text", "no program")
	tool(t, "mmd", "-i", image, "::EFI", "::EFI/BOOT", "::EFI/debian", "::EFI/a folder with a long name", "::other", "::EFI/many")
	for i := range 80 { // more than one cluster of entries
		tool(t, "mcopy", "-i", image, text, "::EFI/many/"+strconv.Itoa(i))
	}
	for _, name := range []string{"EFI/BOOT/BOOTX64.EFI", "EFI/debian/shimx64.efi", "other/x.efi", "EFI/many/last.efi"} {
		tool(t, "mcopy", "-i", image, loader, "::"+name)
	}
	tool(t, "mcopy", "-i", image, text, "::EFI/debian/grub.cfg")
	tool(t, "mcopy", "-i", image, text, "::EFI/debian/text.efi")
	tool(t, "mcopy", "-i", image, loader, "::EFI/debian/gone.efi")
	tool(t, "mdel", "-i", image, "::EFI/debian/gone.efi")
	return image
}

func TestUEFILoaders(t *testing.T) {
	for name, tt := range map[string]struct {
		size  int64
		flags []string
	}{
		"FAT12":                     {2 << 20, []string{"-F", "12"}},
		"FAT16":                     {16 << 20, []string{"-F", "16"}},
		"FAT32":                     {64 << 20, []string{"-F", "32", "-s", "1"}},
		"FAT32 of 4 KiB sectors":    {300 << 20, []string{"-F", "32", "-S", "4096"}},
		"FAT16 with large clusters": {150 << 20, []string{"-F", "16", "-s", "64"}},
	} {
		t.Run(name, func(t *testing.T) {
			image := makeESP(t, tt.size, tt.flags...)
			f, err := os.Open(image)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got, why, err := UEFILoaders(t.Context(), f, 0, tt.size)
			if err != nil || why != "" {
				t.Fatalf("UEFILoaders = %q, %v", why, err)
			}
			var paths []string
			for _, l := range got {
				paths = append(paths, l.Path)
				// Short reads, reads across clusters, and the end.
				content, err := io.ReadAll(iotest.OneByteReader(io.NewSectionReader(l, 0, 1<<20)))
				if want := "MZ" + strings.Repeat("program ", 2000); err != nil || string(content) != want {
					t.Errorf("%s has %d bytes, %v; want %d", l.Path, len(content), err, len(want))
				}
				b := make([]byte, 15000)
				if n, err := l.ReadAt(b, 1500); n != len(b)-498 || err != io.EOF {
					t.Errorf("%s: ReadAt behind the end = %d, %v", l.Path, n, err)
				}
			}
			slices.Sort(paths)
			want := []string{"/EFI/BOOT/BOOTX64.EFI", "/EFI/DEBIAN/SHIMX64.EFI", "/EFI/MANY/LAST.EFI"}
			if diff := cmp.Diff(want, paths); diff != "" {
				t.Errorf("loaders (-want +got):\n%s", diff)
			}
			// A partition that was cut short.
			if _, why, err := UEFILoaders(t.Context(), f, 0, tt.size/2); err != nil || why == "" {
				t.Errorf("UEFILoaders of half = %q, %v; want a reason", why, err)
			}
		})
	}
	zeros := bytes.NewReader(make([]byte, 1<<20))
	if got, why, err := UEFILoaders(t.Context(), zeros, 0, 1<<20); err != nil || why == "" || len(got) > 0 {
		t.Errorf("UEFILoaders of zeros = %q, %q, %v", got, why, err)
	}
}

// Whatever is in a FAT: no panic, no error but of the reader, and an end.
func FuzzFAT(f *testing.F) {
	bases := map[byte][]byte{}
	for i, flags := range [][]string{{"-F", "12"}, {"-F", "16", "-s", "1"}, {"-F", "32", "-s", "1"}} {
		image := makeESP(f, []int64{2 << 20, 5 << 20, 36 << 20}[i], flags...)
		b, err := os.ReadFile(image)
		if err != nil {
			f.Fatal(err)
		}
		bases[byte(i)] = b
		f.Add(byte(i), uint32(11), []byte{0, 2}, uint32(512), []byte{0xff})
		f.Add(byte(i), uint32(17), []byte{0xff, 0xff}, uint32(44), []byte{2})
	}
	f.Fuzz(func(t *testing.T, kind byte, at1 uint32, b1 []byte, at2 uint32, b2 []byte) {
		base := bases[kind%3]
		p := &patch{base, map[int64][]byte{}}
		p.put(int64(at1)%(256<<10), b1)
		p.put(int64(at2)%(256<<10), b2)
		loaders, _, err := UEFILoaders(context.Background(), p, 0, int64(len(base)))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range loaders {
			b := make([]byte, 100)
			for _, off := range []int64{0, 8000, 1 << 31} {
				if n, err := l.ReadAt(b, off); n < len(b) && err == nil {
					t.Fatalf("%s: %d bytes at %d without an error", l.Path, n, off)
				}
			}
		}
	})
}
