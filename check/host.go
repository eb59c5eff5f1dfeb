package check

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"reimager/config"
	"reimager/disk"
	"reimager/stages"
)

// Host is where a machine shows itself. The zero value is the running machine;
// tests point it elsewhere.
type Host struct {
	Root string // "/" if empty: of the old system
	Sys  string // "/sys" if empty
	Dev  string // "/dev" if empty
	Proc string // "/proc" if empty
}

func (h Host) root(name string) string { return filepath.Join(cmp.Or(h.Root, "/"), name) }
func (h Host) sys(name string) string  { return filepath.Join(cmp.Or(h.Sys, "/sys"), name) }
func (h Host) dev(name string) string  { return filepath.Join(cmp.Or(h.Dev, "/dev"), name) }
func (h Host) proc(name string) string { return filepath.Join(cmp.Or(h.Proc, "/proc"), name) }

func (h Host) disks() disk.Sysfs { return disk.Sysfs{Sys: h.Sys, Dev: h.Dev, Proc: h.Proc} }

// text returns what a small file of the kernel's says; "" if there is none.
func text(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.Trim(string(b), " \n\x00")
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// release returns the running kernel, as uname -r.
func (h Host) release() (string, error) {
	b, err := os.ReadFile(h.proc("sys/kernel/osrelease"))
	if err != nil {
		return "", fmt.Errorf("find running kernel: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Machine returns the hardware as its firmware names it: DMI as the kernel shows it
// (Documentation/ABI/testing/sysfs-firmware-dmi-entries), and what kind of firmware
// booted it.
func (h Host) Machine() config.MachineIdentity {
	return stages.ThisMachine(h.sys(""))
}

// memory returns a line of /proc/meminfo in bytes: proc_meminfo(5).
func (h Host) memory(key string) (int64, error) {
	name := h.proc("meminfo")
	all, err := os.ReadFile(name)
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(all)) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read memory: %s: %w", name, err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("read memory: no %s in %s", key, name)
}

// freeSpace returns what root may still write to the filesystem of the nearest
// directory at or above a path that exists, in bytes.
func freeSpace(name string) (int64, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(name, &st)
		if err == nil {
			return int64(st.Bavail) * st.Bsize, nil
		}
		if up := filepath.Dir(name); err == unix.ENOENT && up != name {
			name = up
			continue
		}
		return 0, fmt.Errorf("look at free space of %s: %w", name, err)
	}
}
