package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"reimager/boot"
	"reimager/check"
	"reimager/config"
)

// wayBack says how this system boots without a boot loader: by the kernel that runs,
// its initrd and its command line. It is nil if they are not surely found.
func wayBack(root string) (*config.JobKernel, error) {
	cmdline, err := os.ReadFile(filepath.Join(root, "proc/cmdline"))
	if err != nil {
		return nil, fmt.Errorf("read kernel command line: %w", err)
	}
	release, err := os.ReadFile(filepath.Join(root, "proc/sys/kernel/osrelease"))
	if err != nil {
		return nil, fmt.Errorf("find running kernel: %w", err)
	}
	kernel, initrd, parameters := bootedFiles(root, string(cmdline), strings.TrimSpace(string(release)))
	if kernel == "" || initrd == "" {
		return nil, nil
	}
	k, err := check.Locate(kernel)
	if err != nil {
		return nil, nil // not on a plain partition: nobody finds it without the system
	}
	i, err := check.Locate(initrd)
	if err != nil {
		return nil, nil
	}
	return &config.JobKernel{Kernel: k.Source(), Initrd: i.Source(), Cmdline: parameters}, nil
}

// bootedFiles finds the files that booted the running kernel. GRUB names the kernel in
// BOOT_IMAGE as it saw it: (hd0,gpt2)/vmlinuz-6.1, from the root of its filesystem,
// which may be /boot. It is taken only if it is of the running release. The initrd is
// the one that the distributions keep for that release.
func bootedFiles(root, cmdline, release string) (kernel, initrd, parameters string) {
	candidates := []string{"boot/vmlinuz-" + release}
	var others []string
	for _, p := range strings.Fields(cmdline) {
		switch name, ok := strings.CutPrefix(p, "BOOT_IMAGE="); {
		case ok:
			if _, behind, device := strings.Cut(name, ")"); device && strings.HasPrefix(name, "(") {
				name = behind
			}
			name = path.Clean("/" + name)
			candidates = append([]string{"boot" + name, name}, candidates...)
		case !strings.HasPrefix(p, "initrd="): // the boot loader's own
			others = append(others, p)
		}
	}
	for _, c := range candidates {
		if name := filepath.Join(root, c); isKernel(name, release) {
			kernel = name
			break
		}
	}
	names := []string{"initrd.img-" + release, "initramfs-" + release + ".img", "initrd-" + release, "initramfs-" + release}
	if filepath.Base(kernel) == "vmlinuz" { // of one kernel alone, or links to the latest
		names = append(names, "initrd.img", "initrd")
	}
	for _, name := range names {
		name = filepath.Join(filepath.Dir(kernel), name)
		if info, err := os.Stat(name); kernel != "" && err == nil && info.Mode().IsRegular() {
			initrd = name
			break
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", "", "" // unreadable: not surely found
		}
	}
	return kernel, initrd, strings.Join(others, " ")
}

func isKernel(name, release string) bool {
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	version, err := boot.KernelVersion(f)
	return err == nil && version == release
}
