package lifeboat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"reimager/boot"
	"reimager/disk"
	"reimager/image"
	"reimager/imaging"
	"reimager/report"
)

// Loader fills a berth. It writes nothing outside of it. Until Finish is through there
// is no lifeboat in it: the header comes when all else is there, the journal after it.
type Loader struct {
	dev    *disk.Device
	header Header
	key    []byte
	next   int64 // where the next section begins
	open   bool  // a section is being written
	err    error // of the first section that failed
	// from is what sections were made of that are compared with it when they are read back.
	from map[string]io.ReaderAt
}

// NewLoader takes a berth. An older lifeboat in it is gone with that.
func NewLoader(dev *disk.Device, b Berth, runID string) (*Loader, error) {
	if dev.SectorSize() != boot.SectorBytes {
		return nil, fmt.Errorf("load lifeboat: %s has sectors of %d bytes, expected %d", dev.Path(), dev.SectorSize(), boot.SectorBytes)
	}
	if err := errors.Join(b.check(dev.Bytes()), boot.CheckRunID(runID)); err != nil {
		return nil, fmt.Errorf("load lifeboat: %w", err)
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	if err := clearHead(dev, b); err != nil {
		return nil, err
	}
	return &Loader{
		dev: dev, header: Header{Format: headerFormat, RunID: runID, Berth: b}, key: key,
		next: b.Off + sectionsOff, from: map[string]io.ReaderAt{},
	}, nil
}

// Abandon leaves neither a lifeboat nor its key in the berth.
func (l *Loader) Abandon() error { return clearBoat(l.dev, &l.header) }

// Next is where the next section will lie, if it has so many bytes.
func (l *Loader) Next(bytes int64) image.Extent { return Section{Off: l.next, Bytes: bytes}.extent() }

// Clear does so for a berth of which nobody knows what is in it, such as that of a loader
// which died. state is where the section Saved was going to lie; empty, if that had not
// begun: the header, which tells, is written last.
func Clear(dev *disk.Device, b Berth, state image.Extent) error {
	h := Header{Berth: b}
	if state.Bytes > 0 && state.Off >= b.Off && state.End() <= b.Off+b.Bytes {
		h.Sections = []Section{{Name: Saved, Off: state.Off, Bytes: state.Bytes}}
	} else if block, err := dev.ReadSectors(b.Off+headerOff, blockBytes); err == nil {
		if found, err := ParseHeader(block, b.Off, dev.Bytes()); err == nil {
			h = found
		}
	}
	return clearBoat(dev, &h)
}

// clearBoat overwrites what makes a lifeboat, and what was gathered.
func clearBoat(dev *disk.Device, h *Header) error {
	err := clearHead(dev, h.Berth)
	if s, ok := h.Section(Saved); ok {
		e := s.extent()
		err = errors.Join(err, dev.WriteZeros(e.Off, e.Bytes), dev.Flush())
	}
	return err
}

// clearHead overwrites the fixed part, the key first. A block that cannot be written
// keeps no other one from it.
func clearHead(dev *disk.Device, b Berth) error {
	var all []error
	for _, off := range []int64{keyOff, headerOff, journalOff, journalOff + blockBytes, bootOff} {
		all = append(all, dev.WriteZeros(b.Off+off, blockBytes))
	}
	return errors.Join(append(all, dev.Flush())...)
}

// Create begins the next section, of exactly that many bytes. It is there when it was
// closed without an error; until then no other one can be created.
func (l *Loader) Create(name string, n int64) (io.WriteCloser, error) {
	return l.create(Section{Name: name, Bytes: n}, false)
}

// Copy creates a section of bytes whose SHA-256 was proven, from where they can still be
// read when Finish reads them back: it compares them with these, which costs a fraction of
// a digest. Whoever goes aboard later computes that.
func (l *Loader) Copy(name string, from io.ReaderAt, n int64, digest image.Digest) error {
	w, err := l.CreateKnown(name, n, digest)
	if err != nil {
		return err
	}
	l.from[name] = from
	return CopyInto(w, io.NewSectionReader(from, 0, n))
}

// CopyInto fills a section, and closes it. An error is told once.
func CopyInto(w io.WriteCloser, from io.Reader) error {
	_, err := io.Copy(w, from)
	if closed := w.Close(); err == nil {
		err = closed
	}
	return err
}

// CreateKnown is Create for bytes of which the SHA-256 is known. It is computed once
// only, when they are read back: Finish fails if they were others.
func (l *Loader) CreateKnown(name string, n int64, digest image.Digest) (io.WriteCloser, error) {
	if secret(name) {
		return nil, fmt.Errorf("create section %s of the lifeboat: nobody can know what it will be encrypted", name)
	}
	return l.create(Section{Name: name, Bytes: n, SHA256: digest}, true)
}

func (l *Loader) create(s Section, known bool) (io.WriteCloser, error) {
	name := s.Name
	_, exists := l.header.Section(name)
	end := l.header.Berth.Off + l.header.Berth.Bytes
	switch {
	case l.open || l.err != nil:
		return nil, errors.Join(fmt.Errorf("create section %s of the lifeboat: the one before is not complete", name), l.err)
	case name == "" || exists:
		return nil, fmt.Errorf("create section %q of the lifeboat: it is empty, or there already", name)
	case s.Bytes <= 0 || s.Bytes > end-l.next || blocks(s.Bytes) > end-l.next:
		return nil, report.Hint(fmt.Errorf("create section %s of the lifeboat: %d bytes, of which %d are left in %s", name, s.Bytes, end-l.next, l.header.Berth.Where),
			"a larger berth is needed")
	}
	s.Off = l.next
	w, err := l.newSection(s, known)
	l.open = err == nil
	return w, err
}

func (l *Loader) closed(s Section, err error) {
	l.open = false
	if err != nil {
		l.err = err
		return
	}
	l.header.Sections = append(l.header.Sections, s)
	l.next = s.extent().End()
}

// write writes whole blocks within the berth.
func (l *Loader) write(data []byte, off int64) error {
	b := l.header.Berth
	if off < b.Off || off+int64(len(data)) > b.Off+b.Bytes {
		return fmt.Errorf("write lifeboat: %d bytes at %d are not in %s", len(data), off, b.Where)
	}
	return l.dev.WriteAt(data, off)
}

// Reader reads a section back, decrypted.
func (l *Loader) Reader(name string) (io.ReadCloser, error) {
	s, ok := l.header.Section(name)
	if !ok {
		return nil, fmt.Errorf("read section %s of the lifeboat: it has none", name)
	}
	return readSection(l.dev, s, l.key)
}

// Finish makes a lifeboat of what was created: script, core and boot sector for these
// very blocks, then, when all was flushed and read back past every cache, header and
// journal. progress is told how many bytes were read back; it may be nil.
func (l *Loader) Finish(ctx context.Context, grub *boot.LifeboatCore, cmdline []string, progress func(bytes int64)) (*Boat, error) {
	bootSector, err := l.bootable(grub, cmdline)
	if err != nil {
		return nil, err
	}
	if err := l.dev.Flush(); err != nil {
		return nil, err
	}
	if err := readBack(ctx, l.dev, l.header.Sections, l.from, progress); err != nil {
		return nil, err
	}
	b := &Boat{header: l.header, bootSector: bootSector, slot: 1}
	if err := l.head(bootSector); err != nil {
		return nil, err
	}
	// Both slots say the same, so that none holds anything else.
	for range 2 {
		if err := b.note(l.dev, record{State: Boarded}); err != nil {
			return nil, err
		}
	}
	b.opened = b.now.State
	return b, nil
}

// bootable adds what boots kernel and initrd, and returns the boot sector.
func (l *Loader) bootable(grub *boot.LifeboatCore, cmdline []string) ([]byte, error) {
	if l.open || l.err != nil {
		return nil, errors.Join(errors.New("finish lifeboat: a section is not complete"), l.err)
	}
	var at [4]boot.Blocks
	for i, name := range []string{Kernel, Kernel2, Initrd, Initrd2} {
		s, ok := l.header.Section(name)
		if !ok {
			return nil, fmt.Errorf("finish lifeboat: it has no %s", name)
		}
		at[i] = blocksOf(s.Off, s.Bytes)
	}
	text, err := boot.LifeboatScript([2]boot.Blocks(at[:2]), [2]boot.Blocks(at[2:]), cmdline)
	if err != nil {
		return nil, err
	}
	scriptAt := blocksOf(l.next, int64(len(text)))
	if err := l.add(script, []byte(text)); err != nil {
		return nil, err
	}
	code, bootSector, err := grub.Make(scriptAt, l.next/boot.SectorBytes)
	if err != nil {
		return nil, err
	}
	return bootSector, l.add(core, code)
}

func blocksOf(off, bytes int64) boot.Blocks {
	return boot.Blocks{Sector: off / boot.SectorBytes, Count: (bytes + boot.SectorBytes - 1) / boot.SectorBytes}
}

// add creates a whole section.
func (l *Loader) add(name string, data []byte) error {
	w, err := l.Create(name, int64(len(data)))
	if err != nil {
		return err
	}
	return CopyInto(w, bytes.NewReader(data))
}

// head writes boot sector, key slot and header, each flushed and read back.
func (l *Loader) head(bootSector []byte) error {
	key, err := seal(keyMagic, keySlot{RunID: l.header.RunID, Key: l.key})
	if err != nil {
		return err
	}
	header, err := seal(headerMagic, l.header)
	if err != nil {
		return err
	}
	first := make([]byte, blockBytes)
	copy(first, bootSector)
	off := l.header.Berth.Off
	for _, p := range []disk.Piece{{Off: off + bootOff, Data: first}, {Off: off + keyOff, Data: key}, {Off: off + headerOff, Data: header}} {
		if err := imaging.Put(l.dev, p); err != nil {
			return fmt.Errorf("write lifeboat: %w", err)
		}
	}
	return nil
}
