package lifeboat

import (
	"context"
	"errors"
	"fmt"
	"io"

	"reimager/boot"
	"reimager/disk"
	"reimager/image"
)

// Boat is a lifeboat in its berth. It holds no disk: one that has mounted partitions
// cannot be held open for writing.
type Boat struct {
	header     Header
	bootSector []byte
	now        record
	slot       int   // of the journal, in which that is
	opened     State // the state in which it was found
}

// Open finds the lifeboat of a run in a berth that begins at an offset. ErrNoBoat says
// that there is none, or that of another run; any other error that it is damaged, or
// was never completed.
func Open(dev *disk.Device, off int64, runID string) (*Boat, error) {
	if off < 0 || off > dev.Bytes()-headBytes {
		return nil, fmt.Errorf("%w: %s has no byte %d", ErrNoBoat, dev.Path(), off+headBytes)
	}
	block, err := dev.ReadSectors(off+headerOff, blockBytes)
	if err != nil {
		return nil, err
	}
	header, err := ParseHeader(block, off, dev.Bytes())
	if err != nil {
		return nil, err
	}
	if header.RunID != runID {
		return nil, fmt.Errorf("%w: it is of run %q, expected %q", ErrNoBoat, header.RunID, runID)
	}
	b := &Boat{header: header}
	if b.now, b.slot, err = readJournal(dev, header.Berth, runID); err != nil {
		return nil, err
	}
	b.opened = b.now.State
	b.bootSector, err = dev.ReadSectors(off+bootOff, boot.SectorBytes)
	return b, err
}

// Header says what lies in the berth.
func (b *Boat) Header() Header { return b.header }

// Reader reads a section past the page cache, decrypted where it is secret.
func (b *Boat) Reader(dev *disk.Device, name string) (io.ReadCloser, error) {
	s, ok := b.header.Section(name)
	if !ok {
		return nil, fmt.Errorf("read section %s of the lifeboat: it has none", name)
	}
	var key []byte
	if secret(name) {
		var err error
		if key, err = readKey(dev, b.header.Berth, b.header.RunID); err != nil {
			return nil, fmt.Errorf("read section %s of the lifeboat: %w", name, err)
		}
	}
	return readSection(dev, s, key)
}

// Verify reads sections past the page cache and compares their digests; without names
// all of them. progress is told how many bytes were read; it may be nil.
func (b *Boat) Verify(ctx context.Context, dev *disk.Device, progress func(bytes int64), names ...string) error {
	if len(names) == 0 {
		return readBack(ctx, dev, b.header.Sections, nil, progress)
	}
	for _, name := range names {
		s, ok := b.header.Section(name)
		if !ok {
			return fmt.Errorf("verify section %s of the lifeboat: it has none", name)
		}
		if err := readBack(ctx, dev, []Section{s}, nil, progress); err != nil {
			return err
		}
	}
	return nil
}

// Holding is the first sector that the disk has while it is being rewritten: it boots
// the lifeboat, and has disk signature and partition table of the new one.
func (b *Boat) Holding(newSector0 []byte) ([]byte, error) {
	return boot.LifeboatSector(b.bootSector, newSector0)
}

// Keep is what nobody else may write.
func (b *Boat) Keep() []image.Extent {
	all := []image.Extent{{Off: b.header.Berth.Off, Bytes: headBytes}}
	for _, s := range b.header.Sections {
		all = append(all, s.extent())
	}
	return image.Union(all, 0)
}

// EraseKey makes the archive unreadable for good.
func (b *Boat) EraseKey(dev *disk.Device) error {
	return erase(dev, image.Extent{Off: b.header.Berth.Off + keyOff, Bytes: blockBytes})
}

// EraseArchive overwrites the archive.
func (b *Boat) EraseArchive(dev *disk.Device) error {
	s, ok := b.header.Section(Archive)
	if !ok {
		return nil
	}
	return erase(dev, s.extent())
}

// erase writes zeros, since a disk may take its time with what it was only told to
// forget, flushes and reads them back.
func erase(dev *disk.Device, e image.Extent) (err error) {
	if err := dev.WriteZeros(e.Off, e.Bytes); err != nil {
		return err
	}
	if err := dev.Flush(); err != nil {
		return err
	}
	r := dev.Reader(e.Off, e.Bytes)
	defer func() { err = errors.Join(err, r.Close()) }()
	buf := make([]byte, min(e.Bytes, 1<<20))
	for {
		n, err := r.Read(buf)
		if !image.AllZero(buf[:n]) {
			return fmt.Errorf("erase %d bytes at %d of %s: something else than zeros is read back", e.Bytes, e.Off, dev.Path())
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Sink makes that no lifeboat is found any more, nor its key, nor what was gathered: when
// the disk has landed, or will not cast off.
func (b *Boat) Sink(dev *disk.Device) error { return clearBoat(dev, &b.header) }
