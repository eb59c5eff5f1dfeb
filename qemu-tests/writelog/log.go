// Package writelog reads what QEMU's blklogwrites driver has recorded of a disk, and
// makes of it every disk that a power cut could have left: all writes up to some point,
// with those since the last flush lost, reordered or torn.
package writelog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// SectorSize is what a disk writes as a whole or not at all.
const SectorSize = 512

// The format is that of Linux' drivers/md/dm-log-writes.c, as block/blklogwrites.c in
// QEMU writes it: little-endian numbers; a super block in the first log sector; then, for
// each entry, a log sector that begins with its header, and its data, if it has any.
const (
	superMagic   = 0x6a736677736872
	superVersion = 1
	headerSize   = 32
)

// Flag says what an entry is; one without flags is a plain write.
type Flag uint64

// The flags of an entry.
const (
	Flush   Flag = 1 << iota // the disk's cache was emptied
	FUA                      // a write past the cache
	Discard                  // the content does not matter any more
	Mark                     // a note, for which QEMU has no use
	allFlags
)

// Entry is a request that the disk has answered.
type Entry struct {
	Off, Bytes int64 // on the disk
	Flags      Flag
	data       int64 // where in the log its bytes begin
}

// Writes tells whether the entry has bytes for the disk.
func (e Entry) Writes() bool { return e.Flags&(Discard|Mark) == 0 && e.Bytes > 0 }

// Overlaps tells whether the entry changes some of n bytes from off on.
func (e Entry) Overlaps(off, n int64) bool {
	return e.Flags&Mark == 0 && e.Off < off+n && off < e.Off+e.Bytes
}

// Log is an open log.
type Log struct {
	f       *os.File
	entries []Entry
}

// Open reads the headers of a log. The log of a QEMU that was killed ends where the
// bytes end: the number of entries in its super block is that of the last flush.
func Open(path string) (_ *Log, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	l := &Log{f: f}
	if err := l.read(); err != nil {
		return nil, errors.Join(fmt.Errorf("read write log %s: %w", path, err), f.Close())
	}
	return l, nil
}

// Close closes the log's file.
func (l *Log) Close() error { return l.f.Close() }

// Entries returns all entries in the order in which the disk answered them.
func (l *Log) Entries() []Entry { return l.entries }

// Data reads the bytes of an entry that writes.
func (l *Log) Data(e Entry) io.Reader { return io.NewSectionReader(l.f, e.data, e.Bytes) }

func (l *Log) read() error {
	info, err := l.f.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return nil // nothing was written
	}
	var super [28]byte
	if _, err := l.f.ReadAt(super[:], 0); err != nil {
		return fmt.Errorf("super block: %w", err)
	}
	number := binary.LittleEndian.Uint64
	sector := int64(binary.LittleEndian.Uint32(super[24:]))
	switch {
	case number(super[:]) == 0:
		sector = SectorSize // killed before the first flush; QEMU's default
	case number(super[:]) != superMagic || number(super[8:]) != superVersion:
		return fmt.Errorf("super block: magic %#x, version %d; expected %#x, %d", number(super[:]), number(super[8:]), superMagic, superVersion)
	case sector < SectorSize || sector > 1<<20 || sector&(sector-1) != 0:
		return fmt.Errorf("super block: sectors of %d bytes", sector)
	}
	sure, at := number(super[16:]), sector
	for {
		e, next, err := l.header(at, sector, info.Size())
		if err != nil && uint64(len(l.entries)) >= sure {
			return nil // cut off while it was written
		}
		if err != nil {
			return fmt.Errorf("entry %d of %d at byte %d: %w", len(l.entries), sure, at, err)
		}
		l.entries = append(l.entries, e)
		at = next
	}
}

func (l *Log) header(at, sector, end int64) (e Entry, next int64, err error) {
	var h [headerSize]byte
	if _, err := l.f.ReadAt(h[:], at); err != nil {
		return e, 0, err
	}
	off, count, flags := binary.LittleEndian.Uint64(h[0:]), binary.LittleEndian.Uint64(h[8:]), Flag(binary.LittleEndian.Uint64(h[16:]))
	// data_len of h[24:] is 0 in each of QEMU's entries.
	const most = 1 << 40
	if flags >= allFlags || off > most || count > most || count == 0 && flags == 0 {
		return e, 0, fmt.Errorf("sector %d, %d sectors, flags %#x", off, count, uint64(flags))
	}
	e = Entry{Off: int64(off) * sector, Bytes: int64(count) * sector, Flags: flags, data: at + sector}
	next = e.data
	if flags&Discard == 0 {
		next += e.Bytes
	}
	if next > end {
		return e, 0, io.ErrUnexpectedEOF
	}
	return e, next, nil
}
