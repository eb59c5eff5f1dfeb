package retain

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// finish does what has to wait until all files are there: files that may not be
// changed any more, then directories with all their attributes, deepest first.
func (r *restorer) finish() error {
	r.at = destination{}
	r.dirs.flush()
	for _, f := range r.crew.locks {
		if err := r.settle(f.it, f.index, r.lockFile(f)); err != nil {
			return err
		}
	}
	slices.SortStableFunc(r.pending, func(a, b pendingDir) int {
		return cmp.Compare(strings.Count(b.rel, "/"), strings.Count(a.rel, "/"))
	})
	for _, p := range r.pending {
		if err := r.ctx.Err(); err != nil {
			return fmt.Errorf("restore %s: %w", r.root.display(p.rel), err)
		}
		if err := r.settle(p.item, p.index, r.finishDir(p)); err != nil {
			return err
		}
	}
	return nil
}

// lockFile makes a file immutable or append-only. It could not have got further
// names with that, linkat(2).
func (r *restorer) lockFile(f lockedFile) error {
	above, name := splitLast(f.it.rel)
	dir, err := r.dirs.open(above)
	if err != nil {
		return err
	}
	fd, err := openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	// A later entry of a strange archive may have taken its place.
	if err == nil && st.Dev == f.dev && st.Ino == f.ino {
		err = r.maker.setFlags(f.it, fd, f.it.flags)
	}
	return errors.Join(err, unix.Close(fd))
}

func (r *restorer) finishDir(p pendingDir) error {
	fd, err := r.dirs.open(p.rel)
	switch {
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP):
		return conflictError("a later entry of the archive took its place")
	case err != nil:
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	key := dirKey{st.Dev, st.Ino}
	if _, err := r.unlock(fd, p.rel, key); err != nil {
		return err
	}
	// It gets the archive's flags, not back those that it had.
	delete(r.unlocked, key)
	restored := r.crew.restored(p.index)
	if err := r.maker.attributes(p.item, xattrObject{fd: fd}, restored.UID, restored.GID, true); err != nil {
		return err
	}
	return r.maker.setFlags(p.item, fd, p.flags)
}

// relock gives directories their flags back that are not in the archive.
func (r *restorer) relock() error {
	if len(r.unlocked) == 0 {
		return nil
	}
	r.dirs.flush()
	var all []error
	for _, u := range r.unlocked {
		fd, err := r.dirs.open(u.rel)
		if err == nil {
			_, err = changeFlags(fd, u.flags)
		}
		if err != nil {
			all = append(all, fmt.Errorf("set inode flags %s of directory %s: %w", u.flags, r.root.display(u.rel), err))
		}
	}
	return errors.Join(all...)
}
