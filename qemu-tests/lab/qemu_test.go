package lab

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestDrivesAreAccepted starts QEMU paused: it reads its whole command line
// and opens every drive.
func TestDrivesAreAccepted(t *testing.T) {
	if _, err := lookTool("qemu-system-x86_64"); err != nil {
		t.Fatalf("QEMU is missing, nothing was tested: apt-get install %s", Packages)
	}
	dir := t.TempDir()
	path := func(name string) string {
		disk, err := BuildDisk(t.Context(), filepath.Join(dir, name), DiskSpec{SizeMiB: 8, Label: MBR, ID: "0x1"})
		if err != nil {
			t.Fatal(err)
		}
		return disk.Path
	}
	faulty, err := FaultyBlockdev(4, path("faulty"), Fault{Sector: 7, IOType: "write"}, Fault{Sector: -1, IOType: "flush", Once: true})
	if err != nil {
		t.Fatal(err)
	}
	slow, extra, err := ThrottledBlockdev(5, path("slow"), 10<<20)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := Start(t.Context(), Config{
		Accel: "tcg", MemoryMiB: 64, Extra: append(extra, "-S"), Log: t.Logf,
		Drives: []Drive{
			{Path: path("comma,and space")}, {Path: path("usb"), Bus: USB, Snapshot: true},
			{Path: path("nvme"), Bus: NVMe}, {Path: path("virtio"), Bus: VirtIO, ReadOnly: true},
			{Blockdev: faulty}, {Blockdev: slow, Serial: "SLOW", Device: ",bootindex=1"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := vm.HMP(t.Context(), "info block")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"drive0", "drive1", "drive2", "drive3", "drive4", "drive5", "comma,and space", "blkdebug", "read-only"} {
		if !strings.Contains(tree, want) {
			t.Errorf("info block lacks %q:\n%s", want, tree)
		}
	}
	if err := vm.Quit(t.Context()); err != nil {
		t.Error(err)
	}
	if got := vm.ExitReason(); got != "host-qmp-quit" {
		t.Errorf("ExitReason = %q; want host-qmp-quit", got)
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
			{SizeMiB: 1, Type: "21686148-6449-6E6F-744E-656564454649", Name: "BIOS boot"},
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
	vm, ctx := startVM(t, Config{Accel: "tcg", MemoryMiB: 128, Drives: []Drive{{Path: disk.Path}}})
	if err := vm.WaitFor(ctx, "GRUB reads hd0,gpt2"); err != nil {
		t.Fatal(err)
	}
}
