package lifeboat

import (
	"errors"
	"fmt"
	"math"

	"reimager/boot"
	"reimager/image"
)

// Where things lie in a berth, in bytes from its beginning: docs/lifeboat.md.
const (
	bootOff     = 0 // the boot sector, in a block of its own
	headerOff   = 1 * blockBytes
	journalOff  = 2 * blockBytes // two slots
	keyOff      = 4 * blockBytes
	headBytes   = 5 * blockBytes // of all of these
	sectionsOff = fixedBytes
)

// The sections of a lifeboat.
const (
	Image   = "image"   // compressed
	Archive = "archive" // the retained files, encrypted
	Saved   = "state"   // what was gathered
	Kernel  = "kernel"
	Initrd  = "initrd"
	Kernel2 = "kernel.2"
	Initrd2 = "initrd.2"
	script  = "script" // GRUB's
	core    = "core"   // GRUB itself
)

// headerFormat is the version of all that lies in a berth.
const headerFormat = 1

// Header says what lies in a berth. It is written when all of that is on the disk and
// was read back.
type Header struct {
	Format   int       `json:"format"`
	RunID    string    `json:"run_id"`
	Berth    Berth     `json:"berth"`
	Sections []Section `json:"sections"` // in the order in which they lie
}

// Section is a file in a berth.
type Section struct {
	Name   string       `json:"name"`
	Off    int64        `json:"off"` // in bytes from the start of the disk, a multiple of 4 KiB
	Bytes  int64        `json:"bytes"`
	SHA256 image.Digest `json:"sha256"` // of what lies on the disk; of ciphertext where it is secret
}

// extent is the section with what pads it to whole blocks.
func (s Section) extent() image.Extent { return image.Extent{Off: s.Off, Bytes: blocks(s.Bytes)} }

// blocks rounds up to whole blocks.
func blocks(n int64) int64 { return (n + sectionAlign - 1) / sectionAlign * sectionAlign }

// secret tells which sections are encrypted.
func secret(name string) bool { return name == Archive }

// Section returns the section of that name.
func (h *Header) Section(name string) (Section, bool) {
	for _, s := range h.Sections {
		if s.Name == name {
			return s, true
		}
	}
	return Section{}, false
}

// ErrNoBoat says that no lifeboat of the run lies there.
var ErrNoBoat = errors.New("no lifeboat of this run")

// ParseHeader reads the header block of a berth that begins at an offset of a disk of
// diskBytes. Every number in it is checked. What is no header is ErrNoBoat; one that is
// damaged is not.
func ParseHeader(block []byte, off, diskBytes int64) (Header, error) {
	var h Header
	err := unseal(headerMagic, block, &h)
	if errors.Is(err, errNoBlock) {
		return Header{}, fmt.Errorf("%w: %w", ErrNoBoat, err)
	}
	if err == nil {
		err = h.check(off, diskBytes)
	}
	return h, err
}

func (h *Header) check(off, diskBytes int64) error {
	if h.Format != headerFormat {
		return fmt.Errorf("read header of the lifeboat: format %d, expected %d", h.Format, headerFormat)
	}
	if err := boot.CheckRunID(h.RunID); err != nil {
		return fmt.Errorf("read header of the lifeboat: %w", err)
	}
	if h.Berth.Off != off {
		return fmt.Errorf("read header of the lifeboat: its berth is at byte %d, expected %d", h.Berth.Off, off)
	}
	if err := h.Berth.check(diskBytes); err != nil {
		return fmt.Errorf("read header of the lifeboat: %w", err)
	}
	at, names := h.Berth.Off+sectionsOff, map[string]bool{}
	for _, s := range h.Sections {
		end := h.Berth.Off + h.Berth.Bytes
		switch {
		case s.Name == "" || names[s.Name]:
			return fmt.Errorf("read header of the lifeboat: section name %q is empty or there twice", s.Name)
		case s.Bytes <= 0 || s.Bytes > h.Berth.Bytes || s.Off%sectionAlign != 0:
			return fmt.Errorf("read header of the lifeboat: section %s has %d bytes at %d, expected some, in whole blocks of %d", s.Name, s.Bytes, s.Off, sectionAlign)
		case s.Off < at || s.Off > end-blocks(s.Bytes):
			return fmt.Errorf("read header of the lifeboat: section %s has the %d bytes at %d, expected them between %d and %d", s.Name, s.Bytes, s.Off, at, end)
		}
		at, names[s.Name] = s.extent().End(), true
	}
	return nil
}

// check tells whether a berth can be one on a disk of that size.
func (b Berth) check(diskBytes int64) error {
	switch {
	case b.Off <= 0 || b.Off%sectionAlign != 0 || b.Bytes%sectionAlign != 0:
		return fmt.Errorf("berth of %d bytes at %d: expected whole blocks of %d, and not the first", b.Bytes, b.Off, sectionAlign)
	case b.Bytes < sectionsOff || b.Off > math.MaxInt64-b.Bytes || b.Off+b.Bytes > diskBytes:
		return fmt.Errorf("berth of %d bytes at %d: expected at least %d within a disk of %d", b.Bytes, b.Off, sectionsOff, diskBytes)
	}
	return nil
}
