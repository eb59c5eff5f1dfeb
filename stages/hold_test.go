package stages

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"reimager/disk"
)

// What is held back depends on firmware and table: an MBR on a BIOS only loses its boot
// code, on UEFI its table, too; a GPT its headers on either.
func TestNewBootable(t *testing.T) {
	const size, sector = 1 << 20, 512
	const last = size - sector
	sector0 := bytes.Repeat([]byte{0xa5}, sector)
	sector0[510], sector0[511] = 0x55, 0xaa
	for _, e := range []int{446, 462, 478, 494} {
		clear(sector0[e : e+16])
	}
	copy(sector0[446:], []byte{0x80, 0, 2, 0, 0xef, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0})
	taken := []disk.Piece{{Off: 0, Data: sector0}, {Off: sector, Data: make([]byte, sector)}, {Off: last, Data: make([]byte, sector)}}
	d := &disk.Disk{Bytes: size, SectorSize: sector}
	for _, tt := range []struct {
		uefi             bool
		held, tableThere bool
		lands            []int64
	}{
		{uefi: false, held: false, tableThere: true, lands: []int64{0}},
		{uefi: true, held: true, tableThere: false, lands: []int64{last, sector, 0}},
	} {
		b, err := newBootable(tt.uefi, "mbr", d, bytes.NewReader(nil), taken)
		if err != nil {
			t.Fatal(err)
		}
		if b.TableHeld != tt.held || bytes.Equal(b.Holding[446:510], sector0[446:510]) != tt.tableThere || b.Holding[510] != 0x55 {
			t.Errorf("UEFI %v: table held %v, in the holding sector %x", tt.uefi, b.TableHeld, b.Holding[446:])
		}
		var lands []int64
		for _, p := range b.Land {
			lands = append(lands, p.Off)
		}
		if bytes.Equal(b.Holding[:440], sector0[:440]) || !slices.Equal(lands, tt.lands) || !bytes.Equal(b.Land[len(lands)-1].Data, sector0) || len(b.Image) != len(lands) {
			t.Errorf("UEFI %v: an MBR lands at %d; want %d", tt.uefi, lands, tt.lands)
		}
	}
	if _, err := newBootable(false, "gpt", d, bytes.NewReader(make([]byte, size)), taken); err == nil {
		t.Error("newBootable of a GPT that is none = nil")
	}
	if _, err := newBootable(false, "mbr", d, bytes.NewReader(nil), nil); err == nil {
		t.Error("newBootable of an image without its first sector = nil")
	}
}

// A GPT lands with its header after the backup and sector 0 last of all, whatever the
// firmware.
func TestNewBootableGPT(t *testing.T) {
	image := gptDisk(t, 4<<20)
	var taken []disk.Piece
	for _, off := range []int64{0, 512, 4<<20 - 512} {
		taken = append(taken, disk.Piece{Off: off, Data: image[off : off+512]})
	}
	for _, uefi := range []bool{false, true} {
		for _, tt := range []struct {
			disk int64
			want []int64
		}{
			{4 << 20, []int64{4<<20 - 512, 512, 0}},
			{8 << 20, []int64{8<<20 - 33*512, 8<<20 - 512, 512, 0}},
		} {
			here := taken
			if tt.disk > 4<<20 {
				here = taken[:2]
			}
			b, err := newBootable(uefi, "gpt", &disk.Disk{Bytes: tt.disk, SectorSize: 512}, bytes.NewReader(image), here)
			if err != nil {
				t.Fatal(err)
			}
			var got []int64
			for _, p := range b.Land {
				got = append(got, p.Off)
			}
			if !slices.Equal(got, tt.want) || !b.TableHeld {
				t.Errorf("UEFI %v, disk of %d bytes: lands at %d, table held %v; want %d, true", uefi, tt.disk, got, b.TableHeld, tt.want)
			}
		}
	}
}

func gptDisk(t *testing.T, size int64) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	sfdisk := exec.Command("sfdisk", path)
	sfdisk.Stdin = strings.NewReader("label: gpt\nsize=1MiB\n")
	if out, err := sfdisk.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return image
}
