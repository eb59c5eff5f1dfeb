package media

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestPlainNames(t *testing.T) {
	for _, tt := range []struct {
		names []string
		want  string // in the error; "": none
	}{
		{[]string{"manifest.json", "image.zst", "image.bmap", "kernel", "initrd"}, ""},
		{[]string{"kernel", "Kernel"}, `"Kernel"`},
		{[]string{"ker:nel"}, `"ker:nel"`},
		{[]string{"kernél"}, `"kernél"`},
		{[]string{".."}, `".."`},
		{[]string{""}, `""`},
	} {
		err := plainNames(tt.names)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("plainNames(%q) = %v; want an error with %q", tt.names, err, tt.want)
		}
	}
}

// What is missing is named all at once, with its packages.
func TestMissingTools(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := findTools(t.TempDir())
	if err == nil {
		t.Fatal("findTools: no error without any tool")
	}
	for _, what := range []string{"grub-mkimage", biosPlatform, uefiPlatform, "mkfs.vfat", "mcopy", "mmd"} {
		if !strings.Contains(err.Error(), what) {
			t.Errorf("findTools: %v; want it to name %s", err, what)
		}
	}
}

// A stick's frame is a table of one active FAT32 partition, boot code, and files that
// mtools and fsck read back.
func TestFrame(t *testing.T) {
	tools, err := findTools("/usr/lib/grub")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	content := bytes.Repeat([]byte("seventeen bytes. "), 1<<18)
	from := filepath.Join(dir, "from")
	stick := filepath.Join(dir, "stick.img")
	if err := errors.Join(os.WriteFile(from, content, 0o600), os.WriteFile(stick, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	m := &maker{Result: &Result{VolumeID: "0123-ABCD"}, tools: tools, work: dir, files: []file{{uefiLoader, from}, {releaseDir + "/image.zst", from}}}
	size, err := m.fatBytes()
	if err != nil {
		t.Fatal(err)
	}
	core, err := tools.makeGRUB(t.Context(), dir, biosPlatform, m.VolumeID)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Truncate(stick, partStart+size), m.writeFAT(t.Context(), stick, size)); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(stick, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := tools.writeBoot(f, core, 0xfeedbeef, size); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, sectorBytes)
	if _, err := f.ReadAt(first, 0); err != nil {
		t.Fatal(err)
	}
	if got := binary.LittleEndian.Uint32(first[diskSignature:]); got != 0xfeedbeef {
		t.Errorf("disk signature %#x; want 0xfeedbeef", got)
	}
	out, err := exec.Command("sfdisk", "--dump", stick).Output()
	if err != nil || !strings.Contains(string(out), "type=c, bootable") {
		t.Errorf("sfdisk: %v, %s; want one bootable partition of type c", err, out)
	}
	part := filepath.Join(dir, "part")
	all, err := os.ReadFile(stick)
	if err == nil {
		err = os.WriteFile(part, all[partStart:], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("fsck.vfat", "-n", part).CombinedOutput(); err != nil {
		t.Errorf("fsck.vfat: %v\n%s", err, out)
	}
	got, err := exec.Command("mtype", "-i", stick+"@@1M", "::"+releaseDir+"/image.zst").Output()
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("mtype: %v, %d bytes; want the %d that were copied", err, len(got), len(content))
	}
}

// A core that does not fit before the partition is refused.
func TestCoreTooLarge(t *testing.T) {
	tools := &tools{grub: "/usr/lib/grub"}
	for _, n := range []int{0, sectorBytes, partStart - sectorBytes + 1} {
		if err := tools.writeBoot(nil, make([]byte, n), 0, mib); err == nil {
			t.Errorf("writeBoot took a core of %d bytes", n)
		}
	}
}

// Nothing is left where a stick cannot be made.
func TestNothingIsLeft(t *testing.T) {
	dir := t.TempDir()
	release := filepath.Join(dir, "release")
	if err := os.Mkdir(release, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Make(context.Background(), Options{Release: release, Output: filepath.Join(dir, "stick.img"), GRUB: "/usr/lib/grub"}); err == nil || !strings.Contains(err.Error(), "manifest.json") {
		t.Errorf("Make of an empty release: %v; want the manifest to be missed", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left in %s: %v, %v; want the release alone", dir, left, err)
	}
}
