package retain

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"slices"

	"golang.org/x/sys/unix"

	"reimager/report"
)

const (
	// bufferBytes is how much of a large file is in memory at a time.
	bufferBytes = 256 << 10
	// smallBytes is how large a file may be that is read or written as a whole, by
	// one of several workers.
	smallBytes = 64 << 10
)

// Summary tells what was captured.
type Summary struct {
	Entries      []Record `json:"entries"`
	ContentBytes int64    `json:"content_bytes"`
	ArchiveBytes int64    `json:"archive_bytes"`
}

// Capture writes the planned files to w as a PAX tar that GNU tar lists and
// unpacks. progress, which may be nil, is called with the archive's bytes so
// far, after each run of small files and several times during a large one.
//
// Holes are stored as GNU tar's sparse format 1.0 does, inode flags as libarchive
// does (SCHILY.fflags); the names that belong to the numbers in POSIX ACLs are in
// a record of our own, REIMAGER.acl.names.
//
// What is no longer as Scan saw it is an error that names it: the old root is
// mounted read-only, so it means corruption or the wrong mount.
func Capture(ctx context.Context, plan *Plan, w io.Writer, progress func(bytes int64)) (Summary, error) {
	root, err := OpenRoot(plan.Root)
	if err != nil {
		return Summary{}, err
	}
	defer root.Close()
	var st unix.Stat_t
	if err := unix.Fstat(root.fd, &st); err != nil {
		return Summary{}, fmt.Errorf("capture %s: %w", plan.Root, err)
	}
	if st.Dev != plan.rootStat.Dev || st.Ino != plan.rootStat.Ino {
		return Summary{}, fmt.Errorf("capture %s: another directory has taken its place", plan.Root)
	}
	if progress == nil {
		progress = func(int64) {}
	}
	a := newAssembler(ctx, root, plan, w, progress)
	if err := a.all(); err != nil {
		return Summary{}, err
	}
	return a.summary, nil
}

// capturer reads files. Each goroutine has its own.
type capturer struct {
	ctx      context.Context
	dirs     *dirCache
	plan     *Plan
	sum      hash.Hash
	xattrBuf []byte
	h        header   // of the entry at hand
	out      []byte   // the archive, so far
	records  []Record // and what is told of it
	// spill empties out; nil where a file is small enough to be held whole.
	spill func() error
}

func newCapturer(ctx context.Context, root *Root, plan *Plan) *capturer {
	return &capturer{ctx: ctx, dirs: &dirCache{root: root}, plan: plan, sum: sha256.New(), xattrBuf: make([]byte, maxXattr)}
}

// entry appends an entry to out.
func (c *capturer) entry(e *Entry) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	above, name := splitLast(e.rel)
	dir, err := c.dirs.open(above)
	if err != nil {
		return err
	}
	h := &c.h
	*h = c.plan.header(e)
	digest := ""
	switch {
	case e.HardLinkTo != "":
		err = c.linked(e, h, dir, name)
	case e.Type == TypeFile, e.Type == TypeDirectory:
		digest, err = c.opened(e, h, dir, name)
	default:
		err = c.named(e, h, dir, name)
	}
	if err != nil {
		return err
	}
	r := Record{
		Path: e.Path, Type: e.Type, Bytes: h.size, Mode: e.Mode, SHA256: digest, Link: Path(h.linkname),
		Owner: ownerText(h.uname, h.uid), Group: ownerText(h.gname, h.gid), HoleBytes: h.holeBytes(),
	}
	if e.HardLinkTo != "" {
		r.Type, r.Link = TypeHardLink, e.HardLinkTo
	}
	c.records = append(c.records, r)
	return nil
}

// opened captures what can be opened without side effects: files, directories.
func (c *capturer) opened(e *Entry, h *header, dir int, name string) (digest string, err error) {
	fd, err := e.open(dir, name)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	if err := e.unchanged(&st); err != nil {
		return "", err
	}
	inspected := st.Ctim == e.ctime
	if e.Type == TypeFile && (e.sparse || !inspected) {
		extents, sparse, err := dataExtents(fd, e.Bytes)
		if err != nil {
			return "", fmt.Errorf("find its holes: %w", err)
		}
		h.setSparse(extents, sparse)
		if h.stored > e.stored {
			return "", changed("its holes have changed since it was listed")
		}
	}
	if e.attributes || !inspected {
		if h.flags, _, err = getFlags(fd); err != nil {
			return "", fmt.Errorf("read inode flags: %w", err)
		}
	}
	if err := c.header(e, h, &st, xattrObject{fd: fd}); err != nil || e.Type == TypeDirectory {
		return "", err
	}
	return c.content(fd, h)
}

// linked captures a further name of a file.
func (c *capturer) linked(e *Entry, h *header, dir int, name string) error {
	st, err := lstatat(dir, name)
	if err != nil {
		return err
	}
	if err := e.unchanged(&st); err != nil {
		return err
	}
	c.out = appendHeader(c.out, h)
	return nil
}

// named captures what is never opened: links, FIFOs, devices.
func (c *capturer) named(e *Entry, h *header, dir int, name string) error {
	st, err := lstatat(dir, name)
	if err != nil {
		return err
	}
	if err := e.unchanged(&st); err != nil {
		return err
	}
	if e.Type == TypeSymlink {
		if h.linkname, err = readlinkat(dir, name); err != nil {
			return err
		}
	}
	return c.header(e, h, &st, xattrObject{dir, name})
}

// header appends a header with what the file has of extended attributes.
func (c *capturer) header(e *Entry, h *header, st *unix.Stat_t, object xattrObject) (err error) {
	// Without a change to the inode there are still none.
	if e.attributes || st.Ctim != e.ctime {
		if h.xattrs, err = object.read(c.xattrBuf); err != nil {
			return err
		}
		h.aclNames = aclNames(h.xattrs, &c.plan.accounts)
	}
	c.out = appendHeader(c.out, h)
	return nil
}

// unchanged compares with what Scan saw.
func (e *Entry) unchanged(st *unix.Stat_t) error {
	what := ""
	switch {
	case st.Dev != e.dev || st.Ino != e.ino || typeOf(st.Mode) != e.Type:
		what = "another file has taken its place"
	case e.Type == TypeFile && st.Size != e.Bytes:
		what = fmt.Sprintf("its size went from %d to %d bytes", e.Bytes, st.Size)
	case st.Mtim != e.mtime || st.Uid != e.UID || st.Gid != e.GID || Octal(st.Mode&0o7777) != e.Mode:
		what = "its owner, mode or time has changed"
	default:
		return nil
	}
	return changed("%s since it was listed", what)
}

func changed(format string, args ...any) error {
	return report.Hint(fmt.Errorf(format, args...), "capture from a root that is mounted read-only; if it is, check its filesystem")
}

// content appends a file's data, and returns its digest.
func (c *capturer) content(fd int, h *header) (digest string, err error) {
	c.sum.Reset()
	if !h.sparse {
		err = c.data(fd, extent{0, h.size}, h.size)
	}
	for _, e := range h.extents {
		if err := c.data(fd, e, h.size); err != nil {
			return "", err
		}
	}
	if err != nil {
		return "", err
	}
	c.out = appendPadding(c.out, h.stored)
	var sum [sha256.Size]byte
	return hex.EncodeToString(c.sum.Sum(sum[:0])), nil
}

// data appends a run of a file's content. At the file's end a read asks for one
// byte more than there is, so that a file that grew shows without a further call.
func (c *capturer) data(fd int, run extent, size int64) error {
	for at, end := run.offset, run.offset+run.bytes; ; {
		left := end - at
		ask := left
		if end == size {
			ask++
		}
		room, err := c.room(int(min(ask, bufferBytes)))
		if err != nil {
			return err
		}
		n, err := pread(fd, room, at)
		switch {
		case err != nil:
			return err
		case int64(n) > left:
			return changed("it has more than its %d bytes", size)
		case n == 0 && left > 0:
			return changed("it ends at byte %d of %d", at, size)
		}
		c.sum.Write(room[:n])
		c.out = c.out[:len(c.out)+n]
		at += int64(n)
		// A short read of a regular file is its end.
		if at == end && (end < size || n < len(room)) {
			return nil
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
	}
}

// room returns n bytes behind out, which a large file empties when it is full.
func (c *capturer) room(n int) ([]byte, error) {
	if c.spill != nil && len(c.out)+n > 2*bufferBytes {
		if err := c.spill(); err != nil {
			return nil, err
		}
	}
	c.out = slices.Grow(c.out, n)
	return c.out[len(c.out) : len(c.out)+n], nil
}
