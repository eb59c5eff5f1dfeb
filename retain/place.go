package retain

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// moveIntoPlace gives a finished file its name, or removes it.
func (m *maker) moveIntoPlace(dir int, j *job) error {
	err := m.replace(dir, j.name)
	if err == nil {
		j.restored.Replaced = true
		if j.it.kind != TypeHardLink {
			return nil
		}
		// Renaming one name of a file over another does nothing: rename(2).
	}
	if gone := unix.Unlinkat(dir, temporaryName, 0); gone != nil && gone != unix.ENOENT {
		return fmt.Errorf("%v; remove %s: %w", err, temporaryName, gone)
	}
	return err
}

// replace renames a finished file over what is there.
func (m *maker) replace(dir int, name string) error {
	st, err := lstatat(dir, name)
	if err != nil {
		return err
	}
	old := typeOf(st.Mode)
	err = renameOver(dir, name, old)
	if err == unix.EPERM && (old == TypeFile || old == TypeDirectory) {
		err = renameOverLocked(dir, name, old)
	}
	// A cached directory may have been reached through what is gone.
	m.stale = m.stale || (err == nil && (old == TypeDirectory || old == TypeSymlink))
	return err
}

func renameOver(dir int, name string, old Type) error {
	if old == TypeDirectory {
		switch err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err {
		case nil:
		case unix.ENOTEMPTY, unix.EEXIST:
			return conflictError("it is a directory with content in the new system")
		case unix.EBUSY:
			return conflictError("it is a mount point in the new system")
		default:
			return err
		}
	}
	return unix.Renameat(dir, temporaryName, dir, name)
}

// renameOverLocked clears the immutable and append-only flags of what is in the
// way, which has them back if it stays.
func renameOverLocked(dir int, name string, old Type) error {
	fd, err := openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	flags, _, err := getFlags(fd)
	if err == nil && flags&locking == 0 {
		err = unix.EPERM
	}
	if err == nil {
		_, err = changeFlags(fd, flags&^locking)
	}
	if err != nil {
		return fmt.Errorf("clear its inode flags: %w", err)
	}
	if err = renameOver(dir, name, old); err == nil {
		return nil
	}
	if _, again := changeFlags(fd, flags); again != nil {
		return fmt.Errorf("%w; set its inode flags again: %w", err, again)
	}
	return err
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
