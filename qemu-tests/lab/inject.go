package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"reimager/vm"
)

// InjectFiles puts files into an ext4 partition of an existing disk, through a
// loop mount; it needs root. Directories that exist keep their owner and mode
// unless the tree names them; a file replaces what has its path. Devices
// cannot be injected, and neither can paths that lead through an absolute
// symbolic link.
func InjectFiles(ctx context.Context, disk string, partition int, tree Tree) error {
	// For its checks only: the parents that it adds would get a new mode.
	if _, err := tree.complete(); err != nil {
		return err
	}
	return WithMount(ctx, disk, partition, func(dir string) (err error) {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, root.Close()) }()
		for _, f := range tree {
			if err := f.inject(root); err != nil {
				return fmt.Errorf("inject %q: %w", f.Path, err)
			}
		}
		// Deepest last in the tree, so that no later file moves a mtime again.
		for _, f := range slices.Backward(tree) {
			if f.Mode.IsDir() {
				if err := root.Chtimes(cleanPath(f.Path), f.mtime(), f.mtime()); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (f File) inject(root *os.Root) error {
	name := cleanPath(f.Path)
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	if f.Mode.IsDir() {
		if err := root.MkdirAll(name, 0o755); err != nil {
			return err
		}
		return f.setMetadata(root, name)
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch {
	case f.HardLink != "":
		return root.Link(cleanPath(f.HardLink), name)
	case f.Target != "":
		return errors.Join(root.Symlink(f.Target, name), root.Lchown(name, f.UID, f.GID))
	case !f.Mode.IsRegular():
		return fmt.Errorf("mode %v is neither file, directory nor link", f.Mode)
	}
	if err := f.copyTo(root, name); err != nil {
		return err
	}
	return f.setMetadata(root, name)
}

func (f File) copyTo(root *os.Root, name string) error {
	in, _, err := f.open()
	if err != nil {
		return err
	}
	defer in.Close() // read only: nothing can be lost
	out, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// setMetadata sets the owner first, because chown(2) clears setuid bits and
// capabilities.
func (f File) setMetadata(root *os.Root, name string) error {
	mode := f.Mode
	if mode == 0 {
		mode = 0o644
	}
	if err := errors.Join(root.Chown(name, f.UID, f.GID), root.Chmod(name, mode)); err != nil {
		return err
	}
	in, err := root.Open(name)
	if err != nil {
		return err
	}
	defer in.Close() // nothing is written through it
	for attr, value := range f.Xattrs {
		if err := unix.Fsetxattr(int(in.Fd()), attr, []byte(value), 0); err != nil {
			return fmt.Errorf("set extended attribute %s: %w", attr, err)
		}
	}
	return root.Chtimes(name, f.mtime(), f.mtime())
}

// WithMount mounts an ext4 partition of a disk for writing while use runs.
func WithMount(ctx context.Context, disk string, partition int, use func(dir string) error) error {
	if err := needRootFor(fmt.Sprintf("mount partition %d of %s", partition, disk)); err != nil {
		return err
	}
	table, err := ReadTable(ctx, disk)
	if err != nil {
		return err
	}
	entry, err := table.Entry(partition)
	if err != nil {
		return fmt.Errorf("mount %s: %w", disk, err)
	}
	if err := loopMount(ctx, "rw", disk, entry.Offset, entry.Size, use); err != nil {
		return fmt.Errorf("change partition %d of %s: %w", partition, disk, err)
	}
	return nil
}

// loopMount mounts the ext4 filesystem in size bytes of a file while use runs.
func loopMount(ctx context.Context, options, file string, offset, size int64, use func(dir string) error) (err error) {
	dir, err := os.MkdirTemp("", "lab-mount-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	options += ",loop,offset=" + strconv.FormatInt(offset, 10) + ",sizelimit=" + strconv.FormatInt(size, 10)
	file, err = filepath.Abs(file)
	if err != nil {
		return err
	}
	if _, err := vm.Run(ctx, "mount", "-t", "ext4", "-o", options, file, dir); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, Unmount(context.WithoutCancel(ctx), dir))
	}()
	return use(dir)
}

// Unmount unmounts a directory. For ten seconds it tries again: a program that is started
// beside it has our open files until it is executed, and somebody may walk through all of a
// host's files.
func Unmount(ctx context.Context, dir string) (err error) {
	for range 100 {
		if _, err = vm.Run(ctx, "umount", dir); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}
