package boot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxSymlinks is the kernel's own limit (MAXSYMLINKS).
const maxSymlinks = 40

// resolveBeneath follows the symlinks of name as a process would whose "/" is
// root, like openat2's RESOLVE_IN_ROOT; os.Root alone refuses absolute links.
// What does not exist stays as it is, so the result may name a file to create.
func resolveBeneath(root *os.Root, name string) (string, error) {
	done, rest := "", strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done = path.Dir("/" + done)[1:]
			continue
		}
		next := path.Join(done, part)
		info, err := root.Lstat(next)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if err != nil || info.Mode()&fs.ModeSymlink == 0 {
			done = next
			continue
		}
		if links++; links > maxSymlinks {
			return "", &fs.PathError{Op: "resolve", Path: name, Err: syscall.ELOOP}
		}
		target, err := root.Readlink(next)
		if err != nil {
			return "", err
		}
		if path.IsAbs(target) {
			done = ""
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	if done == "" {
		done = "."
	}
	return done, nil
}

// replaceFile gives name new content, or creates it (mode 0644), so that after
// a crash there is the old file or the new one, whole. Mode and owner stay.
func replaceFile(root *os.Root, name string, content []byte) error {
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	temp := path.Join(dir, ".reimager."+base)
	// A crash may have left one; its name is ours.
	if err := root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	old, err := root.Lstat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if old != nil && !old.Mode().IsRegular() {
		return &fs.PathError{Op: "replace", Path: name, Err: errors.New("not a regular file")}
	}
	if err := writeLike(root, temp, content, old); err != nil {
		return errors.Join(err, ignoreNotExist(root.Remove(temp)))
	}
	if err := root.Rename(temp, name); err != nil {
		return errors.Join(err, root.Remove(temp))
	}
	return syncDir(root, dir)
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// writeLike writes and syncs a new file with the mode and owner of another one.
func writeLike(root *os.Root, name string, content []byte, like fs.FileInfo) (err error) {
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := file.Write(content); err != nil {
		return err
	}
	if err := copyOwnerMode(file, like); err != nil {
		return err
	}
	return file.Sync()
}

// copyOwnerMode changes only what differs: vfat has one owner and mode for all
// files and refuses others, though the new file has them already. The owner
// comes first, as chown clears setuid bits.
func copyOwnerMode(file *os.File, like fs.FileInfo) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if like != nil {
		mode = like.Mode()
		want, wantOK := like.Sys().(*syscall.Stat_t)
		have, haveOK := info.Sys().(*syscall.Stat_t)
		if !wantOK || !haveOK {
			return &fs.PathError{Op: "stat", Path: file.Name(), Err: errors.New("no owner")}
		}
		if want.Uid != have.Uid || want.Gid != have.Gid {
			if err := file.Chown(int(want.Uid), int(want.Gid)); err != nil {
				return err
			}
		}
	}
	if info.Mode() == mode {
		return nil
	}
	err = file.Chmod(mode)
	if like == nil && errors.Is(err, syscall.EPERM) {
		return nil // vfat: a new file has the mode that the mount gives all
	}
	return err
}

func removeFile(root *os.Root, name string) error {
	if err := root.Remove(name); err != nil {
		return err
	}
	return syncDir(root, path.Dir(name))
}

func syncDir(root *os.Root, name string) error {
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// readWhole reads a regular file of at most limit bytes, and one byte more of a
// longer one. With inPlace it refuses a file that GRUB could not rewrite.
func readWhole(root *os.Root, name string, limit int64, inPlace bool) ([]byte, error) {
	// Opening a FIFO would wait for its writer.
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	if inPlace {
		if err := checkAllocated(file, info); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(file, limit+1))
}

// checkAllocated makes sure that each byte of the file has a place on the disk:
// GRUB's save_env finds the sectors to write by reading the file. A hole has
// none, nor has data that lies in the inode.
func checkAllocated(file *os.File, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Blocks*512 < info.Size() {
		return errors.New("file is sparse or lies in its inode")
	}
	if info.Size() == 0 {
		return nil // lseek(2) answers ENXIO at the end of the file
	}
	hole, err := file.Seek(0, unix.SEEK_HOLE)
	switch {
	case errors.Is(err, syscall.EINVAL): // a filesystem that knows no holes
	case err != nil:
		return err
	case hole < info.Size():
		return fmt.Errorf("file is sparse: hole at byte %d", hole)
	}
	_, err = file.Seek(0, io.SeekStart)
	return err
}
