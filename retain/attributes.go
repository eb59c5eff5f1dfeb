package retain

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attributes gives a file owner, mode, extended attributes and time, in this
// order: a change of owner clears setuid bits and capabilities, a change of
// mode the mask of an ACL, and any of them is a change. inherits says that it may
// have attributes already.
func (m *maker) attributes(it item, object xattrObject, uid, gid uint32, inherits bool) error {
	if err := m.tolerate(it, "owner", chown(object, uid, gid)); err != nil {
		return err
	}
	return m.unowned(it, object, inherits)
}

// unowned is for a file that has its owner.
func (m *maker) unowned(it item, object xattrObject, inherits bool) error {
	if it.kind != TypeSymlink {
		if err := m.tolerate(it, "mode", chmod(object, it.mode)); err != nil {
			return err
		}
	}
	if err := m.setXattrs(it, object, inherits); err != nil {
		return err
	}
	times := it.times()
	if err := setTimes(object, &times); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

func chown(o xattrObject, uid, gid uint32) error {
	if o.name == "" {
		return unix.Fchown(o.fd, int(uid), int(gid))
	}
	return unix.Fchownat(o.fd, o.name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW)
}

// chmod is never asked for a link, whose mode Linux doesn't have.
func chmod(o xattrObject, mode uint32) error {
	if o.name == "" {
		return unix.Fchmod(o.fd, mode)
	}
	return unix.Fchmodat(o.fd, o.name, mode, 0)
}

func setTimes(o xattrObject, times *[2]unix.Timespec) error {
	if o.name == "" {
		// With a null path utimensat(2) is futimens(3), which x/sys lacks.
		_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(o.fd), 0, uintptr(unsafe.Pointer(times)), 0, 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	}
	return unix.UtimesNanoAt(o.fd, o.name, times[:], unix.AT_SYMLINK_NOFOLLOW)
}

// tolerate reports what a filesystem refuses by its nature, and returns any
// other error. EPERM: vfat refuses owners and modes that it can't store, and
// every filesystem refuses them to a caller who is not root.
func (m *maker) tolerate(it item, attribute string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EOPNOTSUPP):
		m.lose(it, attribute, err.Error())
		return nil
	}
	return fmt.Errorf("set %s: %w", attribute, err)
}

func (m *maker) lose(it item, attribute, why string) {
	m.lost = append(m.lost, Lost{absolute(it.rel), attribute, why})
}

// setXattrs sets what the archive has and removes what was inherited from a
// directory's default ACL, or belonged to the directory that was merged.
func (m *maker) setXattrs(it item, object xattrObject, inherits bool) error {
	if inherits {
		if err := m.removeExtra(it, object); err != nil {
			return err
		}
	}
	for _, name := range applyOrder(it.xattrs) {
		if !keptXattr(name) {
			m.lose(it, name, "it is in no namespace that is kept")
			continue
		}
		if err := m.refused(it, name, object.set(name, []byte(it.xattrs[name]))); err != nil {
			return err
		}
	}
	return nil
}

func (m *maker) removeExtra(it item, object xattrObject) error {
	names, err := object.list(m.xattrBuf)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, wanted := it.xattrs[name]; wanted || !exactXattr(name) {
			continue
		}
		if err := object.remove(name); err != nil {
			return fmt.Errorf("remove extended attribute %s: %w", Path(name), err)
		}
	}
	return nil
}

// refused reports an attribute that can't be kept here: the filesystem knows no
// such (EOPNOTSUPP), it is not for this type of file or this caller (EPERM), it
// is malformed for this kernel (EINVAL), or larger than the filesystem stores
// (ERANGE, E2BIG; ENOSPC from ext4, whose one block for them is full).
func (m *maker) refused(it item, name string, err error) error {
	tolerated := []error{unix.EOPNOTSUPP, unix.EPERM, unix.EINVAL, unix.ERANGE, unix.E2BIG, unix.ENOSPC}
	switch {
	case err == nil:
		return nil
	case slices.ContainsFunc(tolerated, func(t error) bool { return errors.Is(err, t) }):
		m.lose(it, Path(name).String(), err.Error())
		return nil
	}
	return fmt.Errorf("set extended attribute %s: %w", Path(name), err)
}

// setFlags reports the inode flags that a filesystem doesn't take.
func (m *maker) setFlags(it item, fd int, wanted inodeFlags) error {
	lost, why := changeFlags(fd, wanted)
	if why != nil && lost == 0 {
		return fmt.Errorf("set inode flags: %w", why)
	}
	for _, flag := range keptFlags {
		if lost&flag.bit == 0 {
			continue
		}
		text := "the filesystem passes over it"
		if why != nil {
			text = why.Error()
		}
		m.lose(it, "inode flag "+flag.name, text)
	}
	return nil
}

// fileFlags gives a new file its flags, but for those after which nobody could
// give it a further name: these come in the end.
func (m *maker) fileFlags(it item, fd int) error {
	if it.flags&locking != 0 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		m.lock, m.dev, m.ino = true, st.Dev, st.Ino
	}
	return m.setFlags(it, fd, it.flags&^locking)
}
