package retain

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"golang.org/x/sys/unix"

	"reimager/report"
)

// bufferBytes is how much of a file is in memory at a time.
const bufferBytes = 256 << 10

// Summary tells what was captured.
type Summary struct {
	Entries      []Record `json:"entries"`
	ContentBytes int64    `json:"content_bytes"`
	ArchiveBytes int64    `json:"archive_bytes"`
}

// Capture writes the planned files to w as a PAX tar that GNU tar lists and
// unpacks. progress, which may be nil, is called with the archive's bytes so
// far, after each file and several times during a large one.
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
	out := &countingWriter{w: w}
	buffered := bufio.NewWriterSize(out, bufferBytes)
	c := &capturer{
		ctx: ctx, root: root, dirs: &dirCache{root: root}, plan: plan,
		tar: tar.NewWriter(buffered), sum: sha256.New(),
		buf: make([]byte, bufferBytes), xattrBuf: make([]byte, maxXattr),
		progress: func() {
			if progress != nil {
				progress(out.n)
			}
		},
	}
	defer c.dirs.flush()
	for i := range plan.Entries {
		if err := c.entry(&plan.Entries[i]); err != nil {
			return Summary{}, fmt.Errorf("capture %s: %w", root.display(plan.Entries[i].rel), err)
		}
	}
	if err := errors.Join(c.tar.Close(), buffered.Flush()); err != nil {
		return Summary{}, fmt.Errorf("write retained archive: %w", err)
	}
	c.progress()
	c.summary.ArchiveBytes = out.n
	return c.summary, nil
}

type capturer struct {
	ctx      context.Context
	root     *Root
	dirs     *dirCache
	plan     *Plan
	tar      *tar.Writer
	sum      hash.Hash
	buf      []byte
	xattrBuf []byte
	progress func()
	summary  Summary
}

func (c *capturer) entry(e *Entry) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	above, name := splitLast(e.rel)
	dir, err := c.dirs.open(above)
	if err != nil {
		return err
	}
	h := c.plan.header(e)
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
		Path: e.Path, Type: e.Type, Bytes: h.Size, Mode: e.Mode, SHA256: digest, Link: Path(h.Linkname),
		Owner: ownerText(h.Uname, int64(e.UID)), Group: ownerText(h.Gname, int64(e.GID)),
	}
	if e.HardLinkTo != "" {
		r.Type, r.Link = TypeHardLink, e.HardLinkTo
	}
	c.summary.Entries = append(c.summary.Entries, r)
	c.summary.ContentBytes += h.Size
	c.progress()
	return nil
}

// opened captures what can be opened without side effects: files, directories.
func (c *capturer) opened(e *Entry, h *tar.Header, dir int, name string) (digest string, err error) {
	flags := unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK
	if e.Type == TypeDirectory {
		flags |= unix.O_DIRECTORY
	}
	fd, err := openat(dir, name, flags)
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
	if err := c.writeHeader(h, xattrObject{fd: fd}); err != nil {
		return "", err
	}
	if e.Type == TypeDirectory {
		return "", nil
	}
	return c.content(fd, e.Bytes)
}

// linked captures a further name of a file.
func (c *capturer) linked(e *Entry, h *tar.Header, dir int, name string) error {
	st, err := lstatat(dir, name)
	if err != nil {
		return err
	}
	if err := e.unchanged(&st); err != nil {
		return err
	}
	setRecords(h, nil)
	return c.tar.WriteHeader(h)
}

// named captures what is never opened: links, FIFOs, devices.
func (c *capturer) named(e *Entry, h *tar.Header, dir int, name string) error {
	st, err := lstatat(dir, name)
	if err != nil {
		return err
	}
	if err := e.unchanged(&st); err != nil {
		return err
	}
	if e.Type == TypeSymlink {
		if h.Linkname, err = readlinkat(dir, name); err != nil {
			return err
		}
	}
	return c.writeHeader(h, xattrObject{dir, name})
}

func (c *capturer) writeHeader(h *tar.Header, object xattrObject) error {
	xattrs, err := object.read(c.xattrBuf)
	if err != nil {
		return err
	}
	setRecords(h, xattrs)
	return c.tar.WriteHeader(h)
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

// content copies size bytes of a file. A read asks for one byte more than is
// left, so that a file that grew shows without a further call.
func (c *capturer) content(fd int, size int64) (digest string, err error) {
	c.sum.Reset()
	for left := size; ; {
		n, err := fdFile(fd).Read(c.buf[:min(int64(len(c.buf)), left+1)])
		switch {
		case err == io.EOF && left > 0:
			return "", changed("it ends at byte %d of %d", size-left, size)
		case err != nil && err != io.EOF:
			return "", err
		case int64(n) > left:
			return "", changed("it has more than its %d bytes", size)
		}
		c.sum.Write(c.buf[:n])
		if _, err := c.tar.Write(c.buf[:n]); err != nil {
			return "", err
		}
		// A short read of a regular file is its end.
		if left -= int64(n); left == 0 && n < len(c.buf) {
			return hex.EncodeToString(c.sum.Sum(nil)), nil
		}
		if err := c.ctx.Err(); err != nil {
			return "", err
		}
		c.progress()
	}
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
