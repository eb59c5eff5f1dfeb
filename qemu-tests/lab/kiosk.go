package lab

import (
	"bytes"
	"context"
	_ "embed" // the scripts of the kiosk
	"fmt"
	"io/fs"
	"strings"
	"text/template"
	"time"

	"reimager/vm"
)

//go:embed kiosk/inittab
var kioskInittab string

//go:embed kiosk/rcS
var kioskRcS string

//go:embed kiosk/kiosk
var kioskMain string

//go:embed kiosk/grub.cfg
var kioskGrubCfg string

// The partitions of a kiosk's disk, an MBR disk as the first such machines had it, where
// partition 4 is the extended one that holds the last two, or a GPT disk.
const (
	KioskBoot = 1 // ext4, /boot
	KioskRoot = 2 // ext4, /
	KioskSwap = 3
	KioskESP  = 4 // with UEFI
	KioskCore = 4 // of GRUB, with a GPT and a BIOS
	KioskData = 5 // ext4, /data: where the release lies
	KioskLog  = 6 // ext4, /kiosk: logs
)

// After says what a kiosk does when its boot script has ended.
type After string

// The endings of a boot; all but Idle unmount everything first.
const (
	PowerOff After = "poweroff"
	Reboot   After = "reboot"
	Idle     After = "idle"
)

// User is an account of a kiosk, with a group of the same name and number.
type User struct {
	Name, Home, Shell string
	ID                int
}

// KioskSpec describes a kiosk: a small system of busybox on a whole disk.
type KioskSpec struct {
	Name, Version string // in the banner "KIOSK NAME VERSION UP"
	Hostname      string
	DiskID        string // MBR signature: 0x and 8 hex digits; a GPT's UUID is made of it
	UEFI          bool   // instead of BIOS
	GPT           bool   // although it is a BIOS
	SizeMiB       int64  // of the disk; /data gets what the others leave
	BootMiB       int64
	RootMiB       int64
	SwapMiB       int64
	LogMiB        int64
	Users         []User    // root comes by itself
	Append        string    // further words of the kernel command line
	Built         time.Time // mtime of the system's own files in /etc

	// BootScript becomes /etc/kiosk/boot and runs after the banner, its
	// output on the serial port. It should start with #!/bin/sh. A script that
	// reboots by itself wants After: Idle, because reboot(8) returns at once.
	BootScript string
	After      After

	// Additions to the filesystems; a file replaces the kiosk's own.
	Boot, Root, Data, Log Tree
}

// OldKiosk is the system that is to be replaced.
func OldKiosk() KioskSpec {
	return KioskSpec{
		Name: "old", Version: "1.0", Hostname: "kiosk-0042", DiskID: "0x01d05e5e",
		SizeMiB: 192, BootMiB: 40, RootMiB: 24, SwapMiB: 16, LogMiB: 16, After: PowerOff, Built: Epoch(),
		Users: []User{{"kiosk", "/home/kiosk", "/bin/sh", 1000}, {"atm", "/var/lib/atm", "/sbin/nologin", 990}},
	}
}

// NewKiosk is the system that replaces it: other version, UUIDs, identity and
// numbers of the same users.
func NewKiosk() KioskSpec {
	return KioskSpec{
		Name: "new", Version: "2.0", Hostname: "unnamed", DiskID: "0x02d05e5e",
		SizeMiB: 160, BootMiB: 40, RootMiB: 24, SwapMiB: 16, LogMiB: 16, After: PowerOff, Built: Epoch().AddDate(1, 0, 0),
		Users: []User{{"kiosk", "/home/kiosk", "/bin/sh", 1500}, {"atm", "/var/lib/atm", "/sbin/nologin", 880}},
	}
}

// FSUUID is the UUID of the filesystem or swap on a partition of the kiosk.
func (k KioskSpec) FSUUID(partition int) string {
	return FixedUUID(fmt.Sprintf("kiosk %s %s %s %d", k.Name, k.Version, k.DiskID, partition))
}

// MachineID is the content of /etc/machine-id, without its newline.
func (k KioskSpec) MachineID() string {
	return strings.ReplaceAll(FixedUUID("machine "+k.Hostname+k.Name), "-", "")
}

// HostKey is the content of a host key file below /etc/ssh; nothing but a
// stand-in that differs between kiosks.
func (k KioskSpec) HostKey(file string) string {
	return "host key " + file + " of " + k.Hostname + " " + FixedUUID(file+k.Hostname+k.Name) + "\n"
}

// Banner is the line that a kiosk prints when it is up.
func (k KioskSpec) Banner() string { return "KIOSK " + k.Name + " " + k.Version + " UP" }

// Done is the line that it prints when its boot script has ended.
func (k KioskSpec) Done() string { return "KIOSK " + k.Name + " " + k.Version + " DONE" }

// BuildKiosk builds the kiosk's disk at path.
func BuildKiosk(ctx context.Context, path string, kernel Kernel, spec KioskSpec) (Disk, error) {
	disk, err := spec.Disk(ctx, kernel)
	if err != nil {
		return Disk{}, fmt.Errorf("build kiosk %s: %w", spec.Name, err)
	}
	return BuildDisk(ctx, path, disk)
}

// Disk returns the kiosk as a description of a disk, to be changed at will.
func (k KioskSpec) Disk(ctx context.Context, kernel Kernel) (DiskSpec, error) {
	boot, err := k.bootTree(ctx, kernel)
	if err != nil {
		return DiskSpec{}, err
	}
	root, err := k.rootTree(ctx)
	if err != nil {
		return DiskSpec{}, err
	}
	if k.UEFI || k.GPT {
		return k.gptDisk(ctx, boot, root)
	}
	const first, ebr = 1, 1 // MiB before the first partition, and before each logical one
	extended := first + k.BootMiB + k.RootMiB + k.SwapMiB
	data := k.SizeMiB - extended - ebr - ebr - k.LogMiB
	return DiskSpec{
		SizeMiB: k.SizeMiB, Label: MBR, ID: k.DiskID, Grub: &Grub{Partition: KioskBoot, Dir: "/grub"},
		Partitions: []Partition{
			{SizeMiB: k.BootMiB, FS: Ext4, Bootable: true, Label: k.label("boot"), UUID: k.FSUUID(KioskBoot), Tree: append(boot, k.Boot...)},
			{SizeMiB: k.RootMiB, FS: Ext4, Label: k.label("root"), UUID: k.FSUUID(KioskRoot), Tree: append(root, k.Root...)},
			{SizeMiB: k.SwapMiB, FS: Swap, Label: k.label("swap"), UUID: k.FSUUID(KioskSwap)},
			{FS: Extended},
			{SizeMiB: data, Logical: true, FS: Ext4, Label: k.label("data"), UUID: k.FSUUID(KioskData), Tree: k.Data},
			{SizeMiB: k.LogMiB, Logical: true, FS: Ext4, Label: k.label("kiosk"), UUID: k.FSUUID(KioskLog), Tree: k.Log},
		},
	}, nil
}

// label is that of a filesystem.
func (k KioskSpec) label(what string) string { return k.Name + "-" + what }

// gptDisk has the same partitions under the same numbers, with what firmware starts in
// the place of the container: GRUB's core, or an EFI system partition that brings only the
// loader for removable media, since firmware's boot entries of the old system mean nothing
// to the new one.
func (k KioskSpec) gptDisk(ctx context.Context, boot, root Tree) (DiskSpec, error) {
	grub := &Grub{Partition: KioskBoot, Dir: "/grub", CorePartition: KioskCore}
	start := Partition{SizeMiB: 1, FS: Raw, Name: "GRUB", Type: biosBootType}
	if k.UEFI {
		loader, err := EFILoader(ctx, k.FSUUID(KioskBoot), "/grub")
		if err != nil {
			return DiskSpec{}, err
		}
		id := k.FSUUID(KioskESP)
		grub = nil
		start = Partition{SizeMiB: 8, FS: FAT, Name: "EFI", UUID: id[:4] + "-" + id[4:8], Tree: Tree{{Path: RemovableLoader, Content: loader}}}
	}
	return DiskSpec{
		SizeMiB: k.SizeMiB, Label: GPT, ID: FixedUUID("disk " + k.DiskID), Grub: grub,
		Partitions: []Partition{
			{SizeMiB: k.BootMiB, FS: Ext4, Name: "boot", Label: k.label("boot"), UUID: k.FSUUID(KioskBoot), Tree: append(boot, k.Boot...)},
			{SizeMiB: k.RootMiB, FS: Ext4, Name: "root", Label: k.label("root"), UUID: k.FSUUID(KioskRoot), Tree: append(root, k.Root...)},
			{SizeMiB: k.SwapMiB, FS: Swap, Name: "swap", Label: k.label("swap"), UUID: k.FSUUID(KioskSwap)},
			start,
			{SizeMiB: k.SizeMiB - 2 - start.SizeMiB - k.BootMiB - k.RootMiB - k.SwapMiB - k.LogMiB, FS: Ext4, Name: "data", Label: k.label("data"), UUID: k.FSUUID(KioskData), Tree: k.Data},
			{SizeMiB: k.LogMiB, FS: Ext4, Name: "kiosk", Label: k.label("kiosk"), UUID: k.FSUUID(KioskLog), Tree: k.Log},
		},
	}, nil
}

func (k KioskSpec) bootTree(ctx context.Context, kernel Kernel) (Tree, error) {
	initrd, err := Initrd(ctx, kernel, kioskInitrdInit, []string{"ahci", "sd_mod", "ext4"}, []string{"crc32c_generic"})
	if err != nil {
		return nil, err
	}
	tree := Tree{}
	if !k.UEFI { // its loader has what it needs
		if tree, err = GrubFiles("grub"); err != nil {
			return nil, err
		}
	}
	env, err := GrubEnv()
	if err != nil {
		return nil, err
	}
	parsed, err := template.New("grub.cfg").Parse(kioskGrubCfg)
	if err != nil {
		return nil, err
	}
	// GRUB's `linux` moves the kernel byte by byte, which takes an emulated machine 1.7 s; with the
	// 16-bit boot protocol the kernel moves itself.
	protocol := "16"
	if k.UEFI {
		protocol = "" // which knows none
	}
	var menu bytes.Buffer
	err = parsed.Execute(&menu, map[string]string{
		"Title": "Kiosk " + k.Version, "Kernel": kernel.Version, "Append": strings.TrimSpace(KioskConsoles + " quiet no_timer_check " + k.Append),
		"Protocol": protocol, "BootUUID": k.FSUUID(KioskBoot), "RootUUID": k.FSUUID(KioskRoot),
	})
	if err != nil {
		return nil, err
	}
	return append(tree,
		File{Path: "vmlinuz-" + kernel.Version, Source: kernel.Image},
		Text("initrd.img-"+kernel.Version, 0o644, string(initrd)),
		Text("grub/grub.cfg", 0o600, menu.String()),
		Text("grub/grubenv", 0o644, env),
	), nil
}

// KioskConsoles are the words of the kernel command line that put messages on
// the screen and on the serial port, which is /dev/console.
const KioskConsoles = "console=tty0 console=ttyS0"

func (k KioskSpec) rootTree(ctx context.Context) (Tree, error) {
	busybox, err := busyboxProgram(ctx)
	if err != nil {
		return nil, err
	}
	applets, err := vm.Run(ctx, busybox, "--list-full")
	if err != nil {
		return nil, err
	}
	tree := Tree{{Path: "bin/busybox", Mode: 0o755, Source: busybox}}
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "bin/busybox" {
			tree = append(tree, Symlink(applet, "/bin/busybox"))
		}
	}
	for _, dir := range []string{"boot", "data", "dev", "kiosk", "proc", "run", "sys", "var/log", "etc/ssh"} {
		tree = append(tree, Dir(dir, 0o755, 0, 0))
	}
	tree = append(tree, Dir("tmp", 0o777|fs.ModeSticky, 0, 0), Dir("root", 0o700, 0, 0))
	return append(append(tree, k.accounts()...), k.etc()...), nil
}

// accounts are the users' files and homes.
func (k KioskSpec) accounts() Tree {
	passwd, group, shadow := "root:x:0:0:root:/root:/bin/sh\n", "root:x:0:\n", "root:*:19700:0:99999:7:::\n"
	var homes Tree
	for _, u := range k.Users {
		passwd += fmt.Sprintf("%s:x:%d:%d::%s:%s\n", u.Name, u.ID, u.ID, u.Home, u.Shell)
		group += fmt.Sprintf("%s:x:%d:\n", u.Name, u.ID)
		shadow += u.Name + ":!:19700:0:99999:7:::\n"
		homes = append(homes, Dir(u.Home, 0o750, u.ID, u.ID))
	}
	return append(homes,
		Text("etc/passwd", 0o644, passwd), Text("etc/group", 0o644, group), Text("etc/shadow", 0o640, shadow))
}

func (k KioskSpec) etc() Tree {
	tree := Tree{
		Text("etc/hostname", 0o644, k.Hostname+"\n"),
		Text("etc/machine-id", 0o444, k.MachineID()+"\n"),
		Text("etc/os-release", 0o644, fmt.Sprintf("NAME=\"Kiosk\"\nID=kiosk\nVERSION_ID=%q\nPRETTY_NAME=\"Kiosk %s (%s)\"\n", k.Version, k.Version, k.Name)),
		Text("etc/fstab", 0o644, k.fstab()),
		Text("etc/inittab", 0o644, kioskInittab),
		Text("etc/init.d/rcS", 0o755, kioskRcS),
		Text("etc/init.d/kiosk", 0o755, kioskMain),
		Text("etc/kiosk/release", 0o644, fmt.Sprintf("NAME=%q\nVERSION=%q\n", k.Name, k.Version)),
		Text("etc/kiosk/after", 0o644, string(k.After)+"\n"),
		// A file that only this version has.
		Text("usr/share/kiosk/only-in-"+k.Version, 0o644, k.Version+"\n"),
	}
	for _, kind := range []string{"ed25519", "rsa"} {
		file := "ssh_host_" + kind + "_key"
		tree = append(tree, Text("etc/ssh/"+file, 0o600, k.HostKey(file)), Text("etc/ssh/"+file+".pub", 0o644, k.HostKey(file+".pub")))
	}
	if k.BootScript != "" {
		tree = append(tree, Text("etc/kiosk/boot", 0o755, k.BootScript))
	}
	for i := range tree {
		tree[i].ModTime = k.Built
	}
	return tree
}

// fstab names partitions by UUID as installers do, and one by its device, as
// hands do.
func (k KioskSpec) fstab() string {
	return fmt.Sprintf(`# <file system> <mount point> <type> <options> <dump> <pass>
UUID=%s / ext4 errors=remount-ro 0 1
UUID=%s /boot ext4 defaults 0 2
UUID=%s none swap sw 0 0
UUID=%s /data ext4 defaults 0 2
/dev/sda6 /kiosk ext4 defaults 0 2
`, k.FSUUID(KioskRoot), k.FSUUID(KioskBoot), k.FSUUID(KioskSwap), k.FSUUID(KioskData))
}
