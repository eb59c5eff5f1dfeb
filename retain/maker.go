package retain

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"golang.org/x/sys/unix"
)

// maker makes files. Each goroutine has its own.
type maker struct {
	ctx      context.Context
	sum      hash.Hash
	buf      []byte // of a large file
	xattrBuf []byte
	gives    givenOwner
	outcome
}

// givenOwner is whom the files that are made in a directory belong to from the
// start, which saves giving most of them to root again. The same caller, directory
// and filesystem give the same owner each time.
type givenOwner struct {
	known    bool
	in       dirKey
	uid, gid uint32
}

// outcome is what there is to tell of an entry beside the error.
type outcome struct {
	lost     []Lost
	stale    bool
	lock     bool // becomes immutable or append-only in the end
	dev, ino uint64
}

func (o *outcome) empty() bool { return len(o.lost) == 0 && !o.stale && !o.lock }

func newMaker(ctx context.Context) *maker {
	return &maker{ctx: ctx, sum: sha256.New(), xattrBuf: make([]byte, maxXattr)}
}

// temporaryName is what a file is called that replaces another until it is whole.
// One name is enough, as the files of a directory are made one by one, and so a
// run after a power cut clears away what the one before it left.
const temporaryName = ".reimager-restore-tmp"

// make makes anything but directories and hard links. in has the content where the
// job doesn't.
func (m *maker) make(to *destination, j *job, in *reader) error {
	err := m.build(to, j, j.name, in)
	if err != unix.EEXIST {
		return err
	}
	if err = m.build(to, j, temporaryName, in); err == unix.EEXIST {
		// Left by a run that was cut.
		if err = unix.Unlinkat(to.fd, temporaryName, 0); err == nil {
			err = m.build(to, j, temporaryName, in)
		}
	}
	if err != nil {
		return err
	}
	return m.moveIntoPlace(to.fd, j)
}

// link makes a further name of a file.
func (m *maker) link(to *destination, j *job, from int, name string) error {
	err := unix.Linkat(from, name, to.fd, j.name, 0)
	if err == unix.EEXIST {
		if err = unix.Linkat(from, name, to.fd, temporaryName, 0); err == unix.EEXIST {
			if err = unix.Unlinkat(to.fd, temporaryName, 0); err == nil {
				err = unix.Linkat(from, name, to.fd, temporaryName, 0)
			}
		}
		if err == nil {
			return m.moveIntoPlace(to.fd, j)
		}
	}
	switch err {
	case nil:
		return nil
	case unix.EXDEV, unix.EMLINK, unix.EPERM, unix.EOPNOTSUPP:
		// Two filesystems now, or one that has no (more) hard links.
		return conflictError(fmt.Sprintf("link to %s: %v", absolute(j.it.target), err))
	case unix.ENAMETOOLONG, unix.EINVAL, unix.EILSEQ:
		return refusedName(err)
	}
	return fmt.Errorf("link to %s: %w", absolute(j.it.target), err)
}

// build makes the file under a name that is free, with all its attributes, or
// nothing. unix.EEXIST, where it isn't free, comes before anything of the archive
// has been read.
func (m *maker) build(to *destination, j *job, name string, in *reader) (err error) {
	if j.it.kind == TypeFile {
		return m.file(to, j, name, in)
	}
	switch j.it.kind {
	case TypeSymlink:
		err = unix.Symlinkat(j.it.linkname, to.fd, name)
	case TypeFIFO:
		err = unix.Mknodat(to.fd, name, unix.S_IFIFO|0o600, 0)
	default:
		mode := uint32(unix.S_IFCHR)
		if j.it.kind == TypeBlockDevice {
			mode = unix.S_IFBLK
		}
		err = unix.Mknodat(to.fd, name, mode|0o600, int(unix.Mkdev(j.it.devmajor, j.it.devminor)))
	}
	switch {
	case err == unix.EEXIST:
		return err
	case j.it.kind == TypeSymlink && (j.it.linkname == "" || len(j.it.linkname) >= unix.PathMax):
		return conflictError("its link target is empty or too long")
	case err == unix.EPERM && unix.Geteuid() == 0, err == unix.EOPNOTSUPP:
		// vfat has neither links nor special files.
		return conflictError(fmt.Sprintf("the new filesystem has no %s: %v", j.it.kind, err))
	case err == unix.EINVAL && (j.it.kind == TypeCharDevice || j.it.kind == TypeBlockDevice):
		return conflictError("the new filesystem has no devices with such a number")
	case err == unix.ENAMETOOLONG && len(j.name) <= 255:
		return conflictError("the new filesystem has no links to so long a target") // XFS: 1,024 bytes
	case err != nil:
		return refusedName(err)
	}
	err = m.attributes(j.it, xattrObject{to.fd, name}, j.restored.UID, j.restored.GID, to.inherit)
	return m.orRemove(to.fd, name, err)
}

// orRemove removes a file that could not be finished.
func (m *maker) orRemove(dir int, name string, err error) error {
	if err == nil {
		return nil
	}
	if gone := unix.Unlinkat(dir, name, 0); gone != nil {
		// No conflict any more: what is left is not what was there.
		return fmt.Errorf("%v; remove what there is of it: %w", err, gone)
	}
	return err
}

func (m *maker) file(to *destination, j *job, name string, in *reader) error {
	fd, err := unix.Openat(to.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return refusedName(err)
	}
	if j.it.flags&beforeContent != 0 {
		// What of it is refused shows when all flags are set.
		if lost, why := changeFlags(fd, j.it.flags&beforeContent); lost == 0 && why != nil {
			err = fmt.Errorf("set inode flags: %w", why)
		}
	}
	if err == nil {
		err = m.content(fd, j, in)
	}
	if err == nil {
		err = m.own(to, j, fd)
	}
	if err == nil {
		err = m.unowned(j.it, xattrObject{fd: fd}, to.inherit)
	}
	if err == nil && (j.it.flags != 0 || to.flags != 0) {
		err = m.fileFlags(j.it, fd)
	}
	return m.orRemove(to.fd, name, errors.Join(err, unix.Close(fd)))
}

// own gives a new file its owner.
func (m *maker) own(to *destination, j *job, fd int) error {
	if !m.gives.known || m.gives.in != to.key {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		m.gives = givenOwner{true, to.key, st.Uid, st.Gid}
	}
	if m.gives.uid == j.restored.UID && m.gives.gid == j.restored.GID {
		return nil
	}
	return m.tolerate(j.it, "owner", unix.Fchown(fd, int(j.restored.UID), int(j.restored.GID)))
}

// content writes a file's data, and nothing where its holes are.
func (m *maker) content(fd int, j *job, in *reader) error {
	m.sum.Reset()
	runs := j.it.extents
	if j.it.sparse {
		if err := unix.Ftruncate(fd, j.it.size); err != nil {
			return tooLarge(fmt.Errorf("set size: %w", err))
		}
	} else {
		runs = []extent{{0, j.it.size}}
	}
	content := j.content
	for _, run := range runs {
		if in != nil {
			if err := m.copy(fd, run, in); err != nil {
				return err
			}
			continue
		}
		p := content[:run.bytes]
		content = content[run.bytes:]
		m.sum.Write(p)
		if err := pwriteAll(fd, p, run.offset); err != nil {
			return tooLarge(fmt.Errorf("write: %w", err))
		}
	}
	var sum [sha256.Size]byte
	j.restored.SHA256 = hex.EncodeToString(m.sum.Sum(sum[:0]))
	return nil
}

// copy writes a run of a file from the archive.
func (m *maker) copy(fd int, run extent, in *reader) error {
	if m.buf == nil {
		m.buf = make([]byte, bufferBytes)
	}
	for at, end := run.offset, run.offset+run.bytes; at < end; {
		p := m.buf[:min(end-at, bufferBytes)]
		if _, err := io.ReadFull(in, p); err != nil {
			return fmt.Errorf("read from the archive: %w", unexpectedEnd(err))
		}
		m.sum.Write(p)
		if err := pwriteAll(fd, p, at); err != nil {
			return tooLarge(fmt.Errorf("write: %w", err))
		}
		at += int64(len(p))
		if err := m.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// tooLarge makes a conflict of a size that the filesystem doesn't have: vfat ends
// at 4 GiB.
func tooLarge(err error) error {
	if errors.Is(err, unix.EFBIG) {
		return conflictError(err.Error())
	}
	return err
}
