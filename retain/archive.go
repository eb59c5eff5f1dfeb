package retain

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// archiveBytes is an upper bound of what an entry takes: PAX header and its
// records, header, content.
func (p *Plan) archiveBytes(e *Entry) int64 {
	uname, gname := p.accounts.UserName(e.UID), p.accounts.GroupName(e.GID)
	records := e.attributeBytes +
		paxRecordBytes("path", len(e.rel)+1) +
		paxRecordBytes("uname", len(uname)) +
		paxRecordBytes("gname", len(gname)) +
		paxRecordBytes("hdrcharset", len("BINARY")) +
		4*paxRecordBytes("mtime", 32) // mtime, size, uid, gid
	switch {
	case e.HardLinkTo != "":
		records += paxRecordBytes("linkpath", len(e.HardLinkTo))
	case e.Type == TypeSymlink:
		records += paxRecordBytes("linkpath", int(e.Bytes))
	case e.sparse:
		records += paxRecordBytes(paxSparseMajor, 1) + paxRecordBytes(paxSparseMinor, 1) +
			paxRecordBytes(paxSparseName, 0) + paxRecordBytes(paxSparseSize, 20)
	}
	content := blocks(e.stored)
	if e.HardLinkTo != "" {
		content = 0
	}
	return tarBlock + blocks(records) + tarBlock + content
}

// paxRecordBytes is an upper bound of "length key=value\n" (POSIX.1, pax
// extended header); eight digits are enough for the records that are read back.
func paxRecordBytes(key string, value int) int64 { return int64(8 + 1 + len(key) + 1 + value + 1) }

// header is what the archive says of an entry, but for link target, holes and
// attributes.
func (p *Plan) header(e *Entry) header {
	h := header{
		name: e.rel, mode: uint32(e.Mode), uid: int64(e.UID), gid: int64(e.GID),
		uname: p.accounts.UserName(e.UID), gname: p.accounts.GroupName(e.GID), mtime: e.mtime,
	}
	switch e.Type {
	case TypeDirectory:
		h.flag = flagDir
	case TypeSymlink:
		h.flag = flagSymlink
	case TypeFIFO:
		h.flag = flagFIFO
	case TypeCharDevice, TypeBlockDevice:
		h.flag = flagChar
		if e.Type == TypeBlockDevice {
			h.flag = flagBlock
		}
		h.devmajor, h.devminor = unix.Major(e.rdev), unix.Minor(e.rdev)
	default:
		h.flag = flagFile
		h.size, h.stored = e.Bytes, e.Bytes
	}
	if e.HardLinkTo != "" {
		h.flag, h.size, h.stored = flagHardLink, 0, 0
		h.linkname = string(e.HardLinkTo[1:])
	}
	return h
}

func parseUint32(s string) (uint32, error) {
	v, err := strconv.ParseUint(s, 10, 32)
	return uint32(v), err
}
