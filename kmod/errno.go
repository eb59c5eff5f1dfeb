//go:build linux

package kmod

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"

	"reimager/report"
)

// judge says what an error of Insert means for module m.
func (l *Loader) judge(m *IndexModule, file string, err error) (Outcome, error) {
	if err == nil {
		return Loaded, nil
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return Failed, report.Hint(fmt.Errorf("load module %s: %w", m.Name, err),
			"the initrd is damaged or lacks the file: build it again")
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return Failed, fmt.Errorf("load module %s: %s: %w", m.Name, file, err)
	}
	switch errno {
	case unix.EEXIST:
		// Loaded before us, or built in: kernel/module/main.c, add_unformed_module.
		return Loaded, nil
	case unix.ENODEV, unix.ENXIO:
		// The module's init found no device or no CPU feature that it is for
		// (crc32c_intel without SSE4.2, hv_vmbus outside Hyper-V).
		return NoHardware, fmt.Errorf("load module %s: %s: no hardware for it: %w", m.Name, file, err)
	}
	meaning, hint := l.explain(m, errno)
	if meaning != "" {
		meaning += ": "
	}
	err = fmt.Errorf("load module %s: %s: %s%w", m.Name, file, meaning, err)
	if hint != "" {
		err = report.Hint(err, "%s", hint)
	}
	return Failed, err
}

// explain gives the meaning of an errno of finit_module(2), which is not that of
// strerror(3), as modprobe's mod_strerror does, and what can be done about it.
func (l *Loader) explain(m *IndexModule, errno syscall.Errno) (meaning, hint string) {
	const dmesg = "the kernel log says more"
	switch errno {
	case unix.ENOEXEC:
		return "built for another kernel", "build the initrd with the modules of the kernel that boots it: they are for " + l.index.Kernel
	case unix.ENOENT:
		return "a symbol is unknown to the kernel", "build the initrd with the modules of the kernel that boots it, after depmod; " + dmesg
	case unix.ENOKEY, unix.EKEYREJECTED, unix.EKEYEXPIRED, unix.EKEYREVOKED:
		return "its signature is not by a key of this kernel", "Secure Boot or module.sig_enforce wants the distribution's own, signed modules"
	case unix.EBADMSG, unix.ENOPKG:
		return "its signature cannot be checked", "take the module from the kernel's own package, unstripped"
	case unix.EPERM:
		if l.blacklist[m.Name] {
			return "blacklisted on the kernel command line", "remove it from module_blacklist="
		}
		return "not permitted", "module_blacklist=, lockdown, or kernel.modules_disabled forbids it, or this is not root"
	case unix.EACCES:
		return "refused by a security module", "see the kernel log for what loadpin or SELinux says"
	case unix.EINVAL:
		if p := l.params[m.Name]; p != "" {
			return "a parameter is invalid", "its parameters on the kernel command line are: " + p
		}
		return "refused by the kernel or by the module itself", dmesg
	case unix.ENOMEM:
		return "not enough memory", "the machine has too little RAM for this initrd and image"
	case unix.EBUSY:
		return "what it drives is taken by another driver, or another one is just loading it", dmesg
	case unix.ENOSYS:
		return "the kernel cannot load modules", "it needs CONFIG_MODULES and finit_module(2), Linux 3.8"
	case unix.EOPNOTSUPP:
		return "the kernel does not support what it needs", dmesg
	}
	return "", dmesg
}
