package lab

import (
	"context"
	_ "embed" // the script of the first boot
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"reimager/vm"
)

//go:embed debian/install
var debianInstall string

//go:embed debian/reimager-demo.service
var debianDemoUnit string

// installTime is how long the first boot may take; a quiet machine needs two
// minutes without KVM.
const installTime = 15 * time.Minute

// grubInstall are the lines of the script that put GRUB onto the disk. On UEFI they do
// what Debian's installer does where it is told that the firmware may forget its boot
// entries: the loader lies below \EFI\debian and \EFI\BOOT. The firmware of the first
// boot is not the machine's.
func (s DebianSpec) grubInstall() string {
	if s.UEFI() {
		return "mkdir -p /boot/efi\nmount /boot/efi\n" +
			"grub-install --target=x86_64-efi --efi-directory=/boot/efi --no-nvram --force-extra-removable\n" +
			"umount /boot/efi"
	}
	return `grub-install "$(cat /.lab/disk)"`
}

// fstab is as Debian's installer writes it.
func (s DebianSpec) fstab() string {
	text := fmt.Sprintf("UUID=%s / ext4 errors=remount-ro 0 1\nUUID=%s none swap sw 0 0\n",
		s.FSUUID(s.RootPartition), s.FSUUID(s.swapPartition()))
	if s.UEFI() {
		text += fmt.Sprintf("UUID=%s /boot/efi vfat umask=0077 0 1\n", s.espUUID())
	}
	return text
}

// debianMasked are timers and services that do nothing in a machine which
// lives for minutes, but take its processor just after boot.
func debianMasked() []string {
	return []string{"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
		"e2scrub_reap.service", "fstrim.timer", "systemd-tmpfiles-clean.timer"}
}

// installDebian makes the disk and has the system install its own boot loader.
func installDebian(ctx context.Context, disk string, spec DebianSpec, root debianFiles) error {
	if _, err := BuildDisk(ctx, disk, spec.disk(root.tarball)); err != nil {
		return err
	}
	tree, err := spec.configTree()
	if err != nil {
		return err
	}
	if err := InjectFiles(ctx, disk, spec.RootPartition, tree); err != nil {
		return err
	}
	if err := spec.firstBoot(ctx, disk, root); err != nil {
		return err
	}
	if err := InjectFiles(ctx, disk, spec.RootPartition, spec.Files); err != nil {
		return err
	}
	return WithMount(ctx, disk, spec.RootPartition, func(dir string) error {
		if err := os.RemoveAll(path.Join(dir, "/.lab")); err != nil {
			return err
		}
		// What was deleted becomes holes: an image compresses by what it holds.
		_, err := vm.Run(ctx, "fstrim", dir)
		return err
	})
}

// configTree is what an installer asks for, and what the lab needs.
func (s DebianSpec) configTree() (Tree, error) {
	users, err := s.usersFile()
	if err != nil {
		return nil, err
	}
	const unit = "etc/systemd/system/"
	tree := Tree{
		Dir(".lab", 0o700, 0, 0), Text(".lab/install", 0o755, strings.Replace(debianInstall, "@GRUB_INSTALL@", s.grubInstall(), 1)), Text(".lab/users", 0o644, users), Text(".lab/disk", 0o644, "/dev/sda\n"),
		Text("etc/fstab", 0o644, s.fstab()),
		Text("etc/hostname", 0o644, s.Hostname+"\n"),
		Text("etc/hosts", 0o644, "127.0.0.1 localhost\n127.0.1.1 "+s.Hostname+"\n::1 localhost ip6-localhost ip6-loopback\n"),
		Text("etc/resolv.conf", 0o644, ""), // mmdebstrap leaves the build host's
		// In text mode GRUB reads no font and draws no picture.
		Text("etc/default/grub.d/lab.cfg", 0o644, "GRUB_TIMEOUT=0\nGRUB_TERMINAL=console\nGRUB_CMDLINE_LINUX=\""+KioskConsoles+"\"\n"),
		// A small initramfs, for the machine on which it is made.
		Text("etc/initramfs-tools/conf.d/lab", 0o644, "MODULES=dep\nRESUME=none\n"),
		Text(unit+"reimager-demo.service", 0o644, debianDemoUnit),
		Symlink(unit+"multi-user.target.wants/reimager-demo.service", "/"+unit+"reimager-demo.service"),
	}
	machine := ""
	if s.MachineID != "" {
		machine = s.MachineID + "\n"
	}
	tree = append(tree, Text("etc/machine-id", 0o444, machine))
	for _, name := range debianMasked() {
		tree = append(tree, Symlink(unit+name, "/dev/null"))
	}
	// Where there is no vsock, systemd 257's complains on the console at each boot.
	tree = append(tree, Symlink("etc/systemd/system-generators/systemd-ssh-generator", "/dev/null"))
	return tree, nil
}

// firstBoot starts the system with our script as PID 1, from outside: it has
// no boot loader yet.
func (s DebianSpec) firstBoot(ctx context.Context, disk string, root debianFiles) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, installTime, errors.New("the installation took too long"))
	defer cancel()
	guest, err := Start(ctx, vm.Config{
		Drives: []vm.Drive{{Path: disk}}, Kernel: root.kernel.Image, Initrd: root.initrd, NoReboot: true,
		Append: "root=UUID=" + s.FSUUID(s.RootPartition) + " rw " + KioskConsoles + " panic=-1 init=/.lab/install",
	})
	if err != nil {
		return err
	}
	if err := guest.WaitFor(ctx, "DEBIAN INSTALL DONE"); err != nil {
		return errors.Join(err, guest.Kill())
	}
	return errors.Join(guest.WaitExit(ctx), guest.Kill())
}
