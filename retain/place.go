package retain

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// temporaryName is what a file is called until it is whole. One name is enough,
// as files are put back one by one, and so a run after a power cut clears away
// what the one before it left.
const temporaryName = ".reimager-restore-tmp"

// replace makes anything but directories and hard links, and moves it into place.
func (r *restorer) replace(it item, dir int, name string, restored *Restored) (replaced bool, err error) {
	err = r.build(it, dir, restored)
	if err == unix.EEXIST {
		// Left by a run that was cut.
		if err = unix.Unlinkat(dir, temporaryName, 0); err == nil {
			err = r.build(it, dir, restored)
		}
	}
	if err == nil {
		replaced, err = r.moveIntoPlace(dir, name)
	}
	if err != nil {
		return false, errors.Join(err, ignoreMissing(unix.Unlinkat(dir, temporaryName, 0)))
	}
	return replaced, nil
}

// ignoreMissing is for a file that is removed in case it was made.
func ignoreMissing(err error) error {
	if err == unix.ENOENT || err == unix.EISDIR {
		return nil
	}
	return err
}

// build makes the file under its temporary name. unix.EEXIST comes before
// anything of the archive has been read.
func (r *restorer) build(it item, dir int, restored *Restored) error {
	uid, gid := restored.UID, restored.GID
	object := xattrObject{dir, temporaryName}
	var err error
	switch it.kind {
	case TypeFile:
		restored.SHA256, err = r.file(it, dir, uid, gid)
		return err
	case TypeSymlink:
		err = unix.Symlinkat(it.header.Linkname, dir, temporaryName)
	case TypeFIFO:
		err = unix.Mknodat(dir, temporaryName, unix.S_IFIFO|0o600, 0)
	default:
		mode := uint32(unix.S_IFCHR)
		if it.kind == TypeBlockDevice {
			mode = unix.S_IFBLK
		}
		dev := unix.Mkdev(uint32(it.header.Devmajor), uint32(it.header.Devminor))
		err = unix.Mknodat(dir, temporaryName, mode|0o600, int(dev))
	}
	switch {
	case err == unix.EEXIST:
		return err
	case it.kind == TypeSymlink && (err == unix.ENOENT || err == unix.ENAMETOOLONG || err == unix.EINVAL):
		return conflictError("its link target is empty or too long")
	case err == unix.EPERM && unix.Geteuid() == 0, err == unix.EOPNOTSUPP:
		// vfat has neither links nor special files.
		return conflictError(fmt.Sprintf("the new filesystem has no %s: %v", it.kind, err))
	case err != nil:
		return err
	}
	return r.attributes(it, object, uid, gid)
}

func (r *restorer) file(it item, dir int, uid, gid uint32) (digest string, err error) {
	fd, err := unix.Openat(dir, temporaryName, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return "", err
	}
	digest, err = r.content(fd)
	if err == nil {
		err = r.attributes(it, xattrObject{fd: fd}, uid, gid)
	}
	return digest, errors.Join(err, unix.Close(fd))
}

func (r *restorer) content(fd int) (digest string, err error) {
	r.sum.Reset()
	for {
		n, err := r.in.tar.Read(r.buf)
		r.sum.Write(r.buf[:n])
		if _, err := (fdFile(fd)).Write(r.buf[:n]); err != nil {
			return "", fmt.Errorf("write: %w", err)
		}
		if err == io.EOF {
			return hex.EncodeToString(r.sum.Sum(nil)), nil
		}
		if err != nil {
			return "", fmt.Errorf("read from the archive: %w", err)
		}
		if err := r.ctx.Err(); err != nil {
			return "", err
		}
	}
}

// hardLink makes a further name of a file that this archive has put back.
func (r *restorer) hardLink(it item, dir int, name string) (replaced bool, err error) {
	if !r.done[it.target] {
		return false, conflictError(fmt.Sprintf("it is a hard link to %s, which was not put back", absolute(it.target)))
	}
	if it.target == it.rel {
		return false, conflictError("it is a hard link to itself")
	}
	above, targetName := splitLast(it.target)
	targetDir, err := r.dirs.open(above)
	if err != nil {
		return false, fmt.Errorf("open directory of link target %s: %w", absolute(it.target), err)
	}
	err = unix.Linkat(targetDir, targetName, dir, temporaryName, 0)
	if err == unix.EEXIST {
		if err = unix.Unlinkat(dir, temporaryName, 0); err == nil {
			err = unix.Linkat(targetDir, targetName, dir, temporaryName, 0)
		}
	}
	switch err {
	case nil:
	case unix.EXDEV, unix.EMLINK, unix.EPERM, unix.EOPNOTSUPP:
		// Two filesystems now, or one that has no (more) hard links.
		return false, conflictError(fmt.Sprintf("link to %s: %v", absolute(it.target), err))
	default:
		return false, fmt.Errorf("link to %s: %w", absolute(it.target), err)
	}
	replaced, err = r.moveIntoPlace(dir, name)
	// Renaming one name of a file over another is no error and does nothing, rename(2).
	return replaced, errors.Join(err, ignoreMissing(unix.Unlinkat(dir, temporaryName, 0)))
}

func (r *restorer) moveIntoPlace(dir int, name string) (replaced bool, err error) {
	err = unix.Renameat2(dir, temporaryName, dir, name, unix.RENAME_NOREPLACE)
	switch err {
	case nil:
		return false, nil
	case unix.EEXIST:
	case unix.EINVAL, unix.ENOSYS:
		// Filesystems and kernels that have no such flag.
	default:
		return false, refusedName(err)
	}
	st, err := lstatat(dir, name)
	if err == unix.ENOENT {
		return false, refusedName(unix.Renameat(dir, temporaryName, dir, name))
	}
	if err != nil {
		return false, refusedName(err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		switch err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err {
		case nil:
		case unix.ENOTEMPTY, unix.EEXIST:
			return false, conflictError("it is a directory with content in the new system")
		case unix.EBUSY:
			return false, conflictError("it is a mount point in the new system")
		default:
			return false, err
		}
	}
	if err := unix.Renameat(dir, temporaryName, dir, name); err != nil {
		return false, err
	}
	// A cached directory may have been reached through what is gone.
	t := typeOf(st.Mode)
	r.stale = r.stale || t == TypeDirectory || t == TypeSymlink
	return true, nil
}

// refusedName makes a conflict of a name that the filesystem can't store: too
// long, or with bytes that vfat (EINVAL) or a filesystem that insists on UTF-8
// (EILSEQ) does not have.
func refusedName(err error) error {
	switch err {
	case unix.ENAMETOOLONG, unix.EINVAL, unix.EILSEQ:
		return conflictError(fmt.Sprintf("the new filesystem refuses its name: %v", err))
	}
	return err
}
