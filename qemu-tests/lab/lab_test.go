package lab

import (
	"context"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"reimager/vm"
)

// needQEMU says loudly what is missing: a machine without QEMU tests nothing
// of what matters here.
func needQEMU(t *testing.T) Kernel {
	t.Helper()
	if testing.Short() {
		t.Skip("boots virtual machines; run without -short")
	}
	if _, err := vm.FindProgram("qemu-system-x86_64"); err != nil {
		t.Fatalf("QEMU is missing, no machine was booted and nothing was tested: apt-get install %s", Packages)
	}
	cache, err := OpenCache()
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := StockKernel(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	return kernel
}

func startVM(t *testing.T, config vm.Config) (*vm.VM, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	config.Log = t.Logf
	guest, err := Start(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := guest.Kill(); err != nil {
			t.Error(err)
		}
	})
	return guest, ctx
}

// bootOnce boots a disk until the vm.VM ends by itself and returns its console.
func bootOnce(t *testing.T, spec KioskSpec, path string) string {
	t.Helper()
	guest, ctx := startVM(t, vm.Config{Drives: []vm.Drive{{Path: path}}, MemoryMiB: 512, NoReboot: true})
	if err := guest.WaitFor(ctx, spec.Banner()); err != nil {
		t.Fatal(err)
	}
	if err := guest.WaitExit(ctx); err != nil {
		t.Fatal(err)
	}
	for _, line := range guest.Console.Lines() {
		if strings.Contains(line.Text, spec.Banner()) {
			t.Logf("banner after %.1f s", line.At.Seconds())
		}
	}
	return string(guest.Console.Bytes())
}

const customEntry = `menuentry 'Once' --id once {
	linux /vmlinuz-VERSION root=UUID=ROOT ro console=tty0 console=ttyS0 quiet kiosk.once
	initrd /initrd.img-VERSION
}
`

func TestOldKioskBootsOnce(t *testing.T) {
	kernel := needQEMU(t)
	spec := OldKiosk()
	spec.BootScript = "#!/bin/sh\ngrep -q kiosk.once /proc/cmdline && echo ENTRY once || echo ENTRY default\n" +
		"grep ' /boot \\| /data \\| /kiosk ' /proc/mounts | cut -d' ' -f2 | sort | xargs echo MOUNTS\n" +
		"wc -l </proc/swaps | xargs echo SWAPS\nhostname\n"
	custom := strings.NewReplacer("VERSION", kernel.Version, "ROOT", spec.FSUUID(KioskRoot)).Replace(customEntry)
	spec.Boot = Tree{Text("grub/custom.cfg", 0o644, custom)}
	disk, err := BuildKiosk(t.Context(), filepath.Join(t.TempDir(), "old.img"), kernel, spec)
	if err != nil {
		t.Fatal(err)
	}
	env, err := GrubEnv("next_entry=once")
	if err != nil {
		t.Fatal(err)
	}
	if err := OverwriteFile(t.Context(), disk.Path, KioskBoot, "grub/grubenv", []byte(env)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ENTRY once", "ENTRY default"} {
		console := bootOnce(t, spec, disk.Path)
		for _, want := range []string{want, "MOUNTS /boot /data /kiosk", "SWAPS 2", "kiosk-0042", spec.Done()} {
			if !strings.Contains(console, want) {
				t.Errorf("console lacks %q:\n%s", want, console)
			}
		}
	}
	left, err := ReadFile(t.Context(), disk.Path, KioskBoot, "grub/grubenv")
	if err != nil || strings.Contains(string(left), "once") || len(left) != 1024 {
		t.Errorf("grubenv afterwards: %q, %v; want 1024 bytes without the entry", left, err)
	}
}

func TestNewKioskShowsItself(t *testing.T) {
	kernel := needQEMU(t)
	spec := NewKiosk()
	spec.After = Idle
	spec.BootScript = "#!/bin/sh\nstat -c '%n %U %u %a' /home/kiosk/note /var/lib/atm\necho changed >/data/dirty\nsync\n"
	spec.Root = Tree{{Path: "home/kiosk/note", Mode: 0o600, UID: 1500, GID: 1500, Content: "mine\n"}}
	disk, err := BuildKiosk(t.Context(), filepath.Join(t.TempDir(), "new.img"), kernel, spec)
	if err != nil {
		t.Fatal(err)
	}
	guest, ctx := startVM(t, vm.Config{Drives: []vm.Drive{{Path: disk.Path}}, MemoryMiB: 512})
	for _, want := range []string{spec.Banner(), "/home/kiosk/note kiosk 1500 600", "/var/lib/atm atm 880 750", spec.Done()} {
		if err := guest.WaitFor(ctx, want); err != nil {
			t.Fatal(err)
		}
	}
	screen, err := guest.TextScreen(ctx)
	if err != nil || !strings.Contains(screen, spec.Banner()) {
		t.Errorf("TextScreen = %q, %v; want the banner", screen, err)
	}
	shot := filepath.Join(t.TempDir(), "screen.png")
	if err := guest.Screendump(ctx, shot); err != nil {
		t.Error(err)
	} else if f, err := os.Open(shot); err != nil {
		t.Error(err)
	} else if _, err := png.Decode(f); err != nil {
		t.Errorf("decode screendump: %v", err)
	}
	if err := guest.Kill(); err != nil {
		t.Fatal(err)
	}
	// The power was cut while /data was mounted: its journal is replayed in a copy.
	got, err := ReadFile(t.Context(), disk.Path, KioskData, "dirty")
	if err != nil || string(got) != "changed\n" {
		t.Errorf("ReadFile(dirty) = %q, %v; want what the guest wrote", got, err)
	}
}

// TestGrubOnGPT boots the core image from a BIOS boot partition.
func TestGrubOnGPT(t *testing.T) {
	needQEMU(t)
	modules, err := GrubFiles("boot/grub")
	if err != nil {
		t.Fatal(err)
	}
	menu := "serial --unit=0\nterminal_output serial\necho GRUB reads $root\nhalt\n"
	disk, err := BuildDisk(t.Context(), filepath.Join(t.TempDir(), "gpt2"), DiskSpec{
		SizeMiB: 32, Label: GPT, ID: FixedUUID("gpt disk"), Grub: &Grub{Partition: 2, Dir: "/boot/grub", CorePartition: 1},
		Partitions: []Partition{
			{SizeMiB: 1, Type: biosBootType, Name: "BIOS boot"},
			{FS: Ext4, Label: "root", Tree: append(modules, Text("boot/grub/grub.cfg", 0o644, menu))},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	table, err := ReadTable(t.Context(), disk.Path)
	if err != nil || len(table.Entries) != 2 || table.Entries[0].Name != "BIOS boot" || table.Label != GPT {
		t.Errorf("ReadTable = %+v, %v; want the two partitions", table, err)
	}
	guest, ctx := startVM(t, vm.Config{Accel: "tcg", MemoryMiB: 128, Drives: []vm.Drive{{Path: disk.Path}}})
	if err := guest.WaitFor(ctx, "GRUB reads hd0,gpt2"); err != nil {
		t.Fatal(err)
	}
}
