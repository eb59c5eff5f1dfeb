package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"reimager/report"
)

const (
	// holdingSize is the boot code area of an MBR in bytes: the disk signature
	// follows at 440, the partition table at 446, 0x55AA at 510.
	holdingSize = 440
	mbrTable    = 446
	// holdingOrigin is where a BIOS loads sector 0.
	holdingOrigin = 0x7c00

	minSectorSize = 512
	maxSectorSize = 4096
)

// holdingMessage fits 80 columns and is repeated on the serial port. The BIOS
// teletype wants CR and LF.
const holdingMessage = "reimage interrupted\r\n\r\n" +
	"This disk is half written and cannot boot.\r\n" +
	"Start the machine from a rescue medium, or call\r\n" +
	"your operator. Switching it off and on does not help.\r\n"

// HoldingSector is the first sector that a disk gets while it is being
// rewritten: HoldingCode in the first 440 bytes, disk signature, partition
// table, and in a sector of more than 512 bytes everything behind, from the new
// image's first sector. Only a BIOS runs it; UEFI firmware ignores boot code.
func HoldingSector(newSector0 []byte) ([]byte, error) {
	size := len(newSector0)
	if size < minSectorSize || size > maxSectorSize || size&(size-1) != 0 {
		return nil, fmt.Errorf("build holding sector: first sector has %d bytes, want 512 to 4096", size)
	}
	code, err := HoldingCode()
	if err != nil {
		return nil, err
	}
	sector, err := withTable(code, newSector0)
	if err != nil {
		return nil, fmt.Errorf("build holding sector: %w", err)
	}
	return sector, nil
}

// ClearTable takes the partition table out of a holding sector, for UEFI firmware: an
// MBR could lead it to an EFI system partition, a protective one to a GPT.
func ClearTable(sector []byte) { clear(sector[mbrTable : minSectorSize-2]) }

// withTable puts code into the boot code area of a new first sector.
func withTable(code, newSector0 []byte) ([]byte, error) {
	if binary.LittleEndian.Uint16(newSector0[510:]) != 0xaa55 {
		return nil, report.Hint(
			errors.New("the image's first sector has no boot signature 55 AA"),
			"the image must be one of a whole disk, with a partition table, not of one partition")
	}
	sector := bytes.Clone(newSector0)
	copy(sector, code)
	return sector, nil
}

// HoldingCode is the boot code of a disk that must not be booted: it says so on
// the screen and on the first serial port and halts for ever. It has exactly
// 440 bytes.
func HoldingCode() ([]byte, error) {
	code, err := assemble(holdingListing(), holdingOrigin)
	if err != nil {
		return nil, fmt.Errorf("assemble holding code: %w", err)
	}
	if len(code) > holdingSize {
		return nil, fmt.Errorf("assemble holding code: %d bytes, boot code area has %d", len(code), holdingSize)
	}
	return append(code, make([]byte, holdingSize-len(code))...), nil
}

// IsHolding tells whether a disk's first sector is holding code, of this version or
// another one, a lifeboat's included: what else is on the disk is then half of
// something.
func IsHolding(sector0 []byte) bool {
	if IsLifeboat(sector0) {
		return true
	}
	title, _, _ := strings.Cut(holdingMessage, "\r")
	return bytes.Contains(sector0[:min(len(sector0), holdingSize)], []byte(title))
}
