package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// A lifeboat is a GRUB of our own that starts a kernel from plain sectors of the disk:
// it needs neither a filesystem nor a partition table, and not the sectors behind the
// first where another GRUB may lie.
//
// Its core image is the same on every machine but for the block list of its first
// sector, which is not compressed. What differs is where its script lies, and that is
// in its boot sector, from where the embedded configuration reads it: BIOS and
// chainloader put the boot sector at 0x7c00, and nothing of GRUB uses that memory again
// (include/grub/i386/pc/memory.h). So nothing has to be unpacked, edited and packed
// again on the machine that will depend on it.

// Offsets in boot.img: include/grub/i386/pc/boot.h.
const (
	grubBPBStart   = 0x03 // up to 0x5a: room for a BIOS parameter block
	grubBPBEnd     = 0x5a
	grubKernel     = 0x5a // u16: where diskboot.img is loaded
	grubCoreSector = 0x5c // u64
	grubDriveCheck = 0x66 // a jump over a check of the drive number
)

// The lifeboat's own bytes in its boot sector. grub-bios-setup keeps what it finds in
// the parameter block of the disk, so boot.img never relies on its content; of its
// first 29 bytes boot.S makes scratch space for INT 13h (geometry and address packet).
// Firmware that takes the sector for a FAT's patches a drive number at 0x24 or 0x40.
const (
	lifeboatMarkAt  = 0x28
	lifeboatHigh    = 0x30 // u32: first sector of the script, divided by 16
	lifeboatLow     = 0x34 // u8: first sector of the script, modulo 16
	lifeboatCount   = 0x35 // u8: sectors of the script
	lifeboatUsedEnd = 0x36

	lifeboatMark = "reimager"
)

// Offsets in core.img: the block list that ends diskboot.img, which is its first sector,
// and the header of lzma_decompress.img behind it (include/grub/offsets.h).
const (
	coreList       = 512 - 12 // u64 first sector, u16 sectors, u16 segment
	coreListBefore = 512 - 24 // the next one, downwards; no sectors end the list
	coreSegment    = 0x820
	coreCompressed = 512 + 0x08 // u32
	coreBootDevice = 512 + 0x18 // three bytes, 0xff: the whole disk

	// coreMax bounds a core in bytes: it is loaded from 0x8000 on, and grub-mkimage lets
	// none end beyond 0x78000.
	coreMax = 0x60000
)

// LifeboatCore is GRUB as imagebuild bakes it: boot.img, and a core.img for i386-pc that
// was made with LifeboatConfig and LifeboatModules.
type LifeboatCore struct{ boot, core []byte }

// LifeboatModules are the modules that a lifeboat's core needs beside those that they
// depend on: grub-mkimage adds these.
func LifeboatModules() []string {
	return []string{"biosdisk", "boot", "configfile", "linux", "memrw", "reboot"}
}

// LifeboatConfig is the configuration that is embedded in a lifeboat's core. GRUB runs
// it by its rescue parser, which knows variables and no conditions; memrw prints
// hexadecimal digits without leading zeros, so the last digit comes on its own. source
// does not fall into a menu or a shell. $root is the disk that was booted, whatever
// number firmware gives it, as the core knows no other.
func LifeboatConfig() string {
	return fmt.Sprintf(`read_dword -v reimager_high %#x
read_byte -v reimager_low %#x
read_byte -v reimager_count %#x
source ($root)0x${reimager_high}${reimager_low}+0x${reimager_count}
reboot
`, holdingOrigin+lifeboatHigh, holdingOrigin+lifeboatLow, holdingOrigin+lifeboatCount)
}

// ParseLifeboatCore checks what was baked as far as it can be checked without unpacking
// it: that each field that Make sets is where it is expected to be, and is free.
func ParseLifeboatCore(bootImg, coreImg []byte) (*LifeboatCore, error) {
	if err := checkBootImage(bootImg); err != nil {
		return nil, fmt.Errorf("check GRUB's boot.img: %w", err)
	}
	if err := checkCoreImage(coreImg); err != nil {
		return nil, fmt.Errorf("check GRUB's core.img: %w", err)
	}
	return &LifeboatCore{boot: bytes.Clone(bootImg), core: bytes.Clone(coreImg)}, nil
}

func checkBootImage(b []byte) error {
	le := binary.LittleEndian
	switch {
	case len(b) != SectorBytes:
		return fmt.Errorf("%d bytes, expected %d", len(b), SectorBytes)
	case le.Uint16(b[510:]) != 0xaa55:
		return errors.New("no boot signature 55 AA")
	case b[0] != 0xeb: // jmp over the parameter block
		return fmt.Errorf("begins with %#02x, expected a jump", b[0])
	case len(bytes.Trim(b[grubBPBStart+1:grubBPBEnd], "\x00")) != 0: // 0x90 before
		return errors.New("the room for a parameter block is not empty")
	case le.Uint16(b[grubKernel:]) != 0x8000:
		return fmt.Errorf("loads the core to %#x, expected 0x8000", le.Uint16(b[grubKernel:]))
	case b[grubDriveCheck] != 0xeb:
		return fmt.Errorf("%#02x at %#x, expected a jump", b[grubDriveCheck], grubDriveCheck)
	}
	return nil
}

func checkCoreImage(c []byte) error {
	le := binary.LittleEndian
	if len(c) < coreBootDevice+3 || len(c) > coreMax {
		return fmt.Errorf("%d bytes, expected %d to %d", len(c), coreBootDevice+3, coreMax)
	}
	list := c[coreList:]
	compressed := int64(le.Uint32(c[coreCompressed:]))
	switch {
	case int(le.Uint16(list[8:])) != sectors(len(c))-1:
		return fmt.Errorf("its block list has %d sectors, expected %d", le.Uint16(list[8:]), sectors(len(c))-1)
	case le.Uint16(list[10:]) != coreSegment:
		return fmt.Errorf("its block list loads to segment %#x, expected %#x", le.Uint16(list[10:]), coreSegment)
	case le.Uint16(c[coreListBefore+8:]) != 0:
		return errors.New("its block list has more than one entry")
	case compressed == 0 || compressed > int64(len(c)):
		return fmt.Errorf("%d compressed bytes in a file of %d", compressed, len(c))
	case string(c[coreBootDevice:coreBootDevice+3]) != "\xff\xff\xff":
		return errors.New("it is made for a partition")
	}
	return nil
}

// Bytes is the size of a core that Make makes, a multiple of SectorBytes.
func (c *LifeboatCore) Bytes() int64 { return int64(sectors(len(c.core))) * SectorBytes }

// Make returns the core for the place where it will lie, padded to whole sectors, and
// the boot sector that loads it and says where the script lies. The same input gives
// the same bytes.
func (c *LifeboatCore) Make(script Blocks, coreSector int64) (core, bootSector []byte, err error) {
	if err := script.check(); err != nil {
		return nil, nil, fmt.Errorf("make lifeboat's core: script: %w", err)
	}
	if script.Sector>>4 > 0xffffffff || script.Count > 0xff {
		return nil, nil, fmt.Errorf("make lifeboat's core: script at %v: at most 255 sectors below 32 TiB can be named", script)
	}
	if err := (Blocks{coreSector, c.Bytes() / SectorBytes}).check(); err != nil {
		return nil, nil, fmt.Errorf("make lifeboat's core: %w", err)
	}
	le := binary.LittleEndian
	core = make([]byte, c.Bytes())
	copy(core, c.core)
	le.PutUint64(core[coreList:], uint64(coreSector)+1)

	bootSector = bytes.Clone(c.boot)
	le.PutUint64(bootSector[grubCoreSector:], uint64(coreSector))
	// As grub-bios-setup does on hard disks: two NOPs let the check run that corrects
	// a BIOS which passes no drive number.
	copy(bootSector[grubDriveCheck:], []byte{0x90, 0x90})
	copy(bootSector[lifeboatMarkAt:], lifeboatMark)
	le.PutUint32(bootSector[lifeboatHigh:], uint32(script.Sector>>4))
	bootSector[lifeboatLow] = byte(script.Sector & 15)
	bootSector[lifeboatCount] = byte(script.Count)
	// boot.img has code for floppies where the table of a disk lies.
	clear(bootSector[holdingSize : minSectorSize-2])
	return core, bootSector, nil
}

// LifeboatSector is the first sector that a disk gets while it is being rewritten: the
// boot code of a lifeboat, and disk signature and partition table of the new image.
func LifeboatSector(bootSector, newSector0 []byte) ([]byte, error) {
	if len(bootSector) != SectorBytes || !IsLifeboat(bootSector) {
		return nil, errors.New("build lifeboat sector: the boot sector is not a lifeboat's")
	}
	if len(newSector0) != SectorBytes {
		return nil, fmt.Errorf("build lifeboat sector: first sector has %d bytes, expected %d", len(newSector0), SectorBytes)
	}
	sector, err := withTable(bootSector[:holdingSize], newSector0)
	if err != nil {
		return nil, fmt.Errorf("build lifeboat sector: %w", err)
	}
	return sector, nil
}

// IsLifeboat tells whether a sector has a lifeboat's boot code.
func IsLifeboat(sector []byte) bool {
	return len(sector) >= lifeboatUsedEnd && string(sector[lifeboatMarkAt:][:len(lifeboatMark)]) == lifeboatMark
}

func sectors(n int) int { return (n + SectorBytes - 1) / SectorBytes }
