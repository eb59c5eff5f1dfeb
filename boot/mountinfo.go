package boot

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Location says which filesystem holds a path, and where in it.
type Location struct {
	// Device is the block device's node, /dev/sda5 for example.
	Device string
	// UUID is the filesystem's, from /dev/disk/by-uuid; "" without such a link.
	UUID string
	// FSType is the type as the kernel names it.
	FSType string
	// MountPoint is where the filesystem is mounted.
	MountPoint string
	// PathInFS is the path from the filesystem's own root, as a boot loader sees
	// it: below bind mounts, and with the name of a btrfs subvolume.
	PathInFS string
}

// Holding finds the filesystem that holds path, which must exist. A filesystem
// without a block device of its own (tmpfs, overlay, NFS) is an error.
func Holding(path string) (Location, error) {
	found, err := hostPaths{proc: "/proc", sys: "/sys", dev: "/dev"}.holding(path)
	if err != nil {
		return Location{}, fmt.Errorf("find filesystem of %s: %w", path, err)
	}
	return found, nil
}

// hostPaths is where the kernel shows mounts and devices.
type hostPaths struct{ proc, sys, dev string }

func (h hostPaths) holding(name string) (Location, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return Location{}, err
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	// The descriptor knows its mount; comparing path prefixes would be wrong
	// where one mount hides another.
	id, err := h.mountID(fd)
	if err != nil {
		return Location{}, err
	}
	real, err := os.Readlink(fmt.Sprintf("%s/self/fd/%d", h.proc, fd))
	if err != nil {
		return Location{}, err
	}
	table, err := os.Open(h.proc + "/self/mountinfo")
	if err != nil {
		return Location{}, err
	}
	defer table.Close()
	mounts, err := parseMountinfo(table)
	if err != nil {
		return Location{}, err
	}
	for _, m := range mounts {
		if m.id == id {
			return h.locate(m, real)
		}
	}
	return Location{}, fmt.Errorf("mount %d is not in mountinfo", id)
}

// mountID reads the mnt_id line of proc_pid_fdinfo(5), there since Linux 3.15.
func (h hostPaths) mountID(fd int) (int, error) {
	name := fmt.Sprintf("%s/self/fdinfo/%d", h.proc, fd)
	info, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(info)) {
		if value, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, fmt.Errorf("%s: no mnt_id", name)
}

func (h hostPaths) locate(m mount, real string) (Location, error) {
	below, err := filepath.Rel(m.point, real)
	if err != nil || below == ".." || strings.HasPrefix(below, "../") {
		return Location{}, fmt.Errorf("%s is not below its mount point %s", real, m.point)
	}
	device, err := h.device(m)
	if err != nil {
		return Location{}, err
	}
	uuid, err := h.uuid(device)
	if err != nil {
		return Location{}, err
	}
	return Location{
		Device:     device,
		UUID:       uuid,
		FSType:     m.fsType,
		MountPoint: m.point,
		PathInFS:   path.Join(m.root, below),
	}, nil
}

// device names the node by the kernel's own DEVNAME: the source in mountinfo is
// what mount was called with, /dev/root or a link that is gone.
func (h hostPaths) device(m mount) (string, error) {
	if m.major == 0 {
		// btrfs has several devices and shows an anonymous number; its source is
		// the kernel's.
		if m.fsType == "btrfs" && strings.HasPrefix(m.source, "/dev/") {
			return filepath.Join(h.dev, strings.TrimPrefix(m.source, "/dev/")), nil
		}
		return "", fmt.Errorf("%s on %s has no block device", m.fsType, m.point)
	}
	name := fmt.Sprintf("%s/dev/block/%d:%d/uevent", h.sys, m.major, m.minor)
	uevent, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(uevent)) {
		if device, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok && device != "" {
			return filepath.Join(h.dev, device), nil
		}
	}
	return "", fmt.Errorf("%s: no DEVNAME", name)
}

// uuid looks for udev's link to the device.
func (h hostPaths) uuid(device string) (string, error) {
	dir := filepath.Join(h.dev, "disk/by-uuid")
	links, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	want, err := os.Stat(device)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // a container without the node
	}
	if err != nil {
		return "", err
	}
	for _, link := range links {
		have, err := os.Stat(filepath.Join(dir, link.Name()))
		if err == nil && sameDevice(have, want) {
			return link.Name(), nil
		}
	}
	return "", nil
}

func sameDevice(a, b fs.FileInfo) bool {
	x, okX := a.Sys().(*syscall.Stat_t)
	y, okY := b.Sys().(*syscall.Stat_t)
	return okX && okY && a.Mode()&fs.ModeDevice != 0 && a.Mode().Type() == b.Mode().Type() && x.Rdev == y.Rdev
}

// mount is one line of mountinfo.
type mount struct {
	id           int
	major, minor uint32
	root         string // in the filesystem
	point        string
	fsType       string
	source       string
}

// parseMountinfo reads the format of proc_pid_mountinfo(5):
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
func parseMountinfo(r io.Reader) ([]mount, error) {
	var mounts []mount
	lines := bufio.NewScanner(r)
	// overlay's options list every layer; a line may reach the page size and more.
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		m, err := parseMount(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("parse mountinfo line %q: %w", lines.Text(), err)
		}
		mounts = append(mounts, m)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read mountinfo: %w", err)
	}
	return mounts, nil
}

func parseMount(line string) (mount, error) {
	before, after, found := strings.Cut(line, " - ")
	fields, tail := strings.Split(before, " "), strings.Split(after, " ")
	if !found || len(fields) < 6 || len(tail) < 2 {
		return mount{}, errors.New("too few fields")
	}
	id, err := strconv.Atoi(fields[0])
	if err != nil {
		return mount{}, err
	}
	majorText, minorText, _ := strings.Cut(fields[2], ":")
	major, err := strconv.ParseUint(majorText, 10, 32)
	if err != nil {
		return mount{}, err
	}
	minor, err := strconv.ParseUint(minorText, 10, 32)
	if err != nil {
		return mount{}, err
	}
	m := mount{
		id: id, major: uint32(major), minor: uint32(minor),
		root: unescapeMount(fields[3]), point: unescapeMount(fields[4]),
		fsType: unescapeMount(tail[0]), source: unescapeMount(tail[1]),
	}
	if !path.IsAbs(m.point) {
		return mount{}, fmt.Errorf("mount point %q is not absolute", m.point)
	}
	return m, nil
}

// unescapeMount undoes the kernel's mangle(): \040 for a space, and the same
// for tab, newline, backslash and '#'.
func unescapeMount(s string) string {
	var text strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				text.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		text.WriteByte(s[i])
	}
	return text.String()
}
