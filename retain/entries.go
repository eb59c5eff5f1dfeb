package retain

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// reader reads the entries of an archive, which is not trusted.
type reader struct {
	tar     *tar.Reader
	counted *countingReader
	ending  *endReader
	sparse  bool // the entry at hand
}

func newReader(archive io.Reader) *reader {
	counted := &countingReader{r: archive}
	ending := &endReader{r: bufio.NewReaderSize(counted, bufferBytes)}
	return &reader{tar: tar.NewReader(ending), counted: counted, ending: ending}
}

// endReader counts zero bytes between entries: archive/tar takes an archive
// that was cut between two of them as a whole one, and only the two zero blocks
// at the end tell.
type endReader struct {
	r        io.Reader
	counting bool
	zeros    int
}

func (e *endReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if e.counting {
		trailing := n - len(bytes.TrimRight(p[:n], "\x00"))
		if trailing < n {
			e.zeros = 0
		}
		e.zeros += trailing
	}
	return n, err
}

// header goes to the next entry.
func (r *reader) header() (*tar.Header, error) {
	// What is left of the last entry must not be counted. A sparse one would be
	// read with its holes, exabytes of zeros for a few bytes of archive.
	r.ending.counting = false
	if !r.sparse {
		if _, err := io.Copy(io.Discard, r.tar); err != nil {
			return nil, err
		}
	}
	r.ending.counting, r.ending.zeros = true, 0
	h, err := r.tar.Next()
	r.ending.counting = false
	if err == io.EOF && r.ending.zeros < archiveEndBytes {
		return nil, fmt.Errorf("%w: it has no end mark", io.ErrUnexpectedEOF)
	}
	return h, err
}

// item is an entry of an archive, checked.
type item struct {
	header *tar.Header
	rel    string // beneath the root; "" where the entry has to be refused
	kind   Type
	target string // of a hard link, beneath the root
	xattrs map[string]string
}

// next returns io.EOF at the end. An entry that must not be put back comes with
// a conflictError.
func (r *reader) next() (item, error) {
	h, err := r.header()
	// ErrInsecurePath comes with a usable header; names are judged here.
	if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
		if err == io.EOF {
			return item{}, io.EOF
		}
		return item{}, fmt.Errorf("read retained archive at byte %d or before: %w", r.counted.n, err)
	}
	it := item{header: h}
	r.sparse = isSparse(h)
	if it.rel, err = beneath(h.Name); err != nil {
		return it, err
	}
	if r.sparse {
		return it, conflictError("it is stored as a sparse file, which Capture does not write")
	}
	switch h.Typeflag {
	case tar.TypeReg:
		it.kind = TypeFile
	case tar.TypeDir:
		it.kind = TypeDirectory
	case tar.TypeSymlink:
		it.kind = TypeSymlink
	case tar.TypeFifo:
		it.kind = TypeFIFO
	case tar.TypeChar:
		it.kind = TypeCharDevice
	case tar.TypeBlock:
		it.kind = TypeBlockDevice
	case tar.TypeLink:
		it.kind = TypeHardLink
		if it.target, err = beneath(h.Linkname); err != nil {
			return it, conflictError("its link target: " + err.Error())
		}
	default:
		return it, conflictError(fmt.Sprintf("its type %q is none that is kept", h.Typeflag))
	}
	for key, value := range h.PAXRecords {
		if !strings.HasPrefix(key, paxXattr) {
			continue
		}
		if it.xattrs == nil {
			it.xattrs = map[string]string{}
		}
		it.xattrs[xattrName(key)] = value
	}
	return it, nil
}

func isSparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// beneath takes an archive's name as a path below the root, as tar does without
// --absolute-names, but refuses "..".
func beneath(name string) (string, error) {
	if len(name) > maxPath {
		return "", conflictError(fmt.Sprintf("its path is longer than %d bytes", maxPath))
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", conflictError("its path has a NUL byte")
	}
	parts := splitPath(name)
	kept := parts[:0]
	for _, part := range parts {
		switch part {
		case ".":
			continue
		case "..":
			return "", conflictError("its path has a .. component")
		case temporaryName:
			return "", conflictError("its path has the name " + temporaryName + ", which Restore itself uses")
		}
		kept = append(kept, part)
	}
	if len(kept) == 0 {
		return "", conflictError("it is the root itself, or has no name")
	}
	return strings.Join(kept, "/"), nil
}

func (it item) record() Record {
	h := it.header
	r := Record{
		Path: absolute(it.rel), Type: it.kind, Mode: Octal(h.Mode & 0o7777), Link: Path(h.Linkname),
		Owner: ownerText(h.Uname, int64(h.Uid)), Group: ownerText(h.Gname, int64(h.Gid)),
	}
	if it.kind == TypeFile {
		r.Bytes = h.Size
	}
	if it.kind == TypeHardLink {
		r.Link = absolute(it.target)
	}
	return r
}

// conflictPath names an entry even if its name had to be refused.
func (it item) conflictPath() Path {
	if it.rel != "" {
		return absolute(it.rel)
	}
	return Path(it.header.Name[:min(len(it.header.Name), maxPath)])
}

// mtime is UTIME-ready. The access time is left alone: reading the archive's
// source changed it anyway.
func (it item) times() []unix.Timespec {
	t := it.header.ModTime
	return []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: t.Unix(), Nsec: int64(t.Nanosecond())}}
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
