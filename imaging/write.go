// Package imaging is the engine: it brings a decoded image onto a disk, range by
// range, and reads it back. It is the same for a run of the initrd and for
// `reimager write`.
//
// What is written was verified just before, in the very memory that it is written
// from. Sector 0 is never written here, nor what else is held back: it decides whether
// a disk boots, so that it is the caller's to write last.
package imaging

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"reimager/disk"
	"reimager/image"
	"reimager/report"
)

// Buffers is how many ranges of image.RangeBytes are in memory at a time: enough to
// decode, digest and write at once on two cores with several requests in flight.
const Buffers = 6

// Unmapped says what happens to the disk outside the block map.
type Unmapped string

// What may happen to it.
const (
	Leave   Unmapped = "leave"
	Discard Unmapped = "discard" // the disk is told that it isn't needed; what is read then is undefined
	Zero    Unmapped = "zero"    // no trace of what was there
)

// Job is an image on its way to a disk.
type Job struct {
	Device *disk.Device
	// Source is the image; nil where Only wants none of it.
	Source image.Source
	// Map says what the image has to be. Without one all of it is written, and the
	// map is made on the way.
	Map      *image.Map
	Unmapped Unmapped
	// Keep is never touched, whether it is mapped or not mapped. A map that claims
	// some of it is refused.
	Keep []image.Extent
	// Held are the offsets of sectors that are the caller's to write, as sector 0
	// always is.
	Held []int64
	// Only tells which ranges of the map are written; nil: all. Held of the Result lacks
	// what the others have.
	Only func(index int) bool
	// Buffers bounds the ranges that are in memory at a time, at least 2; 0: Buffers.
	Buffers int
	// NoDigests spares the digests of an image without a map, for a caller who will
	// not read back. The map of the Result has no ranges then.
	NoDigests bool
	// Progress is told how many bytes of the image were dealt with since the last
	// time, from several goroutines; 0 while what the image leaves out is zeroed or
	// discarded, which can take as long. It may be nil.
	Progress func(bytes int64)
	// Written is called after each range that was written; it may be nil.
	Written func()
	// Warn takes what stops nothing: a disk that refuses to discard.
	Warn func(error)
}

// Result is what was written.
type Result struct {
	Map *image.Map
	// Held is what the image has in the sectors held back, by offset, not written yet;
	// what its map leaves out is missing.
	Held []disk.Piece
	// Bytes is how much of the disk was written or zeroed.
	Bytes int64
}

// Write writes an image but for what is held back, treats the rest of the disk as it is
// told, and flushes. After an error the disk holds some of the image.
func Write(ctx context.Context, job Job) (*Result, error) {
	if err := job.Check(); err != nil {
		return nil, err
	}
	bare := job.Map == nil
	w := &writer{Job: job, recorder: &image.Recorder{}, sector: int64(job.Device.SectorSize()),
		held: NewHeld(job.Device.SectorSize(), job.Held)}
	n, err := w.ranges(ctx)
	if err != nil {
		return nil, err
	}
	if w.Map == nil {
		if n == 0 || n%w.sector != 0 {
			return nil, report.Hint(fmt.Errorf("write %s: the image has %d bytes, not a whole number of sectors of %d", job.Device.Path(), n, w.sector),
				"it was cut short, or made for another disk")
		}
		w.Map = w.recorder.Map(n)
	}
	if err := w.unmapped(n, bare); err != nil {
		return nil, err
	}
	if err := job.Device.Flush(); err != nil {
		return nil, err
	}
	return &Result{Map: w.Map, Held: w.held.Taken(), Bytes: w.bytes.Load()}, nil
}

// Check refuses what cannot be written, before anything is.
func (job Job) Check() error {
	sector0 := image.Extent{Off: 0, Bytes: int64(job.Device.SectorSize())}
	for _, e := range NewHeld(job.Device.SectorSize(), job.Held).extents(true) {
		if k, is := overlap(e, job.Keep); is {
			return errKept(job.Device, e, k)
		}
	}
	if job.Map == nil {
		return nil
	}
	if err := job.Map.CheckSectors(sector0.Bytes); err != nil {
		return fmt.Errorf("write %s: %w", job.Device.Path(), err)
	}
	dev, sector := job.Device, int64(job.Device.SectorSize())
	if job.Map.Bytes > dev.Bytes() {
		return tooSmall(dev, job.Map.Bytes)
	}
	if job.Map.Bytes%sector != 0 {
		return fmt.Errorf("write %s: the image has %d bytes, not a whole number of sectors of %d", dev.Path(), job.Map.Bytes, sector)
	}
	for _, r := range job.Map.Ranges {
		if k, is := overlap(r.Extent, job.Keep); is {
			return errKept(dev, r.Extent, k)
		}
	}
	return nil
}

func tooSmall(dev *disk.Device, need int64) error {
	return report.Hint(fmt.Errorf("write %s: it has %d bytes, the image %d", dev.Path(), dev.Bytes(), need), "use a smaller image, or a larger disk")
}

func errKept(dev *disk.Device, e, kept image.Extent) error {
	return fmt.Errorf("write %s: the image has data in the %d bytes at %d, of which the %d bytes at %d must not be touched", dev.Path(), e.Bytes, e.Off, kept.Bytes, kept.Off)
}

func overlap(e image.Extent, keep []image.Extent) (image.Extent, bool) {
	for _, k := range keep {
		if e.Off < k.End() && k.Off < e.End() {
			return k, true
		}
	}
	return image.Extent{}, false
}

// writer is a job under way; its methods run in several goroutines.
type writer struct {
	Job
	recorder *image.Recorder
	sector   int64
	held     *Held
	bytes    atomic.Int64
}

// ranges writes the image and returns how many bytes it has.
func (w *writer) ranges(ctx context.Context) (int64, error) {
	if w.Source == nil && w.Only != nil {
		return w.Map.Bytes, nil
	}
	buffers := w.Buffers
	if buffers == 0 {
		buffers = Buffers
	}
	pool, err := image.NewPool(buffers, disk.Buffer)
	if err != nil {
		return 0, err
	}
	n, err := image.Each(ctx, w.Source, w.Map, pool, nil, w.write)
	return n, errors.Join(err, pool.Release(disk.FreeBuffer))
}

func (w *writer) write(part image.Range) error {
	if w.Only != nil && !w.Only(part.Index) {
		w.dealtWith(part)
		return nil
	}
	if w.Map != nil {
		if err := w.Map.Check(part); err != nil {
			return err
		}
	} else {
		if end := part.Off + int64(len(part.Data)); end > w.Device.Bytes() {
			return tooSmall(w.Device, end)
		}
		e := image.Extent{Off: part.Off, Bytes: int64(len(part.Data))}
		if k, is := overlap(e, w.Keep); is {
			return errKept(w.Device, e, k)
		}
		if len(part.Data)%int(w.sector) != 0 {
			return nil // only the last can be; Write says so
		}
		if !w.NoDigests {
			w.recorder.Note(part)
		}
	}
	if err := w.put(part); err != nil {
		return err
	}
	w.bytes.Add(int64(len(part.Data)))
	w.dealtWith(part)
	if w.Written != nil {
		w.Written()
	}
	return nil
}

func (w *writer) dealtWith(part image.Range) {
	if w.Progress != nil {
		w.Progress(int64(len(part.Data)))
	}
}

// put writes a range, all but what is held back.
func (w *writer) put(part image.Range) error {
	w.held.Take(part)
	end := part.Off + int64(len(part.Data))
	for _, e := range image.Complement(append(w.held.extents(true), image.Extent{Off: 0, Bytes: part.Off}), end) {
		data := part.Data[e.Off-part.Off : e.End()-part.Off]
		write := w.Device.WriteAt
		if part.Zero {
			write = func(data []byte, off int64) error { return w.Device.Zero(off, int64(len(data))) }
		}
		if err := write(data, e.Off); err != nil {
			return err
		}
	}
	return nil
}

// unmapped treats what lies outside the map of an image of that many bytes.
func (w *writer) unmapped(imageBytes int64, bare bool) error {
	if w.Unmapped != Zero && w.Unmapped != Discard {
		return nil
	}
	// A header of which no trace may be left is cleared here: the image has none there.
	keep := append(w.held.extents(w.Unmapped != Zero), w.Keep...)
	free := w.Map.Unmapped(w.Device.Bytes(), keep)
	if bare { // its map may have been spared
		free = image.Complement(append(keep, image.Extent{Off: 0, Bytes: imageBytes}), w.Device.Bytes())
	}
	for _, e := range pieces(image.Inward(free, w.sector)) {
		if w.Progress != nil {
			w.Progress(0)
		}
		if w.Unmapped == Zero {
			if err := w.Device.Zero(e.Off, e.Bytes); err != nil {
				return err
			}
			w.bytes.Add(e.Bytes)
			continue
		}
		if err := w.Device.Discard(e.Off, e.Bytes); err != nil && w.Warn != nil {
			w.Warn(err) // it was advice, which some disks take badly
			return nil
		}
	}
	return nil
}

// pieceBytes is what is zeroed or discarded between two signs of life. The kernel counts
// neither among what a process writes.
const pieceBytes = 64 << 20

func pieces(all []image.Extent) []image.Extent {
	var parts []image.Extent
	for _, e := range all {
		for e.Bytes > pieceBytes {
			parts = append(parts, image.Extent{Off: e.Off, Bytes: pieceBytes})
			e.Off, e.Bytes = e.Off+pieceBytes, e.Bytes-pieceBytes
		}
		parts = append(parts, e)
	}
	return parts
}
