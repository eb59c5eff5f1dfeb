package qemutests

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/vm"
)

// A sector that cannot be written: the write is tried again, then the machine
// holds, says which sector it was, and never boots a disk that only looks whole.
// The diagnosis shell that the configuration asks for is there.
func TestBadSectorHolds(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	busybox, err := exec.LookPath("busybox")
	must(t, err)
	k := build(t, scenario.Spec{
		Config: scenario.ClassicConfig + "\n[console]\ndiagnosis = [\"tty2\"]\n",
		Flags:  []string{"--include", busybox + ":/bin/sh"},
	})
	guest := start(t, vm.Config{Drives: []vm.Drive{k.Drive()}, NoReboot: true})
	wait(ctx, t, guest, "armed; rebooting now")
	waitExit(ctx, t, guest)

	// In the new root, where the old system writes nothing at its next boot.
	table, err := lab.ReadTable(ctx, k.NewRaw)
	must(t, err)
	root, err := table.Entry(lab.KioskRoot)
	must(t, err)
	bad := root.Offset/512 + 16
	blockdev, err := vm.FaultyBlockdev(0, k.Disk, vm.Fault{Sector: bad, IOType: "write"})
	must(t, err)
	guest = start(t, vm.Config{Drives: []vm.Drive{{Blockdev: blockdev, Serial: scenario.Serial}}, NoReboot: true})
	wait(ctx, t, guest, "a diagnosis shell is on tty2")
	for attempt := 1; attempt <= 3; attempt++ {
		wait(ctx, t, guest, fmt.Sprintf("FAILED   write: write /dev/sda: sector %d: input/output error", bad))
		wait(ctx, t, guest, fmt.Sprintf("attempt %d)", attempt))
	}
	wait(ctx, t, guest, "THE MACHINE HOLDS")
	wait(ctx, t, guest, "DO NOT SWITCH IT OFF")
	waitScreen(ctx, t, guest, fmt.Sprint("sector ", bad))
	waitScreen(ctx, t, guest, "Please do not switch it off.")
	keepPicture(ctx, t, guest, "page-hold.png")
	press(ctx, t, guest, "alt-f4")
	waitScreen(ctx, t, guest, "DO NOT SWITCH IT OFF")
	guest.Kill()

	// The power was cut now: what starts is the holding code.
	guest = start(t, vm.Config{Drives: []vm.Drive{k.Drive()}, NoReboot: true})
	wait(ctx, t, guest, "reimage interrupted")
}

// A disk that fails at the very first write has not been changed: the machine
// goes back.
func TestRefusedFirstWriteGoesBack(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	k := armed(t)
	blockdev, err := vm.FaultyBlockdev(0, k.Disk, vm.Fault{Sector: 0, IOType: "write"})
	must(t, err)
	guest := start(t, vm.Config{Drives: []vm.Drive{{Blockdev: blockdev, Serial: scenario.Serial}}})
	wait(ctx, t, guest, "the disk refused the first write; nothing was changed")
	wait(ctx, t, guest, "boot the old system")
	wait(ctx, t, guest, "old: BACK AFTER A FAILED RUN")
}

// Whatever kills the worker ends in the one place that decides, and never in a
// kernel panic: before casting off the old system boots, after it the write
// begins again from RAM and the run is completed.
func TestWorkerDies(t *testing.T) {
	t.Parallel()
	init := faultyInit(t)
	for _, tt := range []struct{ fault, says, ends string }{
		{"panic@verify", "panic: a fault that a test asked for", "old: BACK AFTER A FAILED RUN"},
		{"nil@verify", "nil pointer dereference", "old: BACK AFTER A FAILED RUN"},
		{"kill@verify", "died of signal 9", "old: BACK AFTER A FAILED RUN"},
		{"panic@write-range", "panic: a fault that a test asked for", "KIOSK new 2.0 DONE"},
		{"nil@new-system-mounted", "nil pointer dereference", "KIOSK new 2.0 DONE"},
		{"kill@landed", "died of signal 9", "KIOSK new 2.0 DONE"},
	} {
		t.Run(tt.fault, func(t *testing.T) {
			t.Parallel()
			ctx := withTimeout(t)
			k := armed(t)
			rebake(t, k, scenario.ClassicConfig, "--init", init)
			addParameters(t, k, "reimager.fault="+tt.fault)
			guest := start(t, vm.Config{Drives: []vm.Drive{k.Drive()}})
			wait(ctx, t, guest, tt.says)
			wait(ctx, t, guest, tt.ends)
			if guest.Console.Contains("Kernel panic") {
				t.Error("the kernel panicked")
			}
			if strings.Contains(tt.ends, "new") {
				waitExit(ctx, t, guest)
				got := tree(t, k.Disk, lab.KioskRoot)["etc/kiosk/keys/client.key"]
				if got.UID != 880 || got.Mode != 0o600 {
					t.Errorf("client.key: owner %d, %v; want 880, -rw-------", got.UID, got.Mode)
				}
				if r := recordOf(t, k.Disk, lab.KioskLog, "/log/record.json"); r["attempts"] != 2.0 {
					t.Errorf("record: %v attempts; want 2", r["attempts"])
				}
			}
		})
	}
}

// Arming twice is arming once, and disarm takes all of it back.
func TestArmDisarm(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	k := build(t, scenario.Spec{Old: func(o *lab.KioskSpec) {
		o.After = lab.PowerOff
		o.BootScript = "#!/bin/sh\nreimager arm /data/release && reimager arm /data/release && reimager disarm && reimager disarm; echo \"ended with $?\"\n" +
			"reimager arm /data; echo \"wrong folder: $?\"; reimager arm; echo \"no folder: $?\"\n"
	}})
	before := map[int]map[string]lab.Entry{}
	for _, p := range []int{lab.KioskBoot, lab.KioskRoot} {
		before[p] = tree(t, k.Disk, p)
	}
	guest := start(t, vm.Config{Drives: []vm.Drive{k.Drive()}})
	for _, text := range []string{"ended with 0", "no kernel in it", "hint:", "wrong folder: 1", "usage:", "no folder: 2"} {
		wait(ctx, t, guest, text)
	}
	waitExit(ctx, t, guest)
	for p, was := range before {
		now := tree(t, k.Disk, p)
		for path := range now {
			if _, ok := was[path]; !ok && path != "var/lib/reimager" {
				t.Errorf("partition %d: %s is left behind", p, path)
			}
		}
		for _, path := range []string{"grub/grub.cfg", "grub/grubenv", "grub/custom.cfg"} {
			if was[path].SHA256 != now[path].SHA256 {
				t.Errorf("%s was changed", path)
			}
		}
	}
}

// With another disk in front, the kiosk's own is /dev/sdb. Its fstab says /dev/sda6:
// that is ambiguous and refused, or, once named by UUID, goes to the right disk.
// The other disk is never written to; with unmapped = "zero" nothing of the old
// system stays behind the image.
func TestOtherDiskInFront(t *testing.T) {
	t.Parallel()
	uuid := lab.OldKiosk().FSUUID(lab.KioskLog)
	for _, tt := range []struct{ name, more, says string }{
		{"ambiguous", "", "is it /dev/sda6 (ext4), or /dev/sdb6 (ext4) under another letter?"},
		{"named", "\n[old]\nmounts = { \"/kiosk\" = \"UUID=" + uuid + "\" }\n[target]\nunmapped = \"zero\"\n", "boots its new system"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx := withTimeout(t)
			k := armed(t)
			rebake(t, k, scenario.PlainConfig+tt.more)
			other := lab.NewKiosk()
			other.Name = "other"
			front := filepath.Join(t.TempDir(), "other.raw")
			_, err := lab.BuildKiosk(ctx, front, k.Kernel, other)
			must(t, err)
			before := front + ".before"
			must(t, lab.CopySparse(before, front))
			if zeroBehind(t, k.NewRaw, k.Disk) {
				t.Fatal("the old system has nothing behind the end of the image; this proves nothing")
			}
			own := k.Drive()
			own.Device = ",bootindex=0"
			guest := start(t, vm.Config{Drives: []vm.Drive{{Path: front, Serial: "OTHER", Device: ",bootindex=1"}, own}, NoReboot: true})
			wait(ctx, t, guest, tt.says)
			waitExit(ctx, t, guest)
			if n := changed(t, before, front); len(n) > 0 {
				t.Errorf("%d blocks of the other disk were changed, first at byte %d", len(n), n[0])
			}
			if tt.name == "named" {
				if !zeroBehind(t, k.NewRaw, k.Disk) {
					t.Error("the disk behind the image holds something of the old system")
				}
				if got := tree(t, k.Disk, lab.KioskLog)["till state.db"]; got.Size == 0 {
					t.Error("the retained file of /kiosk is not on the kiosk's own disk")
				}
			}
		})
	}
}

// zeroBehind tells whether a disk holds only zeros behind the end of an image.
func zeroBehind(t *testing.T, image, disk string) bool {
	t.Helper()
	info, err := os.Stat(image)
	must(t, err)
	all, err := os.ReadFile(disk)
	must(t, err)
	return len(bytes.Trim(all[info.Size():], "\x00")) == 0
}
