package filesystem

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"reimager/disk"
)

// fuzzPatches changes a filesystem in up to two places, in the 4 KiB behind one of
// those named, lets checksums be repaired, and asks everything of it.
func fuzzPatches(f *testing.F, image, kind string, places []int64, repair func(p *patch)) {
	base := readImage(f, image).base
	if err := os.Remove(image); err != nil {
		f.Fatal(err)
	}
	for i := range places {
		f.Add(byte(i), uint16(0), []byte{3}, byte(i), uint16(100), []byte{0, 1})
		f.Add(byte(i), uint16(40), []byte{0xff}, byte(0), uint16(0), []byte{})
	}
	f.Fuzz(func(t *testing.T, place1 byte, at1 uint16, b1 []byte, place2 byte, at2 uint16, b2 []byte) {
		p := &patch{base, map[int64][]byte{}}
		size := int64(len(base))
		p.put(places[int(place1)%len(places)]+int64(at1%4096), b1)
		p.put(places[int(place2)%len(places)]+int64(at2%4096), b2)
		repair(p)
		free, err := Unallocated(context.Background(), p, 0, size, disk.Filesystem{Type: kind})
		if err != nil {
			t.Fatal(err)
		}
		sound(t, free, size)
		l := &look{p: &partition{ctx: context.Background(), r: p, size: size}}
		for _, step := range l.steps(kind)[:1] {
			_ = step()
		}
		if strings.HasPrefix(kind, "ext") {
			_ = l.extFiles()
		}
	})
}

func FuzzExt(f *testing.F) {
	dir := f.TempDir()
	makeRoot(f, dir)
	image := newImage(f, 4<<20)
	// Without checksums, so that a change gets past them.
	tool(f, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-g", "1024", "-O", "^metadata_csum,^has_journal", "-d", dir, image)
	fuzzPatches(f, image, "ext4", []int64{0, 4 << 10, 8 << 10, 12 << 10, 40 << 10, 200 << 10}, func(*patch) {})
}

func FuzzExt3(f *testing.F) {
	dir := f.TempDir()
	makeRoot(f, dir)
	image := newImage(f, 4<<20)
	tool(f, "mke2fs", "-q", "-F", "-t", "ext2", "-b", "1024", "-d", dir, image)
	fuzzPatches(f, image, "ext2", []int64{0, 4 << 10, 20 << 10, 24 << 10, 200 << 10}, func(*patch) {})
}

func FuzzXFS(f *testing.F) {
	image := newImage(f, 32<<20)
	for _, name := range []string{"TEST_DIR", "TEST_DEV", "QA_CHECK_FS"} {
		f.Setenv(name, "x")
	}
	tool(f, "mkfs.xfs", "-q", "-m", "crc=0", "-l", "size=6m", image) // version 4 has no checksums
	fuzzPatches(f, image, "xfs", []int64{0, 4 << 10, 8 << 10}, func(*patch) {})
}

func FuzzBtrfs(f *testing.F) {
	image := newImage(f, 120<<20)
	tool(f, "mkfs.btrfs", "-q", image)
	// The trees of roots, of chunks and of extents.
	p := readImage(f, image)
	b, err := (&partition{ctx: context.Background(), r: p, size: int64(len(p.base))}).openBtrfs()
	if err == nil {
		err = b.readChunks()
	}
	if err != nil {
		f.Fatal(err)
	}
	root, err := b.extentRoot()
	if err != nil {
		f.Fatal(err)
	}
	places := []int64{btrfsSuperOffset}
	for _, logical := range []uint64{binary.LittleEndian.Uint64(b.sb[80:]), binary.LittleEndian.Uint64(b.sb[88:]), root.logical} {
		at, err := b.physical(Extent{int64(logical), b.nodeSize})
		if err != nil {
			f.Fatal(err)
		}
		places = append(places, at[0].Off)
	}
	fuzzPatches(f, image, "btrfs", places, func(p *patch) {
		for _, node := range places[1:] {
			p.repair(node, int(b.nodeSize))
		}
		p.repair(btrfsSuperOffset, btrfsSuperBytes)
	})
}

func FuzzEntries(f *testing.F) {
	f.Add([]byte("\x0c\x00\x00\x00\x0c\x00\x01\x02.\x00\x00\x00\x02\x00\x00\x00\x0c\x00\x02\x02..\x00\x00"))
	f.Add(bytes.Repeat([]byte{0}, 1024))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries := map[string]uint32{}
		if parseEntries(b, entries) == nil {
			for name, number := range entries {
				if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") || number == 0 {
					t.Errorf("%q is inode %d", name, number)
				}
			}
		}
	})
}

func FuzzNumbers(f *testing.F) {
	f.Add("root:x:0:0::/root:/bin/sh\n+::::::\n:::\na:b:4294967296:\n")
	f.Fuzz(func(t *testing.T, text string) {
		for name := range numbers(text) {
			if name == "" || strings.ContainsAny(name, ":\n") {
				t.Errorf("name %q", name)
			}
		}
	})
}
