package boot

import (
	"bytes"
	"encoding/binary"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz/lzma"
)

// TestParseLifeboatCore holds what is expected of GRUB's images against real ones.
func TestParseLifeboatCore(t *testing.T) {
	bootImg, coreImg := lifeboatImages(t)
	if _, err := ParseLifeboatCore(bootImg, coreImg); err != nil {
		t.Fatal(err)
	}
	with := func(b []byte, at int, content ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], content)
		return b
	}
	for _, tt := range []struct {
		name       string
		boot, core []byte
		want       string
	}{
		{"no boot.img", nil, coreImg, "boot.img: 0 bytes"},
		{"boot.img without signature", with(bootImg, 511, 0), coreImg, "55 AA"},
		{"boot.img without a jump", with(bootImg, 0, 0xfa), coreImg, "expected a jump"},
		{"boot.img with a parameter block", with(bootImg, 0x28, 'F'), coreImg, "not empty"},
		{"boot.img for another address", with(bootImg, 0x5a, 0, 0x90), coreImg, "0x9000"},
		{"boot.img that grub-install has set up", with(bootImg, 0x66, 0x90), coreImg, "0x90 at 0x66"},
		{"no core.img", bootImg, nil, "core.img: 0 bytes"},
		{"core.img cut short", bootImg, coreImg[:len(coreImg)-SectorBytes], "block list"},
		{"core.img too large", bootImg, make([]byte, coreMax+1), "expected"},
		{"core.img for another segment", bootImg, with(coreImg, coreList+10, 0, 0x10), "segment 0x1000"},
		{"core.img in two pieces", bootImg, with(coreImg, coreListBefore+8, 1), "more than one entry"},
		{"core.img that says too much", bootImg, with(coreImg, coreCompressed+3, 1), "compressed bytes"},
		{"core.img for a partition", bootImg, with(coreImg, coreBootDevice, 0, 0, 0), "partition"},
		{"an ELF", bootImg, append([]byte("\x7fELF"), make([]byte, 1<<16)...), "block list"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseLifeboatCore(tt.boot, tt.core)
			checkError(t, err, tt.want)
		})
	}
}

// TestLifeboatConfigIsInCore unpacks a core: it runs what is expected, and nothing in it
// knows a disk by its number.
func TestLifeboatConfigIsInCore(t *testing.T) {
	_, coreImg := lifeboatImages(t)
	compressed := binary.LittleEndian.Uint32(coreImg[coreCompressed:])
	plain := binary.LittleEndian.Uint32(coreImg[coreCompressed+4:])
	// grub-mkimage's settings (util/mkimage.c, compress_kernel_lzma): lc=3, lp=0, pb=2.
	header := binary.LittleEndian.AppendUint32([]byte{(2*5+0)*9 + 3}, 1<<16)
	header = binary.LittleEndian.AppendUint64(header, uint64(plain))
	r, err := lzma.NewReader(io.MultiReader(bytes.NewReader(header), bytes.NewReader(coreImg[len(coreImg)-int(compressed):])))
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(content, []byte(LifeboatConfig())) {
		t.Errorf("%d bytes have no configuration", len(content))
	}
	if bytes.Contains(content, []byte("(hd0")) {
		t.Error("(hd0 is in the core")
	}
}

// TestLifeboatMake lists each byte that differs from GRUB's images.
func TestLifeboatMake(t *testing.T) {
	bootImg, coreImg := lifeboatImages(t)
	c, err := ParseLifeboatCore(bootImg, coreImg)
	if err != nil {
		t.Fatal(err)
	}
	core, sector, err := c.Make(Blocks{0x123456789, 9}, 0x1122334455)
	if err != nil {
		t.Fatal(err)
	}
	wantCore := append(bytes.Clone(coreImg), make([]byte, len(core)-len(coreImg))...)
	copy(wantCore[0x1f4:], "\x56\x44\x33\x22\x11\x00\x00\x00")
	if !bytes.Equal(core, wantCore) || len(core)%SectorBytes != 0 || int64(len(core)) != c.Bytes() {
		t.Errorf("core of %d bytes (%d) differs from GRUB's in more than the sector behind it", len(core), c.Bytes())
	}
	want := bytes.Clone(bootImg)
	copy(want[0x5c:], "\x55\x44\x33\x22\x11\x00\x00\x00")
	copy(want[0x66:], "\x90\x90")
	copy(want[0x28:], "reimager\x78\x56\x34\x12\x09\x09")
	copy(want[440:], make([]byte, 70))
	if diff := cmp.Diff(want, sector); diff != "" {
		t.Errorf("boot sector (-want +got):\n%s", diff)
	}
	again, sectorAgain, err := c.Make(Blocks{0x123456789, 9}, 0x1122334455)
	if err != nil || !bytes.Equal(core, again) || !bytes.Equal(sector, sectorAgain) {
		t.Errorf("the same input gives other bytes: %v", err)
	}
	if !IsHolding(sector) {
		t.Error("IsHolding does not know it")
	}
	whole, err := LifeboatSector(sector, sector0(512))
	if err != nil {
		t.Fatal(err)
	}
	if want := append(bytes.Clone(sector[:440]), sector0(512)[440:]...); !bytes.Equal(whole, want) || !IsHolding(whole) {
		t.Errorf("LifeboatSector = %x; want %x", whole, want)
	}
}

func TestLifeboatRefuses(t *testing.T) {
	bootImg, coreImg := lifeboatImages(t)
	c, err := ParseLifeboatCore(bootImg, coreImg)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		script Blocks
		core   int64
		want   string
	}{
		{"script in sector 0", Blocks{0, 1}, 100, "none of a disk"},
		{"no script", Blocks{1, 0}, 100, "none of a disk"},
		{"script too long", Blocks{1, 256}, 100, "at most 255 sectors"},
		{"longest script", Blocks{1, 255}, 1000, ""},
		{"script too far away", Blocks{1 << 36, 1}, 100, "below 32 TiB"},
		{"script as far away as can be", Blocks{1<<36 - 1, 1}, 100, ""},
		{"core in sector 0", Blocks{1, 1}, 0, "none of a disk"},
		{"core before the disk", Blocks{1, 1}, -1, "none of a disk"},
	} {
		_, _, err := c.Make(tt.script, tt.core)
		t.Run(tt.name, func(t *testing.T) { checkError(t, err, tt.want) })
	}
	_, sector, err := c.Make(Blocks{1, 1}, 8)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name        string
		boot, image []byte
		want        string
	}{
		{"GRUB's own boot.img", bootImg, sector0(512), "not a lifeboat's"},
		{"4096-byte sectors", sector, sector0(4096), "4096 bytes"},
		{"no signature", sector, make([]byte, 512), "55 AA"},
	} {
		_, err := LifeboatSector(tt.boot, tt.image)
		t.Run(tt.name, func(t *testing.T) { checkError(t, err, tt.want) })
	}
}

// TestLifeboatMarkIsFree shows that boot.img never refers to the bytes that are ours: no
// instruction names an address between them, and no displacement from the scratch space
// at 0x7c05 reaches that far.
func TestLifeboatMarkIsFree(t *testing.T) {
	bootImg, _ := lifeboatImages(t)
	for at := lifeboatMarkAt; at < lifeboatUsedEnd; at++ {
		address := binary.LittleEndian.AppendUint16(nil, uint16(holdingOrigin+at))
		if i := bytes.Index(bootImg, address); i >= 0 {
			t.Errorf("boot.img names address %x at %#x", address, i)
		}
	}
	// Geometry and address packet: boot.S, INT 13h AH=42h.
	const scratch = 0x05 + 0x10
	if lifeboatMarkAt <= scratch || lifeboatUsedEnd > grubBPBEnd {
		t.Errorf("bytes %#x to %#x are not between scratch space and code", lifeboatMarkAt, lifeboatUsedEnd)
	}
}

func TestLifeboatScript(t *testing.T) {
	got, err := LifeboatScript([2]Blocks{{10, 2}, {20, 2}}, [2]Blocks{{30, 4}, {40, 4}}, []string{"quiet", "a=$x", "reimager.lifeboat=RUN7@65537"})
	if err != nil {
		t.Fatal(err)
	}
	want := `function lifeboat {
	if initrd ($root)30+4; then
		boot
	fi
	if initrd ($root)40+4; then
		boot
	fi
	reboot
}
if linux ($root)10+2 'quiet' 'a=$x' 'reimager.lifeboat=RUN7@65537'; then
	lifeboat
fi
if linux ($root)20+2 'quiet' 'a=$x' 'reimager.lifeboat=RUN7@65537'; then
	lifeboat
fi
reboot
`
	if diff := cmp.Diff(want+strings.Repeat("\n", SectorBytes-len(want)), got); diff != "" {
		t.Errorf("script (-want +got):\n%s", diff)
	}
}

func TestLifeboatScriptRefuses(t *testing.T) {
	good := Blocks{10, 2}
	for _, tt := range []struct {
		name    string
		kernel  Blocks
		initrd  Blocks
		cmdline []string
		want    string
	}{
		{"sector 0", Blocks{0, 2}, good, nil, "none of a disk"},
		{"empty initrd", good, Blocks{10, 0}, nil, "none of a disk"},
		{"end beyond 64 bits", good, Blocks{1 << 62, 1 << 31}, nil, "none of a disk"},
		{"quote", good, good, []string{`a="b"`}, "has a quote"},
		{"newline", good, good, []string{"a\nreboot"}, "control character"},
		{"too long", good, good, []string{strings.Repeat("x", kernelCmdlineMax-len("BOOT_IMAGE=(hd127)10+2"))}, "2048 bytes"},
		{"as long as it may be", good, good, []string{strings.Repeat("x", kernelCmdlineMax-len("BOOT_IMAGE=(hd127)10+2 "))}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text, err := LifeboatScript([2]Blocks{good, tt.kernel}, [2]Blocks{good, tt.initrd}, tt.cmdline)
			checkError(t, err, tt.want)
			if err == nil && len(text) > 0xff*SectorBytes {
				t.Errorf("%d bytes; Make takes %d", len(text), 0xff*SectorBytes)
			}
		})
	}
}

func TestLifeboatScriptIsGRUBScript(t *testing.T) {
	needTool(t, "grub-script-check")
	text, err := LifeboatScript([2]Blocks{{10, 2}, {20, 2}}, [2]Blocks{{30, 4}, {40, 4}}, awkwardEntry().Cmdline)
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "script")
	writeFile(t, script, text)
	run(t, "grub-script-check", script)
}

func FuzzParseLifeboatCore(f *testing.F) {
	f.Add(make([]byte, 512), make([]byte, 2048))
	bootImg, coreImg := fakeImages()
	f.Add(bootImg, coreImg)
	f.Fuzz(func(t *testing.T, bootImg, coreImg []byte) {
		c, err := ParseLifeboatCore(bootImg, coreImg)
		if err != nil {
			return
		}
		core, sector, err := c.Make(Blocks{1 << 35, 200}, 1<<36)
		if err != nil {
			t.Fatalf("Make: %v", err)
		}
		if !bytes.Equal(core[512:len(coreImg)], coreImg[512:]) || len(sector) != 512 || !IsHolding(sector) {
			t.Errorf("made a core of %d bytes and a boot sector %x", len(core), sector)
		}
		differing := 0
		for i := range sector[:440] {
			if sector[i] != bootImg[i] {
				differing++
			}
		}
		if most := 8 + 2 + lifeboatUsedEnd - lifeboatMarkAt; differing > most {
			t.Errorf("%d bytes of the boot code differ, expected at most %d", differing, most)
		}
	})
}

// fakeImages pass ParseLifeboatCore, without GRUB.
func fakeImages() (bootImg, coreImg []byte) {
	le := binary.LittleEndian
	bootImg, coreImg = make([]byte, 512), make([]byte, 2000)
	bootImg[0], bootImg[grubDriveCheck] = 0xeb, 0xeb
	le.PutUint16(bootImg[grubKernel:], 0x8000)
	le.PutUint16(bootImg[510:], 0xaa55)
	le.PutUint16(coreImg[coreList+8:], 3)
	le.PutUint16(coreImg[coreList+10:], coreSegment)
	le.PutUint32(coreImg[coreCompressed:], 1000)
	copy(coreImg[coreBootDevice:], "\xff\xff\xff")
	return bootImg, coreImg
}
