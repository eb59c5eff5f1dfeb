package retain

import (
	"golang.org/x/sys/unix"
)

const (
	tarBlock = 512
	// archiveEndBytes are the two zero blocks at the end of a tar archive.
	archiveEndBytes = 2 * tarBlock
)

// The types of POSIX.1, pax interchange format.
const (
	flagFile     = '0'
	flagHardLink = '1'
	flagSymlink  = '2'
	flagChar     = '3'
	flagBlock    = '4'
	flagDir      = '5'
	flagFIFO     = '6'
	flagExtended = 'x'
)

// PAX keys beside those of POSIX.1.
const (
	// paxXattr is how star, GNU tar, libarchive and Go name an extended attribute.
	paxXattr = "SCHILY.xattr."
	// paxFlags is how star and libarchive name inode flags.
	paxFlags = "SCHILY.fflags"
	// paxACLNames is ours: see aclNames.
	paxACLNames = "REIMAGER.acl.names"
	// GNU tar's sparse format 1.0, "Storing Sparse Files" in its manual.
	paxSparse      = "GNU.sparse."
	paxSparseMajor = paxSparse + "major"
	paxSparseMinor = paxSparse + "minor"
	paxSparseName  = paxSparse + "name"
	paxSparseSize  = paxSparse + "realsize"
)

// header is what an archive says of one file.
type header struct {
	flag               byte
	name, linkname     string
	uname, gname       string
	uid, gid           int64
	mode               uint32 // permissions, setuid, setgid, sticky
	devmajor, devminor uint32
	mtime              unix.Timespec
	size               int64 // of the content, holes included
	stored             int64 // bytes behind the header, a sparse file's map included
	sparse             bool
	extents            []extent // of a sparse file
	xattrs             map[string]string
	flags              inodeFlags
	aclNames           string
}

// setSparse makes it a file with holes between the extents, or plain where there
// are none.
func (h *header) setSparse(extents []extent, sparse bool) {
	h.sparse, h.extents, h.stored = sparse, extents, h.size
	if sparse {
		h.stored = storedBytes(extents, h.size)
	}
}

func blocks(n int64) int64 { return (n + tarBlock - 1) / tarBlock * tarBlock }

// attributeBytes is about the memory that attributes take.
func (h *header) attributeBytes() int64 {
	n := len(h.aclNames)
	for name, value := range h.xattrs {
		n += len(name) + len(value)
	}
	return int64(n)
}

func (h *header) holeBytes() int64 {
	if !h.sparse {
		return 0
	}
	return h.size - extentBytes(h.extents)
}
