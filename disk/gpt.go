package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"reimager/report"
)

// Piece is what a disk has, or shall have, at an offset in bytes.
type Piece struct {
	Off  int64  `json:"off"`
	Data []byte `json:"data"`
}

// gptSignature begins a GPT's header, which is in sector 1, and its backup, which is in
// the last one. UEFI 2.10, 5.3.2.
const gptSignature = "EFI PART"

// IsGPTHeader tells whether a sector may be taken for the header of a GPT.
func IsGPTHeader(sector []byte) bool { return bytes.HasPrefix(sector, []byte(gptSignature)) }

// GPTHeaders are the offsets in bytes of the two sectors in which firmware looks for a
// GPT's header, the backup first; none on a disk that is too small for them.
func GPTHeaders(diskBytes int64, sectorSize int) []int64 {
	sector := int64(sectorSize)
	last := diskBytes/sector - 1
	if last < 2 {
		return nil
	}
	return []int64{last * sector, sector}
}

// LandGPT returns what makes the GPT of an image that of a disk of that size, in the
// order in which it has to be written, so that what is there points to what is there
// already: the backup of the entries, where they move, the backup header, the header.
// An image made for a smaller disk has its backup in the middle, where firmware and
// tools take the table for damaged. last is what the image has in the last sector of
// the disk, nil if it ends before. UEFI 2.10, 5.3.2.
func LandGPT(image io.ReaderAt, last []byte, diskBytes int64, sectorSize int) ([]Piece, error) {
	table, err := ReadTable(image, sectorSize)
	if err != nil {
		return nil, err
	}
	sector := int64(sectorSize)
	header := make([]byte, sector)
	if _, err := image.ReadAt(header, sector); err != nil {
		return nil, fmt.Errorf("read GPT header: %w", err)
	}
	headers := GPTHeaders(diskBytes, sectorSize)
	if table.Kind != "gpt" || headers == nil {
		return nil, errors.New("place GPT: the image has none, or the disk is too small for one")
	}
	end := headers[0] / sector
	if int64(le64(header[32:])) == end && isBackup(last, header, end) {
		return []Piece{{headers[0], last}, {headers[1], header}}, nil
	}
	entryBytes := int64(le32(header[80:])) * int64(le32(header[84:]))
	entries := make([]byte, (entryBytes+sector-1)/sector*sector)
	if _, err := image.ReadAt(entries[:entryBytes], int64(le64(header[72:]))*sector); err != nil {
		return nil, fmt.Errorf("read GPT entries: %w", err)
	}
	at := end - int64(len(entries))/sector
	for _, e := range table.Entries {
		if e.Start+e.Bytes > at*sector {
			return nil, report.Hint(fmt.Errorf("place GPT: partition %d ends at byte %d, the backup of the table needs the %d bytes from %d on",
				e.Number, e.Start+e.Bytes, diskBytes-at*sector, at*sector), "leave %d sectors behind the last partition of the image", int64(len(entries))/sector+1)
		}
	}
	binary.LittleEndian.PutUint64(header[32:], uint64(end))  // where the other header is
	binary.LittleEndian.PutUint64(header[48:], uint64(at-1)) // last usable
	backup := bytes.Clone(header)
	binary.LittleEndian.PutUint64(backup[24:], uint64(end))
	binary.LittleEndian.PutUint64(backup[32:], 1)
	binary.LittleEndian.PutUint64(backup[72:], uint64(at))
	return []Piece{{at * sector, entries}, {headers[0], sum(backup)}, {headers[1], sum(header)}}, nil
}

// isBackup tells whether a sector is the backup of a GPT's header at that LBA.
func isBackup(sector, header []byte, lba int64) bool {
	if !IsGPTHeader(sector) || len(sector) != len(header) {
		return false
	}
	want := bytes.Clone(header)
	binary.LittleEndian.PutUint64(want[24:], uint64(lba))
	binary.LittleEndian.PutUint64(want[32:], 1)
	copy(want[72:80], sector[72:]) // its own copy of the entries
	return bytes.Equal(sum(want)[:gptHeaderBytes], sector[:gptHeaderBytes])
}

// gptHeaderBytes is the length of a header that ReadTable accepts.
const gptHeaderBytes = 92

// sum puts the CRC into a header.
func sum(header []byte) []byte {
	clear(header[16:20])
	binary.LittleEndian.PutUint32(header[16:], crc32.ChecksumIEEE(header[:gptHeaderBytes]))
	return header
}

func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }
