package retain

import (
	"archive/tar"
	"strconv"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	tarBlock = 512
	// archiveEndBytes are the two zero blocks at the end of a tar archive.
	archiveEndBytes = 2 * tarBlock
)

// archiveBytes is an upper bound of what an entry takes: PAX header and its
// records, header, content.
func (p *Plan) archiveBytes(e *Entry) int64 {
	records := e.xattrBytes +
		paxRecordBytes("path", len(e.rel)+1) +
		paxRecordBytes("uname", len(p.accounts.UserName(e.UID))) +
		paxRecordBytes("gname", len(p.accounts.GroupName(e.GID))) +
		paxRecordBytes("hdrcharset", len("BINARY")) +
		4*paxRecordBytes("mtime", 32) // mtime, size, uid, gid
	var content int64
	switch {
	case e.HardLinkTo != "":
		records += paxRecordBytes("linkpath", len(e.HardLinkTo))
	case e.Type == TypeSymlink:
		records += paxRecordBytes("linkpath", int(e.Bytes))
	case e.Type == TypeFile:
		content = blocks(e.Bytes)
	}
	return tarBlock + blocks(records) + tarBlock + content
}

func blocks(n int64) int64 { return (n + tarBlock - 1) / tarBlock * tarBlock }

// paxRecordBytes is an upper bound of "length key=value\n" (POSIX.1, pax
// extended header); eight digits are enough for the 1 MiB that are read back.
func paxRecordBytes(key string, value int) int64 { return int64(8 + 1 + len(key) + 1 + value + 1) }

// header is what the archive says of an entry, but for link target and
// extended attributes.
func (p *Plan) header(e *Entry) *tar.Header {
	h := &tar.Header{
		Name: e.rel, Size: 0, Mode: int64(e.Mode),
		Uid: int(e.UID), Gid: int(e.GID),
		Uname: p.accounts.UserName(e.UID), Gname: p.accounts.GroupName(e.GID),
		ModTime: time.Unix(e.mtime.Unix()),
		Format:  tar.FormatPAX,
	}
	switch e.Type {
	case TypeDirectory:
		h.Typeflag = tar.TypeDir
		h.Name += "/"
	case TypeSymlink:
		h.Typeflag = tar.TypeSymlink
	case TypeFIFO:
		h.Typeflag = tar.TypeFifo
	case TypeCharDevice, TypeBlockDevice:
		h.Typeflag = tar.TypeChar
		if e.Type == TypeBlockDevice {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(e.rdev)), int64(unix.Minor(e.rdev))
	default:
		h.Typeflag = tar.TypeReg
		h.Size = e.Bytes
	}
	if e.HardLinkTo != "" {
		h.Typeflag, h.Size = tar.TypeLink, 0
		h.Linkname = string(e.HardLinkTo[1:])
	}
	return h
}

// setRecords adds the PAX records that archive/tar doesn't make by itself.
func setRecords(h *tar.Header, xattrs map[string]string) {
	records := map[string]string{}
	for name, value := range xattrs {
		records[xattrKey(name)] = value
	}
	if !utf8.ValidString(h.Name) || !utf8.ValidString(h.Linkname) || !utf8.ValidString(h.Uname) || !utf8.ValidString(h.Gname) {
		// POSIX.1: values are UTF-8 unless this record says that they are bytes.
		records["hdrcharset"] = "BINARY"
	}
	if len(records) > 0 {
		h.PAXRecords = records
	}
}

func parseUint32(s string) (uint32, error) {
	v, err := strconv.ParseUint(s, 10, 32)
	return uint32(v), err
}
