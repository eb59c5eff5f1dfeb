package retain

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// parent opens a directory for what is put into it, and makes what is missing.
func (r *restorer) parent(rel string) (int, error) {
	dir, err := r.dirs.open(rel)
	if err == nil {
		return dir, nil
	}
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return -1, conflictError("a directory above it is none in the new system")
	case errors.Is(err, unix.ELOOP):
		return -1, conflictError("a directory above it is a link that leads in a circle")
	case errors.Is(err, unix.ENAMETOOLONG):
		return -1, refusedName(unix.ENAMETOOLONG)
	case !errors.Is(err, unix.ENOENT) || rel == "":
		return -1, err
	}
	// It may be under way as something else.
	if err := r.drain(); err != nil {
		return -1, err
	}
	above, name := splitLast(rel)
	if dir, err = r.parent(above); err != nil {
		return -1, err
	}
	if err := r.makeParent(dir, name, rel); err != nil {
		return -1, err
	}
	if dir, err = r.dirs.open(rel); err != nil {
		return -1, err
	}
	return dir, r.plainParent(dir, rel)
}

func (r *restorer) makeParent(above int, name, rel string) error {
	err := unix.Mkdirat(above, name, 0o755)
	if err == unix.EPERM {
		var st unix.Stat_t
		if err := unix.Fstat(above, &st); err != nil {
			return err
		}
		aboveRel, _ := splitLast(rel)
		if _, err := r.unlock(above, aboveRel, dirKey{st.Dev, st.Ino}); err != nil {
			return err
		}
		err = unix.Mkdirat(above, name, 0o755)
	}
	switch err {
	case nil:
		r.createdParents = append(r.createdParents, absolute(rel))
		return nil
	case unix.EEXIST:
		return conflictError("a directory above it is a link to nothing in the new system")
	}
	return fmt.Errorf("make directory %s: %w", r.root.display(rel), err)
}

// plainParent takes back what the umask, a setgid bit, a default ACL or inode
// flags above made of a new directory.
func (r *restorer) plainParent(dir int, rel string) error {
	it := item{rel: rel, kind: TypeDirectory, header: &header{mode: 0o755}}
	if unix.Geteuid() == 0 {
		if err := r.maker.tolerate(it, "owner", unix.Fchown(dir, 0, 0)); err != nil {
			return err
		}
	}
	if err := r.maker.tolerate(it, "mode", unix.Fchmod(dir, 0o755)); err != nil {
		return err
	}
	if err := r.maker.removeExtra(it, xattrObject{fd: dir}); err != nil {
		return err
	}
	return r.maker.setFlags(it, dir, 0)
}

// unlock takes the flags from a directory that keep files from being put into it.
func (r *restorer) unlock(dir int, rel string, key dirKey) (inodeFlags, error) {
	flags, _, err := getFlags(dir)
	if err != nil || flags&locking == 0 {
		return flags, err
	}
	if _, err := changeFlags(dir, flags&^locking); err != nil {
		return flags, fmt.Errorf("clear inode flags %s of directory %s: %w", flags&locking, r.root.display(rel), err)
	}
	r.unlocked[key] = unlocked{rel, flags}
	return flags &^ locking, nil
}
