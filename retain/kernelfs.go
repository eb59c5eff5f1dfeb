package retain

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// filesystems tells which devices (st_dev) hold filesystems that the kernel
// makes up. What is in them is not the machine's state.
type filesystems struct {
	byDev  map[uint64]string // kernel filesystem's type, "" for any other
	mounts map[uint64]string // type by device, as mountinfo has it
}

func isKernelFilesystem(fsType string) bool {
	switch fsType {
	case "proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "debugfs", "tracefs",
		"securityfs", "pstore", "bpf", "configfs", "fusectl", "mqueue", "hugetlbfs", "efivarfs",
		"binfmt_misc", "autofs", "rpc_pipefs", "selinuxfs", "nsfs":
		return true
	}
	return false
}

func newFilesystems() *filesystems {
	f := &filesystems{byDev: map[uint64]string{}, mounts: map[uint64]string{}}
	// Without /proc the magic numbers below do; they can't tell devtmpfs from tmpfs.
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return f
	}
	for line := range strings.Lines(string(text)) {
		f.addMount(line)
	}
	return f
}

// addMount reads a line of proc_pid_mountinfo(5): the third field is
// major:minor, the first after a lone "-" the type.
func (f *filesystems) addMount(line string) {
	before, after, ok := strings.Cut(line, " - ")
	fields, types := strings.Fields(before), strings.Fields(after)
	if !ok || len(fields) < 3 || len(types) == 0 {
		return
	}
	major, minor, _ := strings.Cut(fields[2], ":")
	ma, errMajor := parseUint32(major)
	mi, errMinor := parseUint32(minor)
	if errMajor == nil && errMinor == nil {
		f.mounts[unix.Mkdev(ma, mi)] = types[0]
	}
}

// kernel returns the type of the kernel filesystem that the entry name in the
// open directory dir is on, or "".
func (f *filesystems) kernel(dev uint64, dir int, name string) string {
	if t, known := f.byDev[dev]; known {
		return t
	}
	t := f.mounts[dev]
	if t == "" {
		t = fsTypeByMagic(dir, name)
	}
	if !isKernelFilesystem(t) {
		t = ""
	}
	f.byDev[dev] = t
	return t
}

func fsTypeByMagic(dir int, name string) string {
	fd, err := openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return ""
	}
	switch int64(st.Type) {
	case unix.PROC_SUPER_MAGIC:
		return "proc"
	case unix.SYSFS_MAGIC:
		return "sysfs"
	case unix.DEVPTS_SUPER_MAGIC:
		return "devpts"
	case unix.CGROUP_SUPER_MAGIC:
		return "cgroup"
	case unix.CGROUP2_SUPER_MAGIC:
		return "cgroup2"
	case unix.DEBUGFS_MAGIC:
		return "debugfs"
	case unix.TRACEFS_MAGIC:
		return "tracefs"
	case unix.SECURITYFS_MAGIC:
		return "securityfs"
	case unix.BPF_FS_MAGIC:
		return "bpf"
	case unix.EFIVARFS_MAGIC:
		return "efivarfs"
	}
	return ""
}
