package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// Table is a partition table as it stands on a disk or in an image.
type Table struct {
	Kind    string // "mbr" or "gpt"
	UUID    string // of the table, as blkid's PTUUID writes it
	Entries []Entry
	// EBRs are the offsets in bytes of the sectors that chain logical partitions
	// together, whatever is in them: what lies there must not be overwritten.
	EBRs []int64 `json:",omitempty"`
}

// Entry is one partition of a table.
type Entry struct {
	Number   int
	Start    int64 // bytes
	Bytes    int64
	Type     string // MBR: two hexadecimal digits; GPT: the type's GUID
	Extended bool   // an MBR container of logical partitions
	PartUUID string
	Name     string // GPT only
}

// Entry returns the entry with that number.
func (t *Table) Entry(number int) (Entry, bool) {
	for _, e := range t.Entries {
		if e.Number == number {
			return e, true
		}
	}
	return Entry{}, false
}

// ErrNoTable says that there is no partition table in the first sectors.
var ErrNoTable = errors.New("no partition table: the first sector does not end in 55 AA")

const (
	mbrSignature = 510 // offset of 55 AA
	mbrTable     = 446 // offset of the four entries
	mbrDiskID    = 440
	maxLogical   = 128 // bounds a chain of EBRs that loops
)

// ReadTable reads the partition table from the beginning of a disk or image with
// the given sector size. With an error in a chain of EBRs it returns the entries
// before it as well.
// MBR: the classic DOS layout with a chain of EBRs; GPT: UEFI 2.10, chapter 5.
func ReadTable(r io.ReaderAt, sectorSize int) (*Table, error) {
	sector := make([]byte, 512)
	if _, err := r.ReadAt(sector, 0); err != nil {
		return nil, fmt.Errorf("read sector 0: %w", err)
	}
	if sector[mbrSignature] != 0x55 || sector[mbrSignature+1] != 0xaa {
		return nil, ErrNoTable
	}
	for i := range 4 {
		if sector[mbrTable+16*i+4] == 0xee {
			return readGPT(r, int64(sectorSize))
		}
	}
	return readMBR(r, sector, int64(sectorSize))
}

// readMBR counts partitions as the kernel does (block/partitions/msdos.c), because
// the kernel's numbers are what fstabs and configurations mean.
func readMBR(r io.ReaderAt, sector []byte, sectorSize int64) (*Table, error) {
	t := &Table{Kind: "mbr", UUID: fmt.Sprintf("%08x", binary.LittleEndian.Uint32(sector[mbrDiskID:]))}
	var container Entry
	for i := range 4 {
		if e := mbrEntry(sector, i, 0, sectorSize); e.Bytes > 0 {
			t.add(i+1, e)
			if e.Extended && container.Bytes == 0 {
				container = e
			}
		}
	}
	if container.Bytes == 0 {
		return t, nil
	}
	ebr := make([]byte, 512)
	at, number := container.Start, 5
	for range maxLogical {
		t.EBRs = append(t.EBRs, at)
		if _, err := r.ReadAt(ebr, at); err != nil {
			return t, fmt.Errorf("read EBR at byte %d: %w", at, err)
		}
		if ebr[mbrSignature] != 0x55 || ebr[mbrSignature+1] != 0xaa {
			return t, nil
		}
		next := int64(-1)
		for i := range 4 {
			e := mbrEntry(ebr, i, at, sectorSize)
			switch {
			case e.Bytes == 0:
			case e.Extended && next < 0:
				// The next EBR is relative to the container, a partition to its EBR.
				next = e.Start - at + container.Start
			case e.Extended:
			case i >= 2 && (e.Start < container.Start || e.Start+e.Bytes > container.Start+container.Bytes):
				// Some tools leave rubbish in the last two entries.
			default:
				t.add(number, e)
				number++
			}
		}
		if next < 0 {
			return t, nil
		}
		at = next
	}
	return t, fmt.Errorf("read EBRs: more than %d logical partitions; the chain may loop", maxLogical)
}

func mbrEntry(sector []byte, i int, base, sectorSize int64) Entry {
	b := sector[mbrTable+16*i:][:16]
	return Entry{
		Start:    base + int64(binary.LittleEndian.Uint32(b[8:]))*sectorSize,
		Bytes:    int64(binary.LittleEndian.Uint32(b[12:])) * sectorSize,
		Type:     fmt.Sprintf("%02x", b[4]),
		Extended: extended(b[4]),
	}
}

func (t *Table) add(number int, e Entry) {
	e.Number, e.PartUUID = number, fmt.Sprintf("%s-%02x", t.UUID, number)
	t.Entries = append(t.Entries, e)
}

func extended(kind byte) bool { return kind == 0x05 || kind == 0x0f || kind == 0x85 }

func readGPT(r io.ReaderAt, sectorSize int64) (*Table, error) {
	header := make([]byte, 92)
	if _, err := r.ReadAt(header, sectorSize); err != nil {
		return nil, fmt.Errorf("read GPT header: %w", err)
	}
	if string(header[:8]) != "EFI PART" {
		return nil, fmt.Errorf("read GPT header: no signature \"EFI PART\" in the second sector of %d bytes", sectorSize)
	}
	size := binary.LittleEndian.Uint32(header[12:])
	sum := binary.LittleEndian.Uint32(header[16:])
	if size != 92 {
		return nil, fmt.Errorf("read GPT header: %d bytes long, expected 92", size)
	}
	clear(header[16:20]) // the sum is over the header with its own field zero
	if got := crc32.ChecksumIEEE(header); got != sum {
		return nil, fmt.Errorf("read GPT header: CRC %08x, expected %08x", got, sum)
	}
	start := int64(binary.LittleEndian.Uint64(header[72:]))
	count, each := binary.LittleEndian.Uint32(header[80:]), binary.LittleEndian.Uint32(header[84:])
	if count > 1024 || each < 128 || each > 4096 || start < 2 || start > 1<<40 {
		return nil, fmt.Errorf("read GPT header: %d entries of %d bytes at sector %d make no sense", count, each, start)
	}
	entries := make([]byte, count*each)
	if _, err := r.ReadAt(entries, start*sectorSize); err != nil {
		return nil, fmt.Errorf("read GPT entries: %w", err)
	}
	if got, want := crc32.ChecksumIEEE(entries), binary.LittleEndian.Uint32(header[88:]); got != want {
		return nil, fmt.Errorf("read GPT entries: CRC %08x, expected %08x", got, want)
	}
	t := &Table{Kind: "gpt", UUID: guid(header[56:72])}
	for i := range int(count) {
		e := entries[i*int(each):][:each]
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		first, last := int64(binary.LittleEndian.Uint64(e[32:])), int64(binary.LittleEndian.Uint64(e[40:]))
		if first < 0 || last < first || last > 1<<50 {
			return nil, fmt.Errorf("read GPT entry %d: sectors %d to %d make no sense", i+1, first, last)
		}
		t.Entries = append(t.Entries, Entry{
			Number: i + 1, Start: first * sectorSize, Bytes: (last - first + 1) * sectorSize,
			Type: guid(e[:16]), PartUUID: guid(e[16:32]), Name: utf16Name(e[56:128]),
		})
	}
	return t, nil
}

// guid writes a GUID as text; its first three fields are little-endian (UEFI 2.10, appendix A).
func guid(b []byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]),
		binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:16])
}

func utf16Name(b []byte) string {
	var units []uint16
	for ; len(b) >= 2 && (b[0] != 0 || b[1] != 0); b = b[2:] {
		units = append(units, binary.LittleEndian.Uint16(b))
	}
	return string(utf16.Decode(units))
}
