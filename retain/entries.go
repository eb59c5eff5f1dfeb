package retain

import (
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// item is an entry of an archive, checked.
type item struct {
	*header
	rel    string // beneath the root; "" where the entry has to be refused
	kind   Type
	target string // of a hard link, beneath the root
}

// next returns io.EOF at the end. An entry that must not be put back comes with
// a conflictError; with any other error the archive is at its end.
func (r *reader) next() (item, error) {
	h, err := r.header()
	for err == nil && attached(h.name) {
		if err = r.attachment(h); err == nil {
			h, err = r.header()
		}
	}
	if err == io.EOF {
		return item{}, io.EOF
	}
	if err != nil {
		return item{}, fmt.Errorf("read retained archive at byte %d: %w", r.at, err)
	}
	it := item{header: h}
	if it.rel, err = beneath(h.name); err != nil {
		return it, err
	}
	switch h.flag {
	case flagFile:
		it.kind = TypeFile
	case flagDir:
		it.kind = TypeDirectory
	case flagSymlink:
		it.kind = TypeSymlink
	case flagFIFO:
		it.kind = TypeFIFO
	case flagChar:
		it.kind = TypeCharDevice
	case flagBlock:
		it.kind = TypeBlockDevice
	case flagHardLink:
		it.kind = TypeHardLink
		if it.target, err = beneath(h.linkname); err != nil {
			return it, conflictError("its link target: " + err.Error())
		}
	default:
		return it, conflictError(fmt.Sprintf("its type %q is none that is kept", h.flag))
	}
	return it, nil
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
	var kept strings.Builder
	kept.Grow(len(name))
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
			continue
		case "..":
			return "", conflictError("its path has a .. component")
		case temporaryName:
			return "", conflictError("its path has the name " + temporaryName + ", which Restore itself uses")
		}
		if kept.Len() > 0 {
			kept.WriteByte('/')
		}
		kept.WriteString(part)
	}
	if kept.Len() == 0 {
		return "", conflictError("it is the root itself, or has no name")
	}
	return kept.String(), nil
}

func (it item) record() Record {
	h := it.header
	r := Record{
		Path: absolute(it.rel), Type: it.kind, Mode: Octal(h.mode), Link: Path(h.linkname),
		Owner: ownerText(h.uname, h.uid), Group: ownerText(h.gname, h.gid),
	}
	if it.kind == TypeFile {
		r.Bytes, r.HoleBytes = h.size, h.holeBytes()
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
	return Path(it.name[:min(len(it.name), maxPath)])
}

// times is UTIME-ready. The access time is left alone: reading the archive's
// source changed it anyway.
func (it item) times() [2]unix.Timespec { return [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, it.mtime} }
