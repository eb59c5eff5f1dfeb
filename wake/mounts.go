// Package wake makes a bare kernel usable for a PID 1 that has nothing but
// itself: kernel filesystems, modules, devices, consoles.
package wake

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// RunDir is where everything of a run lies, in RAM.
const RunDir = "/run/reimager"

type mount struct {
	source, dir, kind string
	flags             uintptr
	data              string
}

func kernelFilesystems() []mount {
	const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return []mount{
		{"proc", "/proc", "proc", plain, ""},
		{"sysfs", "/sys", "sysfs", plain, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	}
}

// Mount mounts the kernel's filesystems and makes RunDir.
func Mount() error {
	var all []error
	for _, m := range kernelFilesystems() {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			all = append(all, err)
			continue
		}
		err := unix.Mount(m.source, m.dir, m.kind, m.flags, m.data)
		// EBUSY: it is mounted there already, as the kernel itself does with devtmpfs
		// (CONFIG_DEVTMPFS_MOUNT).
		if err != nil && !errors.Is(err, unix.EBUSY) {
			all = append(all, fmt.Errorf("mount %s: %w", m.dir, err))
		}
	}
	all = append(all, os.MkdirAll(RunDir, 0o700))
	return errors.Join(all...)
}

// QuietConsole keeps all but errors of the kernel off the consoles, so that they
// stay readable; dmesg has everything.
func QuietConsole() error {
	if err := os.WriteFile("/proc/sys/kernel/printk", []byte("3"), 0); err != nil {
		return fmt.Errorf("quiet the console: %w", err)
	}
	return nil
}

// CtrlAltDelOff makes the three keys a signal to PID 1 instead of a reset, which
// might come while the disk is half written.
func CtrlAltDelOff() error {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		return fmt.Errorf("switch ctrl-alt-del off: %w", err)
	}
	return nil
}

// SysRqOff makes the kernel deaf to SysRq from keyboards and serial lines, which could
// reset a half written disk; its trigger file still works. An oops shall cost a worker,
// not the machine. Documentation/admin-guide/sysrq.rst, sysctl/kernel.rst.
func SysRqOff() error {
	var all []error
	for _, name := range []string{"sysrq", "panic_on_oops"} {
		err := os.WriteFile("/proc/sys/kernel/"+name, []byte("0"), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // CONFIG_MAGIC_SYSRQ may be off
			all = append(all, fmt.Errorf("switch %s off: %w", name, err))
		}
	}
	return errors.Join(all...)
}

// Cmdline returns the value of a parameter of the kernel command line, the last
// one if it is there more than once.
func Cmdline(key string) (string, error) {
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", fmt.Errorf("read kernel command line: %w", err)
	}
	return parameter(string(text), key), nil
}

func parameter(cmdline, key string) string {
	value := ""
	for _, word := range strings.Fields(cmdline) {
		if v, ok := strings.CutPrefix(word, key+"="); ok {
			value = v
		}
	}
	return value
}

// MountsBelow returns the mount points at and below a directory in the order of
// mounting.
func MountsBelow(dir string) ([]string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return mountPoints(string(text), dir), nil
}

// UnmountBelow unmounts everything at and below a directory, the last mounted first.
func UnmountBelow(dir string) error {
	points, err := MountsBelow(dir)
	all := []error{err}
	for i := len(points) - 1; i >= 0; i-- {
		if err := unix.Unmount(points[i], 0); err != nil {
			all = append(all, fmt.Errorf("unmount %s: %w", points[i], err))
		}
	}
	return errors.Join(all...)
}

// mountPoints returns the mount points at and below dir in the order of mounting.
// The fifth field of a line is the mount point, with octal escapes: proc_pid_mountinfo(5).
func mountPoints(mountinfo, dir string) []string {
	var points []string
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 4 {
			p := unescape.Replace(f[4])
			if rel, err := filepath.Rel(dir, p); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
				points = append(points, p)
			}
		}
	}
	return points
}
