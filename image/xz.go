package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"slices"

	"github.com/ulikunitz/xz/lzma"

	"reimager/report"
)

// xzReader decodes xz (file format 1.2.1, which the comments cite). The container is
// read here and only LZMA2 left to the library: the library's own reader takes a file
// cut within a block's header for whole, and any size of dictionary.
//
// The command xz differs in these: it decodes with the other filters (x86 and so on)
// and with larger dictionaries, which are refused here; it decodes with a warning
// what has a kind of check that it doesn't know. Padding and what follows the last
// stream it judges as this does. Without a check (--check=none), damage may go
// unnoticed by both.
type xzReader struct {
	in  *compressed
	err error

	flags  [2]byte // of the stream
	open   bool    // a stream has begun and not ended
	blocks uint64
	seen   hash.Hash // of the records that the index must have; as many as there are blocks take no memory

	block       *lzma.Reader2 // nil between blocks
	check       hash.Hash     // of the block
	blockAt     int64         // where its header is
	dataAt      int64         // where its LZMA2 is
	compressed  int64         // bytes, or -1: as its header says
	content     int64         // bytes, or -1: as its header says
	contentSeen int64
}

const (
	xzMagic       = "\xfd7zXZ\x00"
	xzHeaderBytes = 12
	xzFooterBytes = 12
)

func newXZ(in *compressed) *xzReader { return &xzReader{in: in, seen: sha256.New()} }

func (x *xzReader) Read(p []byte) (int, error) {
	for x.err == nil {
		if x.block == nil {
			x.err = x.advance()
			continue
		}
		n, err := x.block.Read(p)
		x.contentSeen += int64(n)
		if x.check != nil {
			x.check.Write(p[:n])
		}
		switch {
		case x.content >= 0 && x.contentSeen > x.content:
			x.err = wrong(XZ, x.blockAt, errors.New("block is longer than its header says"))
		case err == io.EOF && x.block.EOS():
			x.err = x.endBlock()
		case err != nil: // io.EOF where the file ends before the first chunk
			x.err = x.verdict(err)
		}
		if n > 0 {
			return n, x.err
		}
	}
	return 0, x.err
}

// verdict says what an error of the library means.
func (x *xzReader) verdict(err error) error {
	switch {
	case x.in.failed() != nil:
		return x.in.failed()
	case x.in.ended():
		return x.in.truncated(XZ)
	case err == io.EOF, err == io.ErrUnexpectedEOF: // of an LZMA2 chunk
		err = errors.New("corrupt LZMA2 data")
	}
	return near(XZ, x.in.offset(), err)
}

// advance goes on to the next block. At the end it returns io.EOF.
func (x *xzReader) advance() error {
	if !x.open {
		return x.streamHeader()
	}
	at := x.in.offset()
	size, err := x.in.ReadByte()
	if err != nil {
		return x.verdict(err)
	}
	if size == 0 {
		return x.index(at)
	}
	return x.blockHeader(at, size)
}

// streamHeader reads stream padding (2.2) and a stream header (2.1.1).
func (x *xzReader) streamHeader() error {
	at := x.in.offset()
	head, err := x.in.Peek(4)
	switch {
	case x.in.failed() != nil:
		return x.in.failed()
	case len(head) == 0 && err == io.EOF:
		return io.EOF
	case len(head) == 4 && string(head) == "\x00\x00\x00\x00":
		_, err := x.in.Discard(4)
		return err
	case string(head) != xzMagic[:len(head)]:
		return wrong(XZ, at, errGarbage)
	}
	var b [xzHeaderBytes]byte
	if err := x.full(b[:]); err != nil {
		return err
	}
	x.flags = [2]byte(b[6:8])
	switch {
	case string(b[:6]) != xzMagic:
		return wrong(XZ, at, errGarbage)
	case crc32.ChecksumIEEE(b[6:8]) != binary.LittleEndian.Uint32(b[8:]):
		return wrong(XZ, at+8, fmt.Errorf("stream header: %w", errChecksum))
	case x.flags[0] != 0 || !slices.Contains([]byte{0, 1, 4, 10}, x.flags[1]):
		return wrong(XZ, at+6, fmt.Errorf("unknown kind of check % x; none, CRC32, CRC64 and SHA-256 are supported", x.flags))
	}
	x.open, x.blocks = true, 0
	x.seen.Reset()
	return nil
}

// newCheck returns the check of the stream's blocks (2.1.1.2), or nil.
func (x *xzReader) newCheck() hash.Hash {
	switch x.flags[1] {
	case 1:
		return crc32.NewIEEE()
	case 4:
		return crc64.New(crc64.MakeTable(crc64.ECMA)) // the package keeps that table
	case 10:
		return sha256.New()
	}
	return nil
}

// blockHeader reads the rest of a block header (3.1) that begins at an offset.
func (x *xzReader) blockHeader(at int64, size byte) error {
	b := make([]byte, (int(size)+1)*4)
	b[0] = size
	if err := x.full(b[1:]); err != nil {
		return err
	}
	sumAt := len(b) - 4
	if crc32.ChecksumIEEE(b[:sumAt]) != binary.LittleEndian.Uint32(b[sumAt:]) {
		return wrong(XZ, at+int64(sumAt), fmt.Errorf("block header: %w", errChecksum))
	}
	fields := bytes.NewReader(b[2:sumAt])
	dict, err := x.blockFields(b[1], fields)
	if err != nil {
		return wrong(XZ, at, fmt.Errorf("block header: %w", err))
	}
	if dict > maxWindow {
		return report.Hint(wrong(XZ, at, fmt.Errorf("dictionary of %d bytes, at most %d are supported", dict, maxWindow)),
			"compress it with xz -9, which has one of 64 MiB, or less")
	}
	if x.content >= 0 {
		dict = min(dict, x.content) // it can't refer to more
	}
	if x.block, err = (lzma.Reader2Config{DictCap: int(max(dict, lzma.MinDictCap))}).NewReader2(x.in); err != nil {
		return x.verdict(err)
	}
	x.check = x.newCheck()
	x.blockAt, x.dataAt, x.contentSeen = at, at+int64(len(b)), 0
	return nil
}

// blockFields reads what is between the flags of a block header and its checksum,
// and returns the size of the dictionary.
func (x *xzReader) blockFields(flags byte, fields *bytes.Reader) (dict int64, err error) {
	if flags&0x3c != 0 {
		return 0, errors.New("reserved flag is set")
	}
	if flags&3 != 0 {
		return 0, errors.New("several filters; only LZMA2 alone is supported")
	}
	x.compressed, x.content = -1, -1
	if flags&0x40 != 0 {
		if x.compressed, err = xzInteger(fields); err != nil {
			return 0, err
		}
	}
	if flags&0x80 != 0 {
		if x.content, err = xzInteger(fields); err != nil {
			return 0, err
		}
	}
	var filter [3]int64 // id, size of properties, properties
	for i := range filter {
		if filter[i], err = xzInteger(fields); err != nil {
			return 0, err
		}
	}
	if filter[0] != 0x21 || filter[1] != 1 {
		return 0, fmt.Errorf("filter %#x; only LZMA2 is supported", filter[0])
	}
	for fields.Len() > 0 {
		if padding, _ := fields.ReadByte(); padding != 0 {
			return 0, errors.New("padding is not zero")
		}
	}
	return xzDictionary(filter[2])
}

// xzDictionary decodes the size of a dictionary (5.3.1).
func xzDictionary(bits int64) (int64, error) {
	switch {
	case bits > 40:
		return 0, fmt.Errorf("size of dictionary %d, at most 40", bits)
	case bits == 40:
		return 1<<32 - 1, nil
	}
	return (2 | bits&1) << (bits/2 + 11), nil
}

// endBlock checks what follows the data of a block (3.3, 3.4).
func (x *xzReader) endBlock() error {
	at := x.in.offset()
	compressed := at - x.dataAt
	var padding [3]byte
	pad := padding[:-compressed&3]
	if err := x.full(pad); err != nil {
		return err
	}
	if padding != [3]byte{} {
		return wrong(XZ, at, errors.New("block padding is not zero"))
	}
	if x.compressed >= 0 && compressed != x.compressed || x.content >= 0 && x.contentSeen != x.content {
		return wrong(XZ, x.blockAt, errors.New("block is not as long as its header says"))
	}
	unpadded := at - x.blockAt
	if x.check != nil {
		at = x.in.offset()
		want := x.check.Sum(nil)
		if x.flags[1] != 10 {
			slices.Reverse(want) // CRCs are stored with the lowest byte first
		}
		got := make([]byte, len(want))
		if err := x.full(got); err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return wrong(XZ, at, fmt.Errorf("block: %w", errChecksum))
		}
		unpadded += int64(len(want))
	}
	x.blocks++
	addRecord(x.seen, unpadded, x.contentSeen)
	x.block = nil
	return nil
}

func addRecord(h hash.Hash, unpadded, content int64) {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], uint64(unpadded))
	binary.LittleEndian.PutUint64(b[8:], uint64(content))
	h.Write(b[:])
}

// index reads the rest of an index (4) that begins at an offset, and the footer.
func (x *xzReader) index(at int64) error {
	sum := crc32.NewIEEE()
	sum.Write([]byte{0})
	in := &summed{x.in, sum}
	n, err := xzInteger(in)
	if err != nil {
		return x.indexError(err)
	}
	if uint64(n) != x.blocks {
		return wrong(XZ, at, fmt.Errorf("index has %d blocks, the stream %d", n, x.blocks))
	}
	records := sha256.New()
	for range n {
		unpadded, err := xzInteger(in)
		if err != nil {
			return x.indexError(err)
		}
		content, err := xzInteger(in)
		if err != nil {
			return x.indexError(err)
		}
		addRecord(records, unpadded, content)
	}
	for (x.in.offset()-at)%4 != 0 {
		padding, err := in.ReadByte()
		if err != nil {
			return x.indexError(err)
		}
		if padding != 0 {
			return wrong(XZ, x.in.offset()-1, errors.New("index padding is not zero"))
		}
	}
	sumAt := x.in.offset()
	var stored [4]byte
	if err := x.full(stored[:]); err != nil {
		return err
	}
	switch {
	case binary.LittleEndian.Uint32(stored[:]) != sum.Sum32():
		return wrong(XZ, sumAt, fmt.Errorf("index: %w", errChecksum))
	case !bytes.Equal(records.Sum(nil), x.seen.Sum(nil)):
		return wrong(XZ, at, errors.New("index has other sizes than the blocks"))
	}
	return x.footer(x.in.offset() - at)
}

// indexError says why an integer of the index could not be read.
func (x *xzReader) indexError(err error) error {
	if errors.Is(err, io.EOF) || x.in.failed() != nil {
		return x.verdict(err)
	}
	return wrong(XZ, x.in.offset()-1, fmt.Errorf("index: %w", err))
}

// footer reads a stream footer (2.1.2).
func (x *xzReader) footer(indexBytes int64) error {
	at := x.in.offset()
	var b [xzFooterBytes]byte
	if err := x.full(b[:]); err != nil {
		return err
	}
	switch {
	case string(b[10:]) != "YZ":
		return wrong(XZ, at+10, errors.New("stream footer is missing"))
	case crc32.ChecksumIEEE(b[4:10]) != binary.LittleEndian.Uint32(b[:]):
		return wrong(XZ, at, fmt.Errorf("stream footer: %w", errChecksum))
	case (int64(binary.LittleEndian.Uint32(b[4:]))+1)*4 != indexBytes:
		return wrong(XZ, at+4, errors.New("stream footer has another size of the index"))
	case [2]byte(b[8:10]) != x.flags:
		return wrong(XZ, at+8, errors.New("stream footer has other flags than the header"))
	}
	x.open = false
	return nil
}

// full fills b.
func (x *xzReader) full(b []byte) error {
	if _, err := io.ReadFull(x.in, b); err != nil {
		if x.in.failed() != nil {
			return x.in.failed()
		}
		return x.in.truncated(XZ)
	}
	return nil
}

// xzInteger reads an integer of variable length (1.2): at most 63 bits, as short as
// it can be.
func xzInteger(r io.ByteReader) (int64, error) {
	var v int64
	for i := range 9 {
		c, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		v |= int64(c&0x7f) << (7 * i)
		if c&0x80 == 0 {
			if c == 0 && i > 0 {
				return 0, errors.New("integer is longer than it has to be")
			}
			return v, nil
		}
	}
	return 0, errors.New("integer is longer than 63 bits")
}

// summed sums up what is read.
type summed struct {
	io.ByteReader
	sum hash.Hash32
}

func (s *summed) ReadByte() (byte, error) {
	c, err := s.ByteReader.ReadByte()
	if err == nil {
		s.sum.Write([]byte{c})
	}
	return c, err
}
