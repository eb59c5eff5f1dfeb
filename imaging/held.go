package imaging

import (
	"bytes"
	"fmt"
	"slices"

	"reimager/disk"
	"reimager/image"
)

// Held takes out of an image the sectors that are not written with the rest of it.
// Each lies in one range, so that several ranges may be looked at at a time.
type Held struct {
	sector int64
	pieces []disk.Piece // by offset
}

// NewHeld holds back sector 0 and further sectors, by their offsets in bytes.
func NewHeld(sectorSize int, further []int64) *Held {
	h := &Held{sector: int64(sectorSize), pieces: []disk.Piece{{}}}
	for _, off := range further {
		h.pieces = append(h.pieces, disk.Piece{Off: off})
	}
	slices.SortFunc(h.pieces, func(a, b disk.Piece) int { return int(min(1, max(-1, a.Off-b.Off))) })
	return h
}

// Take keeps what a range has of the sectors held back.
func (h *Held) Take(part image.Range) {
	end := part.Off + int64(len(part.Data))
	for i := range h.pieces {
		p := &h.pieces[i]
		if p.Off < part.Off || p.Off+h.sector > end {
			continue
		}
		p.Data = make([]byte, h.sector)
		if !part.Zero {
			copy(p.Data, part.Data[p.Off-part.Off:])
		}
	}
}

// Taken are the sectors that the image has, by offset.
func (h *Held) Taken() []disk.Piece {
	return slices.DeleteFunc(slices.Clone(h.pieces), func(p disk.Piece) bool { return p.Data == nil })
}

// extents are the sectors held back; without others only sector 0 and those that the
// image has.
func (h *Held) extents(others bool) []image.Extent {
	var all []image.Extent
	for _, p := range h.pieces {
		if others || p.Off == 0 || p.Data != nil {
			all = append(all, image.Extent{Off: p.Off, Bytes: h.sector})
		}
	}
	return all
}

// At returns the piece at an offset; nil if there is none.
func At(pieces []disk.Piece, off int64) []byte {
	for _, p := range pieces {
		if p.Off == off {
			return p.Data
		}
	}
	return nil
}

// CastOff takes from a disk what firmware boots it by: sector 0 becomes the holding
// one, and those of the headers that a GPT has left are cleared. A GPT's backup goes
// first, since without it the disk still boots, and its header last: between the two
// the holding sector speaks where a BIOS asks. It may be called again.
//
// An error may mean that a sector was written or not: what is there decides. If it is
// the new one, all is well. If it is the old one, what came before it is put back, and
// undone says that the disk is as it was, which was not cast off.
func CastOff(dev *disk.Device, holding []byte, headers []int64) (undone bool, err error) {
	return castOff(dev, castOffOrder(holding, headers), func(p disk.Piece) error { return PutSettled(dev, p) })
}

// CastOffBIOS is CastOff for a machine that a BIOS boots: sector 0 goes first. Until it
// is replaced the disk is as it was, and from then on the holding sector speaks.
func CastOffBIOS(dev *disk.Device, holding []byte, headers []int64) (undone bool, err error) {
	order := []disk.Piece{{Off: 0, Data: holding}}
	for _, off := range headers {
		order = append(order, disk.Piece{Off: off, Data: make([]byte, len(holding))})
	}
	return castOff(dev, order, func(p disk.Piece) error { return PutSettled(dev, p) })
}

func castOff(dev *disk.Device, order []disk.Piece, put func(disk.Piece) error) (undone bool, err error) {
	before := true // nothing was cast off when it began
	var was, will []disk.Piece
	for _, p := range order {
		old, err := dev.ReadSectors(p.Off, int64(dev.SectorSize()))
		if err != nil {
			return before, err
		}
		if p.Off == 0 && bytes.Equal(old, p.Data) {
			before = false
		}
		if p.Off > 0 && !disk.IsGPTHeader(old) {
			continue
		}
		was, will = append(was, disk.Piece{Off: p.Off, Data: old}), append(will, p)
	}
	for i, p := range will {
		if err := put(p); err != nil {
			return before && putBack(dev, was[:i+1], put), err
		}
	}
	return false, nil
}

// castOffOrder is the backup header, sector 0, the header.
func castOffOrder(holding []byte, headers []int64) []disk.Piece {
	order := []disk.Piece{{Off: 0, Data: holding}}
	for _, off := range headers {
		p := disk.Piece{Off: off, Data: make([]byte, len(holding))}
		if off == int64(len(holding)) {
			order = append(order, p)
		} else {
			order = append([]disk.Piece{p}, order...)
		}
	}
	return order
}

// putBack undoes a casting off whose last write failed, and tells whether all is as it
// was. Where that write has changed anything, there is no way back.
func putBack(dev *disk.Device, was []disk.Piece, put func(disk.Piece) error) bool {
	failed := was[len(was)-1]
	if is, err := dev.ReadSectors(failed.Off, int64(len(failed.Data))); err != nil || !bytes.Equal(is, failed.Data) {
		return false
	}
	for _, p := range slices.Backward(was[:len(was)-1]) {
		if put(p) != nil {
			return false
		}
	}
	return true
}

// Land writes what was held back, piece after piece.
func Land(dev *disk.Device, pieces []disk.Piece) error {
	for _, p := range pieces {
		if err := Put(dev, p); err != nil {
			return err
		}
	}
	return nil
}

// Put writes whole sectors, flushes them and reads them back.
func Put(dev *disk.Device, p disk.Piece) error {
	if err := dev.WriteSectors(p.Data, p.Off); err != nil {
		return err
	}
	if err := dev.Flush(); err != nil {
		return err
	}
	is, err := dev.ReadSectors(p.Off, int64(len(p.Data)))
	if err == nil && !bytes.Equal(is, p.Data) {
		err = fmt.Errorf("read back %s: sector %d is not what was written", dev.Path(), p.Off/int64(dev.SectorSize()))
	}
	return err
}

// PutSettled is Put for a sector that decides what the machine boots: an error that may
// mean that it was written or not is settled by what is there.
func PutSettled(dev *disk.Device, p disk.Piece) error {
	err := Put(dev, p)
	if err == nil {
		return nil
	}
	is, unread := dev.ReadSectors(p.Off, int64(len(p.Data)))
	if unread == nil && bytes.Equal(is, p.Data) && dev.Flush() == nil {
		return nil
	}
	return err
}
