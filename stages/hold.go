package stages

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"reimager/boot"
	"reimager/disk"
	"reimager/imaging"
)

// bootable is what firmware boots the new system's disk by, and what is there instead
// until the machine lands. A BIOS starts sector 0. UEFI ignores its code, and looks for
// an EFI system partition in a GPT, whose header is in sector 1 with a backup in the last
// one, or in the MBR of sector 0: UEFI 2.10, 5.2 and 5.3. So a GPT is held back whatever
// the firmware, and an MBR where it is UEFI.
type bootable struct {
	UEFI bool `json:"uefi"` // this machine was booted by it
	// TableHeld says that there is no partition table on the disk until it lands.
	TableHeld bool         `json:"table_held"`
	Holding   []byte       `json:"holding"` // sector 0 until then
	Image     []disk.Piece `json:"image"`   // what the image has in the sectors held back
	Land      []disk.Piece `json:"land"`    // what they become, in the order of writing
}

// efiDir is there when UEFI has started the kernel: Documentation/ABI/testing/sysfs-firmware-efi.
const efiDir = "/sys/firmware/efi"

func (r *Run) bootedByUEFI() (bool, error) {
	if r.Job != nil && r.Job.Machine.Firmware == "uefi" {
		return true, nil // kexec may have brought the kernel without a word of it
	}
	_, err := os.Stat(efiDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("find out what firmware has started this machine: %w", err)
	}
	return err == nil, nil
}

// holdBack decides what is held back of an image, of which taken are the sectors that
// may be.
func (r *Run) holdBack(g *Gathered, image io.ReaderAt, taken []disk.Piece) (bootable, error) {
	uefi, err := r.bootedByUEFI()
	if err != nil {
		return bootable{}, err
	}
	b, err := newBootable(uefi, g.Table.Kind, &g.Disk, image, taken)
	if err == nil && len(b.Land) > 3 { // with a copy of the entries
		r.Report.Printf("table    the backup of the GPT will be at the end of the disk")
	}
	return b, err
}

func newBootable(uefi bool, table string, d *disk.Disk, image io.ReaderAt, taken []disk.Piece) (bootable, error) {
	sector0 := imaging.At(taken, 0)
	holding, err := boot.HoldingSector(sector0)
	if err != nil {
		return bootable{}, err
	}
	b := bootable{UEFI: uefi, TableHeld: uefi || table == "gpt", Holding: holding, Image: []disk.Piece{{Off: 0, Data: sector0}}, Land: []disk.Piece{{Off: 0, Data: sector0}}}
	if uefi {
		boot.ClearTable(b.Holding)
	}
	if table != "gpt" {
		if uefi { // what an image has left of a GPT must not show before it is whole
			b.Image, b.Land = taken, slices.Clone(taken)
			slices.Reverse(b.Land)
		}
		return b, nil
	}
	headers := disk.GPTHeaders(d.Bytes, d.SectorSize)
	land, err := disk.LandGPT(image, imaging.At(taken, headers[0]), d.Bytes, d.SectorSize)
	b.Image, b.Land = taken, append(land, b.Land...)
	return b, err
}

// headers are the sectors besides the first that are held back, and cleared where a GPT
// has left its header there.
func (b *bootable) headers(d *disk.Disk) []int64 {
	if !b.TableHeld {
		return nil
	}
	return disk.GPTHeaders(d.Bytes, d.SectorSize)
}

// heldTable is a partition table that the kernel knows and the disk does not have yet.
type heldTable struct {
	disk  string // its name
	table *disk.Table
}

// table reads the partition table of a disk, or the one that is held back from it.
func (r *Run) table(d *disk.Disk) (*disk.Table, error) {
	if r.heldTable != nil && r.heldTable.disk == d.Name {
		return r.heldTable.table, nil
	}
	return readTable(d)
}
