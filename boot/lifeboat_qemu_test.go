package boot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const grubModuleDir = "/usr/lib/grub/i386-pc"

// lifeboatImages makes boot.img and core.img as imagebuild bakes them.
func lifeboatImages(t *testing.T) (bootImg, coreImg []byte) {
	t.Helper()
	needGRUB(t)
	dir := t.TempDir()
	config, core := filepath.Join(dir, "config"), filepath.Join(dir, "core.img")
	writeFile(t, config, LifeboatConfig())
	run(t, "grub-mkimage", append([]string{"-O", "i386-pc", "-c", config, "-o", core, "-p", "/"}, LifeboatModules()...)...)
	return []byte(readFile(t, grubModuleDir+"/boot.img")), []byte(readFile(t, core))
}

func needGRUB(t *testing.T) {
	t.Helper()
	needTool(t, "grub-mkimage")
	if !fileExists(grubModuleDir + "/boot.img") {
		skipOrFail(t, "this test needs GRUB's modules for BIOS in "+grubModuleDir+" (package grub-pc-bin)")
	}
}

func lifeboatCore(t *testing.T) *LifeboatCore {
	t.Helper()
	bootImg, coreImg := lifeboatImages(t)
	core, err := ParseLifeboatCore(bootImg, coreImg)
	if err != nil {
		t.Fatal(err)
	}
	return core
}

// Where things lie in the berth of these tests, in sectors from its start. The berth
// is somewhere in the middle of a disk, and its numbers have zeros and an odd last digit.
const (
	berthSector  = 0x10001
	berthScript  = 0x80
	berthCore    = 0x90
	berthKernels = 0x400 // and the second behind it, the initrds behind that
	berthStep    = 0x40
)

// lifeboatDisk makes a disk that is zeros but for a berth, and returns the berth's boot
// sector. The initrds say which copy they are.
func lifeboatDisk(t *testing.T, core *LifeboatCore) (disk string, bootSector []byte) {
	t.Helper()
	disk = filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	put := func(sector int64, content []byte) Blocks {
		if _, err := f.WriteAt(content, (berthSector+sector)*SectorBytes); err != nil {
			t.Fatal(err)
		}
		return Blocks{berthSector + sector, int64(sectors(len(content)))}
	}
	var kernels, initrds [2]Blocks
	for i := range kernels {
		kernels[i] = put(berthKernels+int64(i)*berthStep, speakingKernel())
		initrds[i] = put(berthKernels+int64(2+i)*berthStep, fmt.Appendf(nil, "initrd %d\x00", i+1))
	}
	text, err := LifeboatScript(kernels, initrds, []string{"quiet", LifeboatParameter + "=RUN7@65537", "a=$b {c}"})
	if err != nil {
		t.Fatal(err)
	}
	script := put(berthScript, []byte(text))
	made, bootSector, err := core.Make(script, berthSector+berthCore)
	if err != nil {
		t.Fatal(err)
	}
	put(berthCore, made)
	put(0, bootSector)
	return disk, bootSector
}

// unreadable has QEMU fail to read sectors of a disk.
func unreadable(t *testing.T, disk string, sectors ...int64) []string {
	t.Helper()
	type object = map[string]any
	faulty := object{"driver": "blkdebug", "image": object{"driver": "file", "filename": disk}}
	var rules []object
	for _, s := range sectors {
		rules = append(rules, object{"event": "none", "iotype": "read", "errno": 5, "sector": s})
	}
	if rules != nil { // QEMU takes no empty list
		faulty["inject-error"] = rules
	}
	blockdev, err := json.Marshal(object{"driver": "raw", "node-name": "disk", "file": faulty})
	if err != nil {
		t.Fatal(err)
	}
	return []string{"-blockdev", string(blockdev), "-device", "ide-hd,drive=disk"}
}

// TestLifeboatBoots starts a disk of which nothing is left but sector 0 and the berth.
func TestLifeboatBoots(t *testing.T) {
	core := lifeboatCore(t)
	const cmdline = ` quiet reimager.lifeboat=RUN7@65537 "a=$b {c}"`
	const kernel, initrd = berthSector + berthKernels, berthSector + berthKernels + 2*berthStep
	for _, tt := range []struct {
		name string
		bad  []int64
		want string // "": the machine starts again
	}{
		{"all is well", nil, cmdline + "~initrd 1~"},
		{"first kernel unreadable", []int64{kernel}, cmdline + "~initrd 1~"},
		{"first kernel unreadable in the middle", []int64{kernel + 5}, cmdline + "~initrd 1~"},
		{"first initrd unreadable", []int64{initrd}, cmdline + "~initrd 2~"},
		{"first kernel and first initrd unreadable", []int64{kernel, initrd}, cmdline + "~initrd 2~"},
		{"first kernel and second initrd unreadable", []int64{kernel, initrd + berthStep}, cmdline + "~initrd 1~"},
		{"both kernels unreadable", []int64{kernel, kernel + berthStep}, ""},
		{"both initrds unreadable", []int64{initrd, initrd + berthStep}, ""},
		{"script unreadable", []int64{berthSector + berthScript}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			disk, bootSector := lifeboatDisk(t, core)
			sector, err := LifeboatSector(bootSector, sector0(512))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(sector[440:], sector0(512)[440:]) {
				t.Errorf("disk signature and table are not the image's: %x", sector[440:])
			}
			f, err := os.OpenFile(disk, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(sector, 0); err != nil {
				t.Fatal(err)
			}
			m := startMachine(t, append(unreadable(t, disk, tt.bad...), "-no-reboot")...)
			if tt.want != "" {
				m.waitSerial(tt.want)
				return
			}
			said, err := io.ReadAll(m.serial)
			if err != nil || strings.Contains(string(said), "~") {
				t.Errorf("serial port said %q, %v; want a reboot and no kernel", said, err)
			}
		})
	}
}
