package boot

import (
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
// sector.
func lifeboatDisk(t *testing.T, core *LifeboatCore) (disk string, bootSector []byte) {
	t.Helper()
	disk = filepath.Join(t.TempDir(), "disk")
	writeFile(t, disk, "")
	return disk, board(t, disk, core)
}

// board puts a berth onto a disk. The initrds say which copy they are.
func board(t *testing.T, disk string, core *LifeboatCore) (bootSector []byte) {
	t.Helper()
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
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
	return bootSector
}

// putSector0 casts off: the lifeboat is what a BIOS boots.
func putSector0(t *testing.T, disk string, bootSector []byte) {
	t.Helper()
	sector, err := LifeboatSector(bootSector, sector0(512))
	if err != nil {
		t.Fatal(err)
	}
	writeAt(t, disk, 0, sector)
}

func writeAt(t *testing.T, file string, offset int64, content []byte) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(content, offset); err != nil {
		t.Fatal(err)
	}
}

// unreadable has QEMU fail to read sectors of a disk.
func unreadable(t *testing.T, disk string, sectors ...int64) []string {
	t.Helper()
	return faulty(t, disk, "read", sectors...)
}

// faulty has QEMU fail to read or to write sectors of a disk.
func faulty(t *testing.T, disk, what string, sectors ...int64) []string {
	t.Helper()
	type object = map[string]any
	file := object{"driver": "blkdebug", "image": object{"driver": "file", "filename": disk}}
	var rules []object
	for _, s := range sectors {
		rules = append(rules, object{"event": "none", "iotype": what, "errno": 5, "sector": s})
	}
	if rules != nil { // QEMU takes no empty list
		file["inject-error"] = rules
	}
	blockdev, err := json.Marshal(object{"driver": "raw", "node-name": "disk", "file": file})
	if err != nil {
		t.Fatal(err)
	}
	return []string{"-blockdev", string(blockdev), "-device", "ide-hd,drive=disk"}
}

// lifeboatSays is the command line of its kernel, which GRUB has put BOOT_IMAGE before.
const lifeboatSays = ` quiet reimager.lifeboat=RUN7@65537 "a=$b {c}"`

// TestLifeboatBoots starts a disk of which nothing is left but sector 0 and the berth.
func TestLifeboatBoots(t *testing.T) {
	core := lifeboatCore(t)
	const kernel, initrd = berthSector + berthKernels, berthSector + berthKernels + 2*berthStep
	for _, tt := range []struct {
		name string
		bad  []int64
		want string // "": the machine starts again
	}{
		{"all is well", nil, lifeboatSays + "~initrd 1~"},
		{"first kernel unreadable", []int64{kernel}, lifeboatSays + "~initrd 1~"},
		{"first kernel unreadable in the middle", []int64{kernel + 5}, lifeboatSays + "~initrd 1~"},
		{"first initrd unreadable", []int64{initrd}, lifeboatSays + "~initrd 2~"},
		{"first kernel and first initrd unreadable", []int64{kernel, initrd}, lifeboatSays + "~initrd 2~"},
		{"first kernel and second initrd unreadable", []int64{kernel, initrd + berthStep}, lifeboatSays + "~initrd 1~"},
		{"both kernels unreadable", []int64{kernel, kernel + berthStep}, ""},
		{"both initrds unreadable", []int64{initrd, initrd + berthStep}, ""},
		{"script unreadable", []int64{berthSector + berthScript}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			disk, bootSector := lifeboatDisk(t, core)
			putSector0(t, disk, bootSector)
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

// TestLifeboatOnSecondDisk has firmware number the disk as its second.
func TestLifeboatOnSecondDisk(t *testing.T) {
	core := lifeboatCore(t)
	disk, bootSector := lifeboatDisk(t, core)
	putSector0(t, disk, bootSector)

	dir := t.TempDir()
	config, other, front := filepath.Join(dir, "config"), filepath.Join(dir, "core.img"), filepath.Join(dir, "front")
	writeFile(t, config, "set root=hd1\nchainloader (hd1)+1\nboot\n")
	run(t, "grub-mkimage", "-O", "i386-pc", "-c", config, "-o", other, "-p", "/", "biosdisk", "chain", "boot")
	writeFile(t, front, readFile(t, grubModuleDir+"/boot.img")[:440]+strings.Repeat("\x00", 70)+"\x55\xaa"+readFile(t, other))
	if err := os.Truncate(front, 1<<20); err != nil {
		t.Fatal(err)
	}
	m := startMachine(t, append([]string{"-drive", "file=" + front + ",format=raw"}, unreadable(t, disk)...)...)
	m.waitSerial("BOOT_IMAGE=(hd1)")
	m.waitSerial(lifeboatSays + "~initrd 1~")
}

// TestGRUBProvesLifeboat has the old system's GRUB start the lifeboat, once.
func TestGRUBProvesLifeboat(t *testing.T) {
	core := lifeboatCore(t)
	const old = "OLD SYSTEM BOOTS from hd0,msdos1"
	const kernel = berthSector + berthKernels
	gateSector := func(t *testing.T, disk string, offset int64) int64 {
		t.Helper()
		var block int64
		at := run(t, "debugfs", "-R", "bmap "+testEntry().Gate+" 0", systemOf(t, disk, offset))
		if _, err := fmt.Sscan(at[strings.Index(at, "\n")+1:], &block); err != nil {
			t.Fatalf("%v: %q", err, at)
		}
		return offset/SectorBytes + block*2 // of 1 KiB, as mkfs.ext4 makes them on so small a disk
	}
	for _, tt := range []struct {
		name    string
		runID   string
		noBerth bool
		faults  func(t *testing.T, disk string, offset int64) []string
		want    string
		gate    GateState // afterwards
	}{
		{"starts it once", "RUN7", false, func(t *testing.T, disk string, _ int64) []string { return unreadable(t, disk) },
			lifeboatSays + "~initrd 1~", GateTried},
		{"no kernel can be read", "RUN7", false, func(t *testing.T, disk string, _ int64) []string {
			return unreadable(t, disk, kernel, kernel+berthStep)
		}, old, GateTried},
		{"nothing in the berth", "RUN7", true, func(t *testing.T, disk string, _ int64) []string { return unreadable(t, disk) },
			old, GateTried},
		{"the gate cannot be written", "RUN7", false, func(t *testing.T, disk string, offset int64) []string {
			return faulty(t, disk, "write", gateSector(t, disk, offset))
		}, old, GateProve},
		{"another run", "RUN8", false, func(t *testing.T, disk string, _ int64) []string { return unreadable(t, disk) },
			old, GateProve},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root, grub := grubRoot(t)
			entry := testEntry()
			writeFile(t, filepath.Join(root, "boot/grub/grub.cfg"), oldSystem)
			writeFile(t, filepath.Join(root, entry.Kernel), string(speakingKernel()))
			writeFile(t, filepath.Join(root, entry.Initrd), "initrd")
			writeFile(t, filepath.Join(root, "boot/old"), string(speakingKernel()))
			writeFile(t, filepath.Join(root, entry.Gate), string(testGate(t, tt.runID, GateProve)))
			checkError(t, grub.InstallEntry(entry), "")
			disk, offset := grubDisk(t, root, entry.FSUUID)
			board(t, disk, core)
			if tt.noBerth {
				writeAt(t, disk, berthSector*SectorBytes, make([]byte, SectorBytes))
			}

			// A lifeboat that does not boot starts the machine again by itself.
			m := startMachine(t, tt.faults(t, disk, offset)...)
			m.waitSerial(tt.want)
			said := m.quit()
			if tt.want == old && strings.Contains(said, lifeboatSays) {
				t.Errorf("serial port said %q; want nothing of the lifeboat's kernel", said)
			}
			gate := []byte(onDisk(t, systemOf(t, disk, offset), entry.Gate))
			if got, berth, err := ReadGate(tt.runID, gate); got != tt.gate || berth != berthSector || err != nil {
				t.Errorf("gate afterwards: %q, %d, %v; want %q, %d", got, berth, err, tt.gate, berthSector)
			}
			if tt.gate == GateTried {
				startVM(t, disk).waitSerial(old)
			}
		})
	}
}
