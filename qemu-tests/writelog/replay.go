package writelog

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Loss is what becomes of the writes that no flush has followed.
type Loss string

// The losses. A disk may do any of these with what is in its cache.
const (
	Nothing   Loss = "nothing lost"
	Unflushed Loss = "what was not flushed is lost"
	Reordered Loss = "of what was not flushed some is lost" // whatever came after it
	Torn      Loss = "of what was not flushed some sectors are lost"
)

// Cut is a moment at which the power went.
type Cut struct {
	At   int // so many entries had been answered
	Loss Loss
	Seed uint64 // of Reordered and Torn
}

func (c Cut) String() string {
	return fmt.Sprintf("after write %d, %s (seed %d)", c.At, c.Loss, c.Seed)
}

// Replay repeats a log on a copy of the disk that it was begun with.
type Replay struct {
	log  *Log
	disk *os.File
	done int // so many entries are on the disk
}

// NewReplay repeats a log on the file disk.
func NewReplay(log *Log, disk string) (*Replay, error) {
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &Replay{log: log, disk: f}, nil
}

// Close closes the disk.
func (r *Replay) Close() error { return r.disk.Close() }

// Path is the disk's.
func (r *Replay) Path() string { return r.disk.Name() }

// To goes on until n entries are on the disk.
func (r *Replay) To(n int) error {
	if n < r.done || n > len(r.log.entries) {
		return fmt.Errorf("replay to entry %d: %d of %d are on the disk", n, r.done, len(r.log.entries))
	}
	for ; r.done < n; r.done++ {
		if err := r.log.apply(r.disk, r.log.entries[r.done]); err != nil {
			return fmt.Errorf("replay entry %d: %w", r.done, err)
		}
	}
	return nil
}

// Cut lets copyDisk make the file disk of this one, and does to it what a power cut does.
// Cuts have to come in the order of SortCuts.
func (r *Replay) Cut(c Cut, disk string, copyDisk func(dst, src string) error) (err error) {
	safe := r.log.flushed(c.At)
	if c.Loss == Nothing {
		safe = c.At
	}
	if err := r.To(safe); err != nil {
		return err
	}
	if err := copyDisk(disk, r.Path()); err != nil {
		return err
	}
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	random := rand.New(rand.NewPCG(c.Seed, uint64(c.At)))
	for i, e := range r.log.entries[safe:c.At] {
		if err := r.log.survive(f, e, c.Loss, random); err != nil {
			return fmt.Errorf("cut at entry %d: %w", safe+i, err)
		}
	}
	return nil
}

// SortCuts sorts cuts so that one Replay makes the disks of all.
func (l *Log) SortCuts(cuts []Cut) {
	safe := func(c Cut) int {
		if c.Loss == Nothing {
			return c.At
		}
		return l.flushed(c.At)
	}
	slices.SortStableFunc(cuts, func(a, b Cut) int { return cmp.Compare(safe(a), safe(b)) })
}

// flushed returns how many of the first n entries no power cut takes back. An entry is
// logged when it was answered: what was answered while a flush was under way counts as
// flushed here, though a disk need not have it.
func (l *Log) flushed(n int) int {
	for n > 0 && l.entries[n-1].Flags&Flush == 0 {
		n--
	}
	return n
}

// Unflushed returns how many entries before n only a disk's cache may have.
func (l *Log) Unflushed(n int) int { return n - l.flushed(n) }

// survive does to the disk what is left of an entry in the cache. Of two writes to one
// place the older one alone may have reached the disk, never the older one after the newer.
func (l *Log) survive(disk *os.File, e Entry, loss Loss, random *rand.Rand) error {
	if e.Flags&FUA != 0 {
		return l.apply(disk, e)
	}
	switch loss {
	case Unflushed:
		return nil
	case Torn:
		if e.Writes() {
			return l.tear(disk, e, random)
		}
	}
	if random.IntN(2) == 0 {
		return nil
	}
	return l.apply(disk, e)
}

// tear writes some of an entry's sectors.
func (l *Log) tear(disk *os.File, e Entry, random *rand.Rand) error {
	sector := make([]byte, SectorSize)
	for off := int64(0); off < e.Bytes; off += SectorSize {
		if random.IntN(2) == 0 {
			continue
		}
		if _, err := l.f.ReadAt(sector, e.data+off); err != nil {
			return err
		}
		if _, err := disk.WriteAt(sector, e.Off+off); err != nil {
			return err
		}
	}
	return nil
}

// apply does an entry. What is discarded reads as zeros, as QEMU's disks have it.
func (l *Log) apply(disk *os.File, e Entry) error {
	switch {
	case e.Writes():
		_, err := io.Copy(io.NewOffsetWriter(disk, e.Off), l.Data(e))
		return err
	case e.Flags&Discard != 0:
		return unix.Fallocate(int(disk.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, e.Off, e.Bytes)
	}
	return nil
}
