package boot

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"reimager/report"
)

// Where the kernel says what it knows and allows of kexec. The sysctl is
// Documentation/admin-guide/sysctl/kernel.rst, kexec_loaded
// Documentation/ABI/testing/sysfs-kernel-kexec-kdump, lockdown kernel_lockdown.7.
const (
	kexecDisabledFile = "/proc/sys/kernel/kexec_load_disabled"
	kexecLoadedFile   = "/sys/kernel/kexec_loaded"
	lockdownFile      = "/sys/kernel/security/lockdown"
)

// LoadKexec loads a kernel with its initrd, which may be nil, so that
// StartKexec, or a shutdown that ends in kexec, starts it. One that was loaded
// before is replaced. The command line has at most 2047 bytes on x86.
func LoadKexec(kernel, initrd *os.File, cmdline string) error {
	if len(cmdline) > kernelCmdlineMax {
		return fmt.Errorf("load %s for kexec: command line has %d bytes, the kernel reads %d", kernel.Name(), len(cmdline), kernelCmdlineMax)
	}
	fd, flags := -1, unix.KEXEC_FILE_NO_INITRAMFS
	if initrd != nil {
		fd, flags = int(initrd.Fd()), 0
	}
	if err := unix.KexecFileLoad(int(kernel.Fd()), fd, cmdline, flags); err != nil {
		return explainKexec("load "+kernel.Name()+" for kexec", err, readLine(kexecDisabledFile), readLine(lockdownFile))
	}
	return nil
}

// KexecLoaded tells whether a kernel waits to be started by kexec, whoever has
// loaded it.
func KexecLoaded() bool { return readLine(kexecLoadedFile) == "1" }

// UnloadKexec forgets what LoadKexec loaded. Nothing loaded is no error.
func UnloadKexec() error {
	if !KexecLoaded() {
		return nil
	}
	if err := unix.KexecFileLoad(-1, -1, "", unix.KEXEC_FILE_UNLOAD|unix.KEXEC_FILE_NO_INITRAMFS); err != nil {
		return explainKexec("unload the kernel that waits for kexec", err, readLine(kexecDisabledFile), readLine(lockdownFile))
	}
	return nil
}

// StartKexec starts the loaded kernel at once: nothing is synced, no service
// stopped. It returns only on an error.
func StartKexec() error {
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_KEXEC)
	if errors.Is(err, unix.EINVAL) { // kernel/kexec_core.c: nothing is loaded
		return errors.New("start kernel by kexec: none is loaded")
	}
	return fmt.Errorf("start kernel by kexec: %w", err)
}

// explainKexec says what an errno of kexec_file_load(2) means on this machine.
// disabled and lockdown are what the kernel's files say.
func explainKexec(what string, err error, disabled, lockdown string) error {
	hint := ""
	switch {
	case errors.Is(err, unix.ENOSYS):
		hint = "this kernel was built without kexec_file_load (CONFIG_KEXEC_FILE): boot by GRUB, without --kexec"
	case errors.Is(err, unix.EPERM) && disabled != "" && disabled != "0":
		hint = "the sysctl kernel.kexec_load_disabled is " + disabled + ", and only a reboot takes it back: remove it from /etc/sysctl.d and reboot, or boot by GRUB, without --kexec"
	case errors.Is(err, unix.EPERM) && lockdown != "" && !strings.Contains(lockdown, "[none]"):
		hint = "the kernel is locked down (" + lockdown + "), as it is with Secure Boot, and starts signed kernels only: boot by GRUB, without --kexec"
	case errors.Is(err, unix.EPERM):
		hint = "only root may, and not inside a container"
	case errors.Is(err, unix.EKEYREJECTED), errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOKEY), errors.Is(err, unix.EBADMSG):
		hint = "this kernel starts only kernels with a signature that it trusts: boot by GRUB, without --kexec"
	case errors.Is(err, unix.ENOEXEC):
		hint = "the file is no kernel that this one can start"
	case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.ENOMEM):
		hint = "there is no room for kernel and initrd in memory: boot by GRUB, without --kexec"
	case errors.Is(err, unix.EBUSY):
		hint = "another program loads a kernel; try again"
	}
	err = fmt.Errorf("%s: %w", what, err)
	if hint == "" {
		return err
	}
	return report.Hint(err, "%s", hint)
}

// readLine returns the text of a small file of the kernel's; "" if it cannot be
// read, which means that the kernel has no such thing.
func readLine(name string) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
