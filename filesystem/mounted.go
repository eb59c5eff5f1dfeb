package filesystem

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// mountedFiles reads the root filesystem through the kernel.
func (l *look) mountedFiles() error {
	kind := l.facts.Type
	if err := l.p.ctx.Err(); err != nil {
		return err
	}
	// A second filesystem with the UUID of one that the host has mounted is taken for
	// another device of it.
	if _, err := os.Stat("/sys/fs/btrfs/" + l.facts.UUID); kind == "btrfs" && err == nil {
		return notRead(kind, fmt.Errorf("the host has one with the same UUID mounted"))
	}
	root, err := mountImage(l.image, l.p.off, l.p.size, kind)
	if err != nil {
		return notRead(kind, err)
	}
	err = l.collectMounted(root)
	return errors.Join(err, root.Close())
}

// collectMounted looks for the root: in btrfs it may lie in a subvolume, as
// Debian, Ubuntu and Fedora call it.
func (l *look) collectMounted(root *os.Root) error {
	places := []string{"."}
	if l.facts.Type == "btrfs" {
		places = append(places, "@", "@rootfs", "root")
	}
	for _, place := range places {
		at, err := root.OpenRoot(place)
		if err != nil {
			continue // no such subvolume
		}
		found, err := collect(&mountedTree{at})
		if err = errors.Join(err, at.Close()); err != nil {
			return notRead(l.facts.Type, err)
		}
		if found != nil {
			if place != "." {
				found.Subvolume = place
			}
			l.facts.Root = found
			return nil
		}
	}
	return nil
}

// mountImage mounts a part of an image read-only and nowhere: the mount has no place
// in the host's tree, and it and its loop device are gone with the last descriptor,
// however this process ends. Neither log is replayed.
func mountImage(image *os.File, off, size int64, kind string) (*os.Root, error) {
	loop, err := attach(image, off, size)
	if err != nil {
		return nil, err
	}
	defer loop.Close() // from here on the mount holds it
	context, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open a filesystem of the kernel: %w", err)
	}
	defer unix.Close(context)
	err = errors.Join(unix.FsconfigSetString(context, "source", loop.Name()), unix.FsconfigSetFlag(context, "ro"))
	if kind == "xfs" {
		err = errors.Join(err, unix.FsconfigSetFlag(context, "norecovery"), unix.FsconfigSetFlag(context, "nouuid"))
	} else {
		err = errors.Join(err, unix.FsconfigSetString(context, "rescue", "nologreplay"))
	}
	if err == nil {
		err = unix.FsconfigCreate(context)
	}
	if err != nil {
		return nil, fmt.Errorf("set up mount of %s: %w", loop.Name(), err)
	}
	attributes := unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC
	fd, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", loop.Name(), err)
	}
	defer unix.Close(fd)
	return os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// attach gives a part of an image a read-only loop device that vanishes when it is closed.
func attach(image *os.File, off, size int64) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("get a loop device: %w", err)
	}
	defer control.Close()
	for range 16 {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("get a loop device: %w", err)
		}
		loop, err := os.Open(fmt.Sprintf("/dev/loop%d", number))
		if err != nil {
			return nil, fmt.Errorf("open loop device: %w", err)
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{Fd: uint32(image.Fd()), Info: unix.LoopInfo64{
			Offset: uint64(off), Sizelimit: uint64(size), Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR,
		}})
		if err == nil {
			return loop, nil
		}
		if err := errors.Join(err, loop.Close()); !errors.Is(err, unix.EBUSY) { // somebody else was quicker
			return nil, fmt.Errorf("set up %s: %w", loop.Name(), err)
		}
	}
	return nil, errors.New("get a loop device: others take every one that is free")
}

// mountedTree reads files through the kernel.
type mountedTree struct{ root *os.Root }

// inside makes a path of tree one of os.Root.
func inside(name string) string {
	if name == "/" {
		return "."
	}
	return strings.TrimPrefix(name, "/")
}

func (t *mountedTree) kind(name string) (string, error) {
	info, err := t.root.Lstat(inside(name))
	if err != nil {
		return "", err
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return "directory", nil
	case mode.IsRegular():
		return "file", nil
	case mode&fs.ModeSymlink != 0:
		return "symlink", nil
	case mode&fs.ModeNamedPipe != 0:
		return "fifo", nil
	case mode&fs.ModeSocket != 0:
		return "socket", nil
	case mode&fs.ModeDevice != 0:
		return "device", nil
	}
	return "", doubtf("it is of an unknown kind (%v)", info.Mode())
}

func (t *mountedTree) names(dir string) (names []string, err error) {
	f, err := t.root.Open(inside(dir))
	if err != nil {
		return nil, err
	}
	names, err = f.Readdirnames(maxPaths)
	if errors.Is(err, io.EOF) { // an empty one
		err = nil
	}
	return names, errors.Join(err, f.Close())
}

func (t *mountedTree) target(link string) (string, error) { return t.root.Readlink(inside(link)) }

func (t *mountedTree) text(file string, max int64) ([]byte, error) {
	f, err := t.root.Open(inside(file))
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(b)) > max {
		err = doubtf("it has more than %d bytes", max)
	}
	return b, errors.Join(err, f.Close())
}
