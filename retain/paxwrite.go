package retain

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Field widths of the ustar header, POSIX.1.
const (
	nameBytes  = 100
	unameBytes = 31 // 32 with the NUL
	idBytes    = 8
	sizeBytes  = 12
)

// appendHeader appends all that stands before a file's content: its PAX records,
// if it needs any, its ustar header, and a sparse file's map.
//
// archive/tar can't write sparse files, and allocates as much as it writes.
func appendHeader(b []byte, h *header) []byte {
	name, linkname := h.name, h.linkname
	if h.flag == flagDir {
		name += "/"
	}
	start := len(b)
	// Room for the header of the records, filled in when their length is known.
	b = appendZeros(b, tarBlock)
	b = appendRecords(b, h, name)
	if n := len(b) - start - tarBlock; n > 0 {
		x := ustar{name: shortName("PaxHeaders.0/", name), flag: flagExtended, mode: 0o644, size: int64(n)}
		x.put(b[start:])
		b = appendPadding(b, int64(n))
	} else {
		b = b[:start]
	}
	if h.sparse {
		name = shortName("GNUSparseFile.0/", name)
	}
	u := ustar{name: name, linkname: linkname, flag: h.flag, mode: int64(h.mode), uid: h.uid, gid: h.gid, size: h.stored,
		mtime: h.mtime.Sec, uname: h.uname, gname: h.gname, devmajor: int64(h.devmajor), devminor: int64(h.devminor)}
	b = appendZeros(b, tarBlock)
	u.put(b[len(b)-tarBlock:])
	if h.sparse {
		b = appendSparseMap(b, h.extents, h.size)
	}
	return b
}

func appendZeros(b []byte, n int64) []byte {
	var block [tarBlock]byte
	return append(b, block[:n]...)
}

// appendPadding fills the last block of n bytes.
func appendPadding(b []byte, n int64) []byte { return appendZeros(b, blocks(n)-n) }

// appendRecords writes what ustar fields can't hold.
func appendRecords(b []byte, h *header, name string) []byte {
	if h.sparse {
		b = appendRecord(b, paxSparseMajor, "1")
		b = appendRecord(b, paxSparseMinor, "0")
		b = appendRecord(b, paxSparseName, name)
		b = appendRecord(b, paxSparseSize, strconv.FormatInt(h.size, 10))
	}
	if h.aclNames != "" {
		b = appendRecord(b, paxACLNames, h.aclNames)
	}
	if h.flags != 0 {
		b = appendRecord(b, paxFlags, h.flags.String())
	}
	if len(h.xattrs) > 0 {
		for _, x := range applyOrder(h.xattrs) {
			b = appendRecord(b, xattrKey(x), h.xattrs[x])
		}
	}
	if !utf8.ValidString(name) || !utf8.ValidString(h.linkname) || !utf8.ValidString(h.uname) || !utf8.ValidString(h.gname) {
		// POSIX.1: values are UTF-8 unless this record says that they are bytes.
		b = appendRecord(b, "hdrcharset", "BINARY")
	}
	for _, text := range [...]struct {
		key, value string
		fits       int
	}{{"path", name, nameBytes}, {"linkpath", h.linkname, nameBytes}, {"uname", h.uname, unameBytes}, {"gname", h.gname, unameBytes}} {
		if (len(text.value) > text.fits || !isASCII(text.value)) && !(h.sparse && text.key == "path") {
			b = appendRecord(b, text.key, text.value)
		}
	}
	for _, number := range [...]struct {
		key   string
		value int64
		width int
	}{{"uid", h.uid, idBytes}, {"gid", h.gid, idBytes}, {"size", h.stored, sizeBytes}} {
		if number.value > maxOctal(number.width) {
			b = appendRecord(b, number.key, strconv.FormatInt(number.value, 10))
		}
	}
	if t := h.mtime; t.Nsec != 0 || t.Sec < 0 || t.Sec > maxOctal(sizeBytes) {
		var text [40]byte
		b = appendRecord(b, "mtime", appendPAXTime(text[:0], t))
	}
	return b
}

// appendRecord writes "length key=value\n"; the length counts itself.
func appendRecord[T string | []byte](b []byte, key string, value T) []byte {
	rest := len(key) + len(value) + len(" =\n")
	n := rest + digits(rest)
	n = rest + digits(n)
	b = strconv.AppendInt(b, int64(n), 10)
	b = append(b, ' ')
	b = append(b, key...)
	b = append(b, '=')
	b = append(b, value...)
	return append(b, '\n')
}

func digits(n int) int {
	d := 1
	for ; n >= 10; n /= 10 {
		d++
	}
	return d
}

// appendPAXTime writes seconds with a fraction. Before 1970 both are negative:
// a second and a bit before is -1.1 and a Timespec of {-2, 900000000}.
func appendPAXTime(b []byte, t unix.Timespec) []byte {
	sec, nsec := t.Sec, t.Nsec
	if sec < 0 {
		b = append(b, '-')
		if nsec != 0 {
			sec, nsec = sec+1, 1e9-nsec
		}
	}
	// As unsigned: the most negative second has no positive counterpart.
	abs := uint64(sec)
	if sec < 0 {
		abs = -abs
	}
	b = strconv.AppendUint(b, abs, 10)
	if nsec == 0 {
		return b
	}
	fraction := strconv.FormatInt(1e9+nsec, 10)
	return append(append(b, '.'), strings.TrimRight(fraction[1:], "0")...)
}

// shortName is for those who don't read PAX records.
func shortName(dir, name string) string {
	name = strings.TrimSuffix(name, "/")
	return dir + name[strings.LastIndexByte(name, '/')+1:]
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf || s[i] == 0 {
			return false
		}
	}
	return true
}

// ustar is the 512-byte header of POSIX.1. What doesn't fit is cut short or 0:
// a PAX record before it has it whole.
type ustar struct {
	name, linkname, uname, gname string
	flag                         byte
	mode, uid, gid, size, mtime  int64
	devmajor, devminor           int64
}

// put fills the first block of b, which is zero.
func (u *ustar) put(b []byte) {
	b = b[:tarBlock]
	putText(b[0:100], u.name)
	putOctal(b[100:108], u.mode)
	putOctal(b[108:116], u.uid)
	putOctal(b[116:124], u.gid)
	putOctal(b[124:136], u.size)
	putOctal(b[136:148], u.mtime)
	b[156] = u.flag
	putText(b[157:257], u.linkname)
	copy(b[257:265], "ustar\x0000")
	putText(b[265:296], u.uname)
	putText(b[297:328], u.gname)
	putOctal(b[329:337], u.devmajor)
	putOctal(b[337:345], u.devminor)
	putOctal(b[148:155], checksum(b)) // six digits and a NUL
	b[155] = ' '
}

// putText leaves out what is not ASCII.
func putText(field []byte, text string) {
	n := 0
	for i := 0; i < len(text) && n < len(field); i++ {
		if text[i] < utf8.RuneSelf && text[i] != 0 {
			field[n] = text[i]
			n++
		}
	}
}

// maxOctal is the largest number that a field of that width holds before its NUL.
func maxOctal(width int) int64 { return 1<<(3*(width-1)) - 1 }

func putOctal(field []byte, v int64) {
	if v < 0 || v > maxOctal(len(field)) {
		v = 0
	}
	for i := len(field) - 2; i >= 0; i-- {
		field[i] = '0' + byte(v&7)
		v >>= 3
	}
}

// checksum adds up a header's bytes, its own field taken as blanks.
func checksum(b []byte) int64 {
	sum := int64(8 * ' ')
	for _, c := range b[:148] {
		sum += int64(c)
	}
	for _, c := range b[156:tarBlock] {
		sum += int64(c)
	}
	return sum
}
