package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"reimager/report"
)

// MapBlockBytes is the unit in which the maps that are written here count.
const MapBlockBytes = 4096

// mapVersion is the version of the block map format that is written and read:
// bmap-tools, docs/README.md and bmaptools/BmapCreate.py.
const mapVersion = "2.0"

// bmapFile is the XML of a block map.
type bmapFile struct {
	XMLName      xml.Name    `xml:"bmap"`
	Version      string      `xml:"version,attr"`
	ImageSize    string      `xml:"ImageSize"`
	BlockSize    string      `xml:"BlockSize"`
	BlocksCount  string      `xml:"BlocksCount"`
	MappedCount  string      `xml:"MappedBlocksCount"`
	ChecksumType string      `xml:"ChecksumType"`
	Checksum     string      `xml:"BmapFileChecksum"`
	Ranges       []bmapRange `xml:"BlockMap>Range"`
}

type bmapRange struct {
	Checksum string `xml:"chksum,attr"`
	Blocks   string `xml:",chardata"`
}

// EncodeMap writes a map in the .bmap format, as bmaptool reads it.
func EncodeMap(m *Map) ([]byte, error) {
	blocks := (m.Bytes + MapBlockBytes - 1) / MapBlockBytes
	mapped := int64(0)
	var ranges bytes.Buffer
	for _, r := range m.Ranges {
		if r.Off%MapBlockBytes != 0 || r.Bytes%MapBlockBytes != 0 && r.End() != m.Bytes {
			return nil, fmt.Errorf("encode block map: the range of %d bytes at %d is not made of blocks of %d", r.Bytes, r.Off, MapBlockBytes)
		}
		first, last := r.Off/MapBlockBytes, (r.End()-1)/MapBlockBytes
		mapped += last - first + 1
		span := strconv.FormatInt(first, 10)
		if last > first {
			span += "-" + strconv.FormatInt(last, 10)
		}
		fmt.Fprintf(&ranges, "        <Range chksum=\"%s\"> %s </Range>\n", r.Digest, span)
	}
	text := fmt.Appendf(nil, `<?xml version="1.0" ?>
<!-- Which blocks of a disk image carry data, and their SHA-256: the block map format of bmap-tools. -->
<bmap version="%s">
    <ImageSize> %d </ImageSize>
    <BlockSize> %d </BlockSize>
    <BlocksCount> %d </BlocksCount>
    <MappedBlocksCount> %d </MappedBlocksCount>
    <ChecksumType> sha256 </ChecksumType>
    <BmapFileChecksum> %s </BmapFileChecksum>
    <BlockMap>
%s    </BlockMap>
</bmap>
`, mapVersion, m.Bytes, MapBlockBytes, blocks, mapped, noChecksum, ranges.Bytes())
	sum := sha256.Sum256(text)
	return bytes.Replace(text, []byte(noChecksum), hex.AppendEncode(nil, sum[:]), 1), nil
}

// noChecksum stands in the place of the file's own checksum while that is computed.
var noChecksum = strings.Repeat("0", 2*sha256.Size)

// ParseMap reads a .bmap file of version 2.0 with SHA-256 for every range, and its
// own checksum. Ranges may be of any length: CheckFine tells whether they can be
// verified before they are written.
func ParseMap(text []byte) (*Map, error) {
	m, err := parseMap(text)
	if err != nil {
		return nil, fmt.Errorf("parse block map: %w", err)
	}
	return m, nil
}

func parseMap(text []byte) (*Map, error) {
	var f bmapFile
	dec := xml.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&f); err != nil {
		return nil, err
	}
	if t, err := nextElement(dec); err != io.EOF {
		return nil, fmt.Errorf("something follows the map: %v, %v", t, err)
	}
	if f.Version != mapVersion {
		return nil, report.Hint(fmt.Errorf("version %q, expected %q", f.Version, mapVersion), "make it with imagebuild pack, or a current bmaptool create")
	}
	if kind := strings.TrimSpace(f.ChecksumType); kind != "sha256" {
		return nil, report.Hint(fmt.Errorf("checksums of type %q, expected sha256", kind), "make it with imagebuild pack, or bmaptool create")
	}
	if err := checkOwnSum(text, strings.TrimSpace(f.Checksum)); err != nil {
		return nil, err
	}
	return f.ranges()
}

// nextElement returns what follows, comments and white space left out.
func nextElement(dec *xml.Decoder) (xml.Token, error) {
	for {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		switch t := t.(type) {
		case xml.Comment:
		case xml.CharData:
			if len(bytes.TrimSpace(t)) > 0 {
				return t, nil
			}
		default:
			return t, nil
		}
	}
}

// checkOwnSum checks the file's checksum, which is taken with zeros in its place.
func checkOwnSum(text []byte, sum string) error {
	if len(sum) != 2*sha256.Size {
		return fmt.Errorf("its own checksum has %d digits, expected %d", len(sum), 2*sha256.Size)
	}
	got := sha256.Sum256(bytes.Replace(text, []byte(sum), []byte(noChecksum), 1))
	if hex.EncodeToString(got[:]) != sum {
		return fmt.Errorf("its SHA-256 is %x, expected %.16s as it says itself: it was changed or cut", got[:8], sum)
	}
	return nil
}

// ranges checks that the numbers make sense together.
func (f *bmapFile) ranges() (*Map, error) {
	var all []error
	number := func(what, text string) int64 {
		n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err != nil || n < 0 || n > 1<<60 {
			all = append(all, fmt.Errorf("%s %q: expected a number", what, text))
		}
		return n
	}
	size, block := number("ImageSize", f.ImageSize), number("BlockSize", f.BlockSize)
	count, mapped := number("BlocksCount", f.BlocksCount), number("MappedBlocksCount", f.MappedCount)
	if err := errors.Join(all...); err != nil {
		return nil, err
	}
	if block < 512 || block > 1<<20 || block&(block-1) != 0 {
		return nil, fmt.Errorf("blocks of %d bytes: expected a power of two from 512 to 1 MiB", block)
	}
	if want := (size + block - 1) / block; count != want {
		return nil, fmt.Errorf("BlocksCount %d: an image of %d bytes has %d", count, size, want)
	}
	m := &Map{Bytes: size}
	next := int64(0)
	for _, r := range f.Ranges {
		first, last, err := r.span()
		if err != nil {
			return nil, err
		}
		if first < next || last >= count {
			return nil, fmt.Errorf("range %q: expected blocks from %d to %d, ascending", strings.TrimSpace(r.Blocks), next, count-1)
		}
		var d Digest
		if err := d.UnmarshalText([]byte(r.Checksum)); err != nil {
			return nil, fmt.Errorf("range %q: %w", strings.TrimSpace(r.Blocks), err)
		}
		off := first * block
		m.Ranges = append(m.Ranges, MapRange{Extent{off, min(size, (last+1)*block) - off}, d})
		mapped -= last - first + 1
		next = last + 1
	}
	if mapped != 0 {
		return nil, fmt.Errorf("MappedBlocksCount is %s, but the ranges have %d less", strings.TrimSpace(f.MappedCount), mapped)
	}
	return m, nil
}

// span reads "7" or "7-9".
func (r bmapRange) span() (first, last int64, err error) {
	text := strings.TrimSpace(r.Blocks)
	a, b, two := strings.Cut(text, "-")
	if !two {
		b = a
	}
	first, err = strconv.ParseInt(a, 10, 64)
	if err == nil {
		last, err = strconv.ParseInt(b, 10, 64)
	}
	if err != nil || first < 0 || last < first || last > 1<<50 {
		return 0, 0, fmt.Errorf("range %q: expected blocks such as 7 or 7-9", text)
	}
	return first, last, nil
}
