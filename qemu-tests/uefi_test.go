package qemutests

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/vm"
)

// The same story by UEFI, with a smaller GPT image: OVMF finds the loaders of both
// systems, and the new table has its backup at the end of this disk.
func TestUEFI(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	k := build(t, scenario.Spec{UEFI: true, New: func(n *lab.KioskSpec) { n.BootScript = scenario.ShowScript }})
	old := map[int]map[string]lab.Entry{lab.KioskRoot: tree(t, k.Disk, lab.KioskRoot), lab.KioskLog: tree(t, k.Disk, lab.KioskLog)}
	guest := start(t, vm.Config{Drives: []vm.Drive{k.Drive()}, UEFI: k.Firmware})
	for _, text := range []string{k.Old.Banner(), "armed; rebooting now", saysNoUEFI,
		"the backup of the GPT will be at the end of the disk", "cast off /dev/sda", "stage read back", "stage land",
		k.New.Banner(), "new: kiosk-0042 " + k.Old.MachineID(), k.New.Done()} {
		wait(ctx, t, guest, text)
	}
	waitExit(ctx, t, guest) // it powers off

	checkTable(t, k.NewRaw, k.Disk)
	esp := partition(t, k.NewRaw, lab.KioskESP)
	if got := partition(t, k.Disk, lab.KioskESP); !bytes.Equal(got, esp) {
		t.Error("the EFI system partition is not the image's")
	}
	for _, partition := range []int{lab.KioskBoot, lab.KioskRoot, lab.KioskData, lab.KioskLog} {
		want, got := tree(t, k.NewRaw, partition), tree(t, k.Disk, partition)
		expectRetained(k, want, old[partition], partition)
		forget(want, got, partition)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("partition %d (-want +got):\n%s", partition, diff)
		}
	}
	checkRecord(t, recordOf(t, k.Disk, lab.KioskLog, "/log/record.json"))
}

// checkTable holds a disk's GPT to the image's, and asks two tools about it.
func checkTable(t *testing.T, image, disk string) {
	t.Helper()
	want, err := lab.ReadTable(t.Context(), image)
	must(t, err)
	got, err := lab.ReadTable(t.Context(), disk)
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("partition table (-want +got):\n%s", diff)
	}
	for _, tool := range [][2]string{{"sgdisk", "No problems found"}, {"sfdisk", "No errors detected"}} {
		out, err := exec.Command(tool[0], "--verify", disk).CombinedOutput()
		if err != nil || !strings.Contains(string(out), tool[1]) {
			t.Errorf("%s --verify: %v\n%s", tool[0], err, out)
		}
	}
}

// partition reads all of a partition.
func partition(t *testing.T, disk string, number int) []byte {
	t.Helper()
	table, err := lab.ReadTable(t.Context(), disk)
	must(t, err)
	e, err := table.Entry(number)
	must(t, err)
	f, err := os.Open(disk)
	must(t, err)
	defer f.Close()
	content := make([]byte, e.Size)
	_, err = f.ReadAt(content, e.Offset)
	must(t, err)
	return content
}

// The power is cut when all of the new system is written but what firmware finds it by:
// OVMF starts nothing from the disk, neither the new system nor the old.
func TestUEFICutBootsNothing(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	k := build(t, scenario.Spec{UEFI: true})
	// OVMF starts the initrd itself, which needs no job with this configuration. A loaded
	// host lets the kernel think that an emulated timer stands still: no_timer_check.
	guest := start(t, vm.Config{Drives: []vm.Drive{k.Drive()}, UEFI: k.Firmware, Kernel: k.Kernel.Image, Initrd: k.Initrd, Append: lab.KioskConsoles + " no_timer_check"})
	wait(ctx, t, guest, "stage read back")
	guest.Kill()

	disk, err := os.ReadFile(k.Disk)
	must(t, err)
	image, err := os.ReadFile(k.NewRaw)
	must(t, err)
	for what, off := range map[string]int{"header": 512, "backup header": len(disk) - 512} {
		if !bytes.Equal(disk[off:off+512], make([]byte, 512)) {
			t.Errorf("there is a GPT %s", what)
		}
	}
	if !bytes.Equal(disk[446:510], make([]byte, 64)) {
		t.Error("there is a partition table in sector 0")
	}
	table, err := lab.ReadTable(ctx, k.NewRaw)
	must(t, err)
	esp, err := table.Entry(lab.KioskESP)
	must(t, err)
	if from, to := esp.Offset, esp.Offset+esp.Size; !bytes.Equal(disk[from:to], image[from:to]) {
		t.Error("the new loader is not on the disk yet: the cut proves nothing")
	}

	guest = start(t, vm.Config{Drives: []vm.Drive{k.Drive()}, UEFI: k.Firmware, NoReboot: true})
	wait(ctx, t, guest, "UEFI Interactive Shell")
	// The serial number of the disk, which the firmware names, begins with KIOSK, too.
	if console := guest.Console.Bytes(); bytes.Contains(console, []byte("KIOSK n")) || bytes.Contains(console, []byte("KIOSK o")) || bytes.Contains(console, []byte("GRUB")) || bytes.Contains(console, []byte("Linux version")) {
		t.Error("something was started from the disk")
	}
}
