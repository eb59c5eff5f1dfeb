package retain

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxRecords bounds the PAX records of one file, in bytes: room for 100 extended
// attributes of 64 KiB, and for what else there is.
const maxRecords = 16 << 20

// reader reads the entries of an archive, which is not trusted. It reads what
// appendHeader writes, and other archives in the formats ustar and pax.
//
// archive/tar expands sparse files while it reads, which may take years.
type reader struct {
	in      *bufio.Reader
	at      int64 // how much of the archive was read
	left    int64 // of the content of the entry at hand
	padding int64 // behind it
	// onAttachment takes what is attached; nil passes over it.
	onAttachment func(name string, data []byte) error
	block        [tarBlock]byte
	records      bytes.Buffer // the PAX records of the entry at hand
}

func newReader(archive io.Reader) *reader {
	return &reader{in: bufio.NewReaderSize(archive, bufferBytes)}
}

var (
	errBrokenHeader = errors.New("a header is broken")
	errNoEnd        = fmt.Errorf("%w: it has no end mark", io.ErrUnexpectedEOF)
)

func unexpectedEnd(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Read reads the stored bytes of the entry at hand.
func (r *reader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.in.Read(p[:min(int64(len(p)), r.left)])
	r.at += int64(n)
	r.left -= int64(n)
	return n, unexpectedEnd(err)
}

// header goes to the next entry; io.EOF comes at the end mark.
func (r *reader) header() (*header, error) {
	var records []byte
	for {
		if err := r.skip(r.left + r.padding); err != nil {
			return nil, err
		}
		r.left, r.padding = 0, 0
		b, err := r.nextBlock()
		if err != nil {
			return nil, err
		}
		h, size, err := parseUstar(b)
		if err != nil {
			return nil, err
		}
		if h.flag != flagExtended {
			return h, r.describe(h, size, records)
		}
		if size > maxRecords {
			return nil, fmt.Errorf("%w: %d bytes of PAX records", errBrokenHeader, size)
		}
		// Grown as it comes: a size that lies costs no memory.
		if r.records.Reset(); r.records.Cap() > bufferBytes {
			r.records = bytes.Buffer{}
		}
		n, err := io.CopyN(&r.records, r.in, size)
		r.at += n
		if err != nil {
			return nil, unexpectedEnd(err)
		}
		records, r.padding = r.records.Bytes(), blocks(size)-size
	}
}

// nextBlock reads a header's block, or both of the end mark.
func (r *reader) nextBlock() ([]byte, error) {
	b := r.block[:]
	for zeros := 0; ; zeros++ {
		n, err := io.ReadFull(r.in, b)
		r.at += int64(n)
		if err == io.EOF {
			return nil, errNoEnd
		}
		if err != nil {
			return nil, err
		}
		empty := b[0] == 0 && bytes.Count(b, []byte{0}) == tarBlock
		switch {
		case !empty && zeros > 0:
			return nil, fmt.Errorf("%w: the end mark is one block", errBrokenHeader)
		case !empty:
			return b, nil
		case zeros == 1:
			return nil, io.EOF
		}
	}
}

func (r *reader) skip(n int64) error {
	for n > 0 {
		step := int(min(n, 1<<30))
		done, err := r.in.Discard(step)
		r.at += int64(done)
		n -= int64(done)
		if err != nil {
			return unexpectedEnd(err)
		}
	}
	return nil
}

// describe adds what the records say, and finds where the content begins.
func (r *reader) describe(h *header, stored int64, records []byte) error {
	sparse, err := h.parseRecords(records, &stored)
	if err != nil {
		return err
	}
	if stored < 0 {
		return fmt.Errorf("%w: size %d", errBrokenHeader, stored)
	}
	switch h.flag {
	case flagHardLink, flagSymlink, flagChar, flagBlock, flagDir, flagFIFO:
		// Some writers give these a size, and no content: POSIX.1.
		stored = 0
	}
	h.stored = stored
	r.left, r.padding = stored, blocks(stored)-stored
	if !sparse.any || h.flag != flagFile {
		h.size = stored
		return nil
	}
	if sparse.major != "1" || sparse.minor != "0" || sparse.name == "" || sparse.size < 0 {
		return fmt.Errorf("%w: it is sparse, and not of format 1.0", errBrokenHeader)
	}
	h.sparse, h.name, h.size = true, sparse.name, sparse.size
	var read int64
	h.extents, read, err = readSparseMap(r.in, h.size, stored)
	r.at += read
	r.left -= read
	return err
}

// parseUstar takes a header apart, with the size it has.
func parseUstar(b []byte) (h *header, size int64, err error) {
	if string(b[257:262]) != "ustar" {
		return nil, 0, fmt.Errorf("%w: it is no ustar header", errBrokenHeader)
	}
	if sum, err := octal(b[148:156]); err != nil || sum != checksum(b) {
		return nil, 0, fmt.Errorf("%w: its checksum is wrong", errBrokenHeader)
	}
	h = &header{flag: b[156], name: text(b[0:100]), linkname: text(b[157:257]), uname: text(b[265:297]), gname: text(b[297:329])}
	if b[262] == 0 { // POSIX; GNU tar's own format has other fields there
		if prefix := text(b[345:500]); prefix != "" {
			h.name = prefix + "/" + h.name
		}
	}
	if h.flag == 0 {
		h.flag = flagFile
	}
	var mode, major, minor int64
	for _, field := range [...]struct {
		to          *int64
		from, until int
	}{{&mode, 100, 108}, {&h.uid, 108, 116}, {&h.gid, 116, 124}, {&size, 124, 136}, {&h.mtime.Sec, 136, 148}, {&major, 329, 337}, {&minor, 337, 345}} {
		if *field.to, err = octal(b[field.from:field.until]); err != nil {
			return nil, 0, err
		}
	}
	h.mode, h.devmajor, h.devminor = uint32(mode&0o7777), uint32(major), uint32(minor)
	return h, size, nil
}

// text ends at a NUL or with its field.
func text(field []byte) string {
	if i := bytes.IndexByte(field, 0); i >= 0 {
		field = field[:i]
	}
	return string(field)
}

// octal reads digits between blanks and NULs; an empty field is 0. GNU tar's
// binary numbers are not for us: what is too large for a field is a PAX record.
func octal(field []byte) (v int64, err error) {
	i, end := 0, len(field)
	for i < end && field[i] == ' ' {
		i++
	}
	for end > i && (field[end-1] == ' ' || field[end-1] == 0) {
		end--
	}
	for ; i < end; i++ {
		if field[i] < '0' || field[i] > '7' {
			return 0, fmt.Errorf("%w: %q is not an octal number", errBrokenHeader, field)
		}
		v = v<<3 | int64(field[i]-'0')
	}
	return v, nil
}

// sparseRecords are those of a sparse file.
type sparseRecords struct {
	any                bool
	major, minor, name string
	size               int64
}

// parseRecords overrides what the ustar header has.
func (h *header) parseRecords(records []byte, stored *int64) (s sparseRecords, err error) {
	for len(records) > 0 {
		var key, value string
		if key, value, records, err = nextRecord(records); err != nil {
			return s, err
		}
		switch key {
		case "path":
			h.name = value
		case "linkpath":
			h.linkname = value
		case "uname":
			h.uname = value
		case "gname":
			h.gname = value
		case "uid":
			err = parseDecimal(&h.uid, value)
		case "gid":
			err = parseDecimal(&h.gid, value)
		case "size":
			err = parseDecimal(stored, value)
		case "mtime":
			h.mtime, err = parsePAXTime(value)
		case paxFlags:
			h.flags = parseInodeFlags(value)
		case paxACLNames:
			h.aclNames = value
		case paxSparseMajor:
			s.any, s.major = true, value
		case paxSparseMinor:
			s.any, s.minor = true, value
		case paxSparseName:
			s.any, s.name = true, value
		case paxSparseSize:
			s.any = true
			err = parseDecimal(&s.size, value)
		default:
			if strings.HasPrefix(key, paxXattr) {
				if h.xattrs == nil {
					h.xattrs = map[string]string{}
				}
				h.xattrs[xattrName(key)] = value
			} else if strings.HasPrefix(key, paxSparse) {
				s.any = true // of another format, which is refused
			}
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// nextRecord takes a record off.
func nextRecord(b []byte) (key, value string, rest []byte, err error) {
	n, digits := 0, 0
	for digits < len(b) && digits < 9 && b[digits] >= '0' && b[digits] <= '9' {
		n = n*10 + int(b[digits]-'0')
		digits++
	}
	if n > len(b) || n < digits+len(" =\n") || b[digits] != ' ' || b[n-1] != '\n' {
		return "", "", nil, fmt.Errorf("%w: a PAX record has no such length", errBrokenHeader)
	}
	record := b[digits+1 : n-1]
	equals := bytes.IndexByte(record, '=')
	if equals < 1 {
		return "", "", nil, fmt.Errorf("%w: a PAX record has no key", errBrokenHeader)
	}
	return string(record[:equals]), string(record[equals+1:]), b[n:], nil
}

func parseDecimal(v *int64, value string) (err error) {
	if *v, err = strconv.ParseInt(value, 10, 64); err != nil {
		return fmt.Errorf("%w: %q is not a number", errBrokenHeader, value)
	}
	return nil
}

// parsePAXTime reads seconds with a fraction, cut at nanoseconds.
func parsePAXTime(value string) (t unix.Timespec, err error) {
	whole, fraction, _ := strings.Cut(value, ".")
	if err := parseDecimal(&t.Sec, whole); err != nil {
		return t, err
	}
	for i := range 9 {
		t.Nsec *= 10
		if i < len(fraction) {
			if fraction[i] < '0' || fraction[i] > '9' {
				return t, fmt.Errorf("%w: %q is not a time", errBrokenHeader, value)
			}
			t.Nsec += int64(fraction[i] - '0')
		}
	}
	if strings.HasPrefix(whole, "-") && t.Nsec != 0 {
		if t.Sec == math.MinInt64 {
			return t, fmt.Errorf("%w: the time %q is out of range", errBrokenHeader, value)
		}
		t.Sec, t.Nsec = t.Sec-1, 1e9-t.Nsec
	}
	return t, nil
}
