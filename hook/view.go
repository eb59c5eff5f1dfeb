package hook

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"reimager/wake"
)

// enter makes a mounted system this process's root, with nothing but it in reach.
func enter(root string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// Mounts are listed by their real paths.
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return err
	}
	if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", root, err)
	}
	points, err := wake.MountsBelow(root)
	if err != nil {
		return err
	}
	if len(points) == 0 {
		return fmt.Errorf("bind %s: it is not among the mounts", root)
	}
	for _, p := range points {
		if err := noDevices(p); err != nil {
			return err
		}
	}
	// As switch_root does, since pivot_root(2) refuses an initramfs. The new root
	// covers the old: who leaves it by a chroot of his own finds himself in it again.
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter %s: %w", root, err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s to /: %w", root, err)
	}
	return errors.Join(unix.Chroot("."), unix.Chdir("/"))
}

// noDevices makes device nodes on a mounted filesystem useless; an image, or what was
// retained, may have one of the disk anywhere.
func noDevices(point string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(point, &st); err != nil {
		return fmt.Errorf("read mount flags of %s: %w", point, err)
	}
	// A remount sets all flags, so it has to repeat those that are: statfs(2), mount(2).
	flags := uintptr(unix.MS_REMOUNT | unix.MS_BIND | unix.MS_NODEV)
	for _, f := range []struct {
		is  int64
		set uintptr
	}{
		{unix.ST_RDONLY, unix.MS_RDONLY}, {unix.ST_NOSUID, unix.MS_NOSUID}, {unix.ST_NOEXEC, unix.MS_NOEXEC},
		{unix.ST_NOATIME, unix.MS_NOATIME}, {unix.ST_NODIRATIME, unix.MS_NODIRATIME}, {unix.ST_RELATIME, unix.MS_RELATIME},
	} {
		if int64(st.Flags)&f.is != 0 {
			flags |= f.set
		}
	}
	if err := unix.Mount("", point, "", flags, ""); err != nil {
		return fmt.Errorf("remount %s without devices: %w", point, err)
	}
	return nil
}

// mountKernel mounts what a running system has besides its own filesystems. All
// paths are those of the new system.
func mountKernel(d devices) error {
	unix.Umask(0)
	const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		dir, kind string
		flags     uintptr
		data      string
		optional  bool // where the image has no such directory
	}{
		// Read-only: by core_pattern, sysrq-trigger or /sys/block a root reaches out.
		{"/proc", "proc", plain | unix.MS_RDONLY, "", false},
		{"/sys", "sysfs", plain | unix.MS_RDONLY, "", false},
		// Small, since the image is in RAM.
		{"/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755,size=32m", true},
		{"/dev", "tmpfs", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755,size=8m,nr_inodes=4096", false},
	} {
		if _, err := os.Stat(m.dir); errors.Is(err, os.ErrNotExist) {
			if m.optional {
				continue
			}
			if err := os.Mkdir(m.dir, 0o755); err != nil {
				return err
			}
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	// /var/lock leads there. An image without /run has no use for it.
	if err := os.Mkdir("/run/lock", 0o777|os.ModeSticky); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return d.make("/dev")
}

// make fills a new /dev.
func (d devices) make(dev string) error {
	for _, n := range []node{
		{"null", unix.S_IFCHR | 0o666, unix.Mkdev(1, 3)}, {"zero", unix.S_IFCHR | 0o666, unix.Mkdev(1, 5)},
		{"full", unix.S_IFCHR | 0o666, unix.Mkdev(1, 7)}, {"random", unix.S_IFCHR | 0o666, unix.Mkdev(1, 8)},
		{"urandom", unix.S_IFCHR | 0o666, unix.Mkdev(1, 9)}, {"tty", unix.S_IFCHR | 0o666, unix.Mkdev(5, 0)},
		// The real one may be a serial line whose other end stopped the flow.
		{"console", unix.S_IFCHR | 0o600, unix.Mkdev(1, 3)},
	} {
		if err := n.make(dev); err != nil {
			return err
		}
	}
	for _, n := range d.nodes {
		if err := n.make(dev); err != nil {
			return err
		}
	}
	for _, l := range append([]link{
		{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"},
		{"ptmx", "pts/ptmx"},
	}, d.links...) {
		if err := l.make(dev); err != nil {
			return err
		}
	}
	for _, m := range []struct{ dir, kind, data string }{
		{"pts", "devpts", "newinstance,mode=0620,gid=5,ptmxmode=0666"},
		{"shm", "tmpfs", "mode=1777,size=32m"},
	} {
		dir := filepath.Join(dev, m.dir)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, dir, m.kind, unix.MS_NOSUID|unix.MS_NOEXEC, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	return d.disk.make(dev)
}

type node struct {
	name string // beneath /dev
	mode uint32
	rdev uint64
}

func (n node) make(dev string) error {
	path := filepath.Join(dev, n.name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := unix.Mknod(path, n.mode, int(n.rdev)); err != nil {
		return fmt.Errorf("make node %s: %w", path, err)
	}
	return nil
}

type link struct{ name, target string }

func (l link) make(dev string) error {
	path := filepath.Join(dev, l.name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	// Two partitions with one label: udev takes any, we the first.
	if err := os.Symlink(l.target, path); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// beneathDev returns the name of a node beneath /dev.
func beneathDev(path string) string { return strings.TrimPrefix(path, "/dev/") }
