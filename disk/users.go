package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Users says who uses a disk or anything on it: mounts, swap, what is stacked upon
// it. It is empty for a disk that nobody uses.
func (s Sysfs) Users(d *Disk) ([]string, error) {
	nodes := map[string]string{} // major:minor → path
	dirs := []string{filepath.Join(s.sys(), "block", d.Name)}
	nodes[readText(filepath.Join(dirs[0], "dev"))] = d.Path
	paths := []string{d.Path}
	for _, p := range d.Partitions {
		dir := filepath.Join(dirs[0], p.Name)
		nodes[readText(filepath.Join(dir, "dev"))] = p.Path
		paths = append(paths, p.Path)
		dirs = append(dirs, dir)
	}
	users, err := s.mountUsers(nodes, paths)
	if err != nil {
		return nil, err
	}
	users = append(users, s.swapUsers(paths)...)
	for i, dir := range dirs {
		entries, _ := os.ReadDir(filepath.Join(dir, "holders")) // a kernel without holders has no stacking
		for _, e := range entries {
			name := e.Name()
			if n := readText(filepath.Join(s.sys(), "block", name, "dm/name")); n != "" {
				name += " (" + n + ")"
			}
			users = append(users, fmt.Sprintf("%s is part of %s", paths[i], name))
		}
	}
	for _, l := range s.loops() {
		if node, ok := nodes[fmt.Sprintf("%d:%d", unix.Major(l.rdev), unix.Minor(l.rdev))]; ok && l.rdev != 0 {
			users = append(users, fmt.Sprintf("%s is behind %s", node, l.path))
		}
	}
	return users, nil
}

func (s Sysfs) proc() string {
	if s.Proc == "" {
		return "/proc"
	}
	return s.Proc
}

// mountUsers reads proc_pid_mountinfo(5): the third field is major:minor, the fifth
// the mount point, and the second behind " - " the source, which for btrfs is the only
// one that names the device.
func (s Sysfs) mountUsers(nodes map[string]string, paths []string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(s.proc(), "self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var users []string
	for line := range strings.Lines(string(text)) {
		head, tail, _ := strings.Cut(line, " - ")
		fields, behind := strings.Fields(head), strings.Fields(tail)
		if len(fields) < 5 || len(behind) < 2 {
			continue
		}
		node, ok := nodes[fields[2]]
		if !ok && slices.Contains(paths, behind[1]) {
			node, ok = behind[1], true
		}
		if ok {
			users = append(users, fmt.Sprintf("%s is mounted at %s", node, unescape(fields[4])))
		}
	}
	return users, nil
}

func (s Sysfs) swapUsers(paths []string) []string {
	text, err := os.ReadFile(filepath.Join(s.proc(), "swaps"))
	if err != nil {
		return nil // a kernel without swap
	}
	var users []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 0 && slices.Contains(paths, fields[0]) {
			users = append(users, fields[0]+" is swap")
		}
	}
	return users
}

// OpenBy names the processes that have a disk or a partition of it open. Those of
// others are seen by root only. To have it open is not to hold it: many only look.
func (s Sysfs) OpenBy(d *Disk) []string {
	paths := []string{d.Path}
	for _, p := range d.Partitions {
		paths = append(paths, p.Path)
	}
	links, _ := filepath.Glob(filepath.Join(s.proc(), "[0-9]*/fd/*"))
	var users []string
	for _, link := range links {
		to, err := os.Readlink(link)
		if err != nil || !slices.Contains(paths, to) {
			continue
		}
		dir := filepath.Dir(filepath.Dir(link))
		pid := filepath.Base(dir)
		if pid == strconv.Itoa(os.Getpid()) {
			continue
		}
		user := fmt.Sprintf("process %s (%s) has %s open", pid, readText(filepath.Join(dir, "comm")), to)
		if !slices.Contains(users, user) {
			users = append(users, user)
		}
	}
	return users
}

// loop is an attached loop device, and what is behind it: loop_info64 of the kernel's
// linux/loop.h.
type loop struct {
	path     string
	dev, ino uint64 // of a file
	rdev     uint64 // of a block device
}

// loops asks every loop device, since names of files may be relative or many.
func (s Sysfs) loops() []loop {
	attached, _ := filepath.Glob(filepath.Join(s.sys(), "block/loop*/loop"))
	var all []loop
	for _, dir := range attached {
		l := loop{path: s.node(filepath.Base(filepath.Dir(dir)))}
		f, err := os.Open(l.path)
		if err != nil {
			continue
		}
		if info, err := unix.IoctlLoopGetStatus64(int(f.Fd())); err == nil {
			l.dev, l.ino, l.rdev = info.Device, info.Inode, info.Rdevice
			all = append(all, l)
		}
		f.Close()
	}
	return all
}

// LoopOf returns the loop devices that a regular file is attached to.
func (s Sysfs) LoopOf(file *unix.Stat_t) []string {
	var paths []string
	for _, l := range s.loops() {
		if l.dev == file.Dev && l.ino == file.Ino {
			paths = append(paths, l.path)
		}
	}
	return paths
}

// ByNode returns the whole disk that a block device's node stands for. A partition is
// an error that names its disk.
func (s Sysfs) ByNode(major, minor uint32) (*Disk, error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(s.sys(), "dev/block", fmt.Sprintf("%d:%d", major, minor)))
	if err != nil {
		return nil, fmt.Errorf("find disk %d:%d: %w", major, minor, err)
	}
	name := filepath.Base(dir)
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		return nil, &PartitionError{Partition: s.node(name), Disk: s.node(filepath.Base(filepath.Dir(dir)))}
	}
	return s.Disk(name)
}

// PartitionError says that a partition was named where a whole disk is needed.
type PartitionError struct{ Partition, Disk string }

func (e *PartitionError) Error() string {
	return fmt.Sprintf("%s is a partition of %s", e.Partition, e.Disk)
}
