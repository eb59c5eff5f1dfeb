package check

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"reimager/boot"
	"reimager/image"
)

// The kinds of firmware, as manifest and job name them.
const (
	bios = "bios"
	uefi = "uefi"
)

// firmware tells what booted the machine. A machine with UEFI whose firmware emulates
// a BIOS (CSM) has no /sys/firmware/efi, and boots as one with a BIOS.
func (h Host) firmware() string {
	if exists(h.sys("firmware/efi")) {
		return uefi
	}
	return bios
}

func judgeFirmware(machine string, m *image.Manifest) Result {
	const hint = "build an image that this machine's firmware can boot, or have the machine boot the other way"
	name := map[string]string{bios: "BIOS", uefi: "UEFI"}
	switch {
	case m == nil || m.Disk.Firmware == nil:
		if machine == bios {
			return pass(Firmware, "BIOS")
		}
		return warn(Firmware, "pack it with imagebuild pack, which looks", "this machine boots by UEFI, and the image does not say whether it can")
	case machine == uefi && !slices.Contains(m.Disk.Firmware, uefi) && m.System.ESPUnread():
		return warn(Firmware, "try the image out: imagebuild prove", "this machine boots by UEFI, and pack could not read the image's EFI system partition")
	case len(m.Disk.Firmware) == 0:
		r := fail(Firmware, hint, "the image has nothing that any firmware boots: no boot code in its first sector, no %s", fallbackLoader)
		r.Firm = true
		return r
	case !slices.Contains(m.Disk.Firmware, machine):
		return fail(Firmware, hint, "this machine boots by %s, the image by %s", name[machine], strings.Join(m.Disk.Firmware, ", "))
	}
	return pass(Firmware, "%s", name[machine])
}

// fallbackLoader is where UEFI firmware looks on a disk that none of its boot entries
// names: UEFI 2.10, 3.5.1.1. The entries of the old system name what is gone.
const fallbackLoader = `\EFI\BOOT\BOOTX64.EFI`

// hasFallback tells whether the fallback loader is among others. FAT knows no case, and
// the firmware writes paths with backslashes.
func hasFallback(loaders []string) bool {
	return slices.ContainsFunc(loaders, func(l string) bool {
		return `\`+strings.TrimPrefix(strings.ToUpper(strings.ReplaceAll(l, "/", `\`)), `\`) == fallbackLoader
	})
}

// judgeUEFILoader looks for the fallback loader in what is known of the image.
func judgeUEFILoader(s *image.SystemFacts) Result {
	var loaders []string
	if s != nil {
		loaders = s.UEFILoader
	}
	found := "no loader at all"
	switch {
	case hasFallback(loaders):
		return pass(UEFILoader, "the image brings %s", fallbackLoader)
	case s == nil:
		return warn(UEFILoader, "pack it with imagebuild pack, which looks", "the release does not say whether the image brings %s", fallbackLoader)
	case s.ESPUnread():
		return warn(UEFILoader, "try the image out: imagebuild prove", "pack could not read the image's EFI system partition, and so does not know whether it has %s", fallbackLoader)
	}
	if len(loaders) > 0 {
		found = strings.Join(loaders, ", ")
	}
	return fail(UEFILoader, "install the image's boot loader with grub-install --removable, and pack it anew",
		"the image lacks %s, which the firmware starts when its own entries lead nowhere; it brings %s", fallbackLoader, found)
}

// secureBootFile holds four bytes of attributes and one of value:
// Documentation/filesystems/efivarfs.rst; UEFI 2.10, 32.4.
const secureBootFile = "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"

// secureBoot tells whether the firmware starts signed programs only. A firmware that
// has no such variable does not know the matter.
func (h Host) secureBoot() (bool, error) {
	b, err := os.ReadFile(h.sys(secureBootFile))
	switch {
	case errors.Is(err, fs.ErrNotExist) && !exists(h.sys("firmware/efi/efivars/")):
		return false, errors.New("this kernel shows no EFI variables")
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("read state of Secure Boot: %w", err)
	case len(b) != 5:
		return false, fmt.Errorf("read state of Secure Boot: %d bytes, expected 5", len(b))
	}
	return b[4] == 1, nil
}

// kernelSigned tells whether the kernel of a release carries a signature. Without a
// release there is none to look at.
func kernelSigned(r *Release) (bool, error) {
	if r == nil {
		return false, nil
	}
	f, err := os.Open(r.Kernel)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return boot.KernelSigned(f)
}

func judgeSecureBoot(on bool, err error, haveKernel, signed bool, signedErr error) Result {
	const hint = "use a distribution's signed kernel in the release, or switch Secure Boot off in the firmware"
	switch {
	case err != nil:
		return warn(SecureBoot, "mount efivarfs on /sys/firmware/efi/efivars", "not known: %v", err)
	case !on:
		return pass(SecureBoot, "off")
	case !haveKernel:
		return pass(SecureBoot, "on: the kernel of a release has to be signed")
	case signedErr != nil:
		return fail(SecureBoot, hint, "on, and the kernel of the release cannot be read: %v", signedErr)
	case !signed:
		return fail(SecureBoot, hint, "on, and the kernel of the release is not signed: GRUB would refuse it")
	}
	return pass(SecureBoot, "on; the kernel of the release is signed (whether by a key of this machine shows in a rehearsal)")
}

// judgeLoaderSigned looks at what Secure Boot meets after the run: the image's own
// loader. kernel is the verdict on the kernel of the run.
func judgeLoaderSigned(s *image.SystemFacts, kernel Result) Result {
	switch {
	case s == nil || s.UEFISigned == nil:
		return warn(SecureBoot, "pack it with imagebuild pack, which looks", "on; the kernel of the release is signed, but it does not say whether the image's loader is")
	case hasFallback(s.UEFILoader) && !hasFallback(s.UEFISigned):
		return fail(SecureBoot, "use a distribution's signed loader (shim) in the image, or switch Secure Boot off in the firmware",
			"on, and the image's %s is not signed: the firmware would refuse the new system", fallbackLoader)
	}
	return kernel
}
