package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"reimager/disk"
	"reimager/report"
)

// openTarget opens what an image is written to by hand: a disk that nobody uses, or
// a file that exists. It says what it is, for the question before it is destroyed.
func openTarget(name string) (dev *disk.Device, what string, err error) {
	real, err := filepath.EvalSymlinks(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", report.Hint(fmt.Errorf("open target %s: there is no such device or file", name),
			"nothing is created where a device was meant; to write to a file make it first: truncate -s SIZE %s", name)
	}
	if err != nil {
		return nil, "", fmt.Errorf("open target: %w", err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return nil, "", fmt.Errorf("open target: %w", err)
	}
	if info.Mode().IsRegular() {
		return openFile(real, info)
	}
	var st unix.Stat_t
	if err := unix.Stat(real, &st); err != nil {
		return nil, "", fmt.Errorf("open target %s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil, "", fmt.Errorf("open target %s: neither a block device nor a file", name)
	}
	return openDisk(st.Rdev)
}

func openFile(name string, info os.FileInfo) (*disk.Device, string, error) {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return nil, "", fmt.Errorf("open target %s: %w", name, err)
	}
	if loops := (disk.Sysfs{}).LoopOf(&st); len(loops) > 0 {
		return nil, "", report.Hint(fmt.Errorf("open target %s: it is attached to %s", name, strings.Join(loops, ", ")), "write to the loop device, or detach it: losetup -d")
	}
	dev, err := disk.OpenFile(name)
	return dev, fmt.Sprintf("the file %s, %s", name, disk.Size(info.Size())), err
}

func openDisk(node uint64) (*disk.Device, string, error) {
	var sys disk.Sysfs
	d, err := sys.ByNode(unix.Major(node), unix.Minor(node))
	var partition *disk.PartitionError
	if errors.As(err, &partition) {
		return nil, "", report.Hint(fmt.Errorf("open target: %w, and the image is that of a whole disk", partition), "name the disk: %s", partition.Disk)
	}
	if err != nil {
		return nil, "", err
	}
	if d.ReadOnly {
		return nil, "", fmt.Errorf("open target %s: it is read-only", d.Path)
	}
	users, err := sys.Users(d)
	if err != nil {
		return nil, "", err
	}
	if len(users) > 0 {
		return nil, "", report.Hint(fmt.Errorf("open target %s: it is in use: %s", d.Path, strings.Join(users, "; ")),
			"unmount, swapoff, deactivate or stop these; the disk of the running system is replaced with `reimager arm`")
	}
	dev, err := disk.Open(d.Path)
	if errors.Is(err, unix.EBUSY) {
		if by := sys.OpenBy(d); len(by) > 0 {
			err = fmt.Errorf("%w: %s", err, strings.Join(by, "; "))
		}
	}
	return dev, d.String(), err
}
