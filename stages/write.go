package stages

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"reimager/boot"
	"reimager/disk"
	"reimager/fault"
	"reimager/image"
)

// Written is a disk that holds the whole image but its first sector, read back
// and compared, with its partitions known to the kernel.
type Written struct{ *Gathered }

// Write casts off and writes the image: from its first byte on the old system is
// gone. Sector 0 gets holding code and the new partition table; it becomes the
// image's own when the machine lands.
func (r *Run) Write(ctx context.Context, g *Gathered) (_ *Written, err error) {
	r.Record.Attempts++
	dev, err := disk.Open(g.Disk.Path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	if dev.Bytes() != g.Disk.Bytes || dev.SectorSize() != g.Disk.SectorSize {
		return nil, fmt.Errorf("open %s: %d bytes in sectors of %d, expected %d in %d", dev.Path(), dev.Bytes(), dev.SectorSize(), g.Disk.Bytes, g.Disk.SectorSize)
	}
	done := r.stage("write")
	if err := r.castOff(g, dev); err != nil {
		return nil, err
	}
	written, err := r.writeRanges(ctx, g, dev)
	if err != nil {
		return nil, err
	}
	if err := r.tail(g, dev); err != nil {
		return nil, err
	}
	if err := dev.Flush(); err != nil {
		return nil, err
	}
	done(written)

	done = r.stage("read back")
	if err := r.readBack(ctx, g, dev); err != nil {
		return nil, err
	}
	done(g.Map.Bytes)
	if g.Table.Kind == "gpt" {
		moved, err := disk.MoveBackupGPT(dev)
		if err != nil {
			return nil, err
		}
		if moved {
			r.Report.Printf("table    the GPT's backup is at the end of the disk now")
		}
	}
	if err := r.partitions(ctx, g, dev); err != nil {
		return nil, err
	}
	return &Written{g}, nil
}

var errNotCastOff = errors.New("the disk refused the first write; nothing was changed")

// castOff is the point of no return.
func (r *Run) castOff(g *Gathered, dev *disk.Device) error {
	holding, err := boot.HoldingSector(g.Sector0)
	if err != nil {
		return err
	}
	was, err := readSector0(dev)
	if err != nil {
		return err
	}
	if err := r.CastOff(); err != nil {
		return err
	}
	r.Report.Printf("cast off %s: from here on the old system is gone", dev.Path())
	err = writeSector0(dev, holding)
	if err == nil {
		return nil
	}
	// An error may mean that the sector was written or not: what is there decides.
	if is, readErr := readSector0(dev); readErr == nil && bytes.Equal(is, was) && r.Record.Attempts == 1 {
		return errors.Join(errNotCastOff, err, r.Undone())
	}
	return err
}

// writeSector0 writes the first sector, flushes it and reads it back.
func writeSector0(dev *disk.Device, sector []byte) error {
	if err := dev.WriteSectors(sector, 0); err != nil {
		return err
	}
	if err := dev.Flush(); err != nil {
		return err
	}
	is, err := readSector0(dev)
	if err == nil && !bytes.Equal(is, sector) {
		err = fmt.Errorf("read back %s: sector 0 is not what was written", dev.Path())
	}
	return err
}

func readSector0(dev *disk.Device) ([]byte, error) {
	return dev.ReadSectors(0, int64(dev.SectorSize()))
}

// writeRanges takes the image from RAM and writes each range that is what gather saw,
// all but the first sector.
func (r *Run) writeRanges(ctx context.Context, g *Gathered, dev *disk.Device) (int64, error) {
	src, err := r.source(g)
	if err != nil {
		return 0, err
	}
	pool, err := image.NewPool(buffers, disk.Buffer)
	if err != nil {
		return 0, errors.Join(err, src.Close())
	}
	bar := r.Report.Progress("write", g.Map.Bytes)
	n, err := image.Each(ctx, src, pool, nil, func(part image.Range) error {
		if err := g.Map.Check(part); err != nil {
			return err
		}
		if err := writeRange(dev, part); err != nil {
			return err
		}
		bar.Add(int64(len(part.Data)))
		fault.At("write range")
		return nil
	})
	if err == nil && n != g.Map.Bytes {
		err = fmt.Errorf("read image from RAM: %d bytes, expected %d", n, g.Map.Bytes)
	}
	if err := errors.Join(err, src.Close(), pool.Release(disk.FreeBuffer)); err != nil {
		return 0, err
	}
	bar.Done()
	return n, nil
}

func writeRange(dev *disk.Device, part image.Range) error {
	data, off := part.Data, part.Off
	if part.Index == 0 {
		// The first sector holds the machine until it lands.
		data, off = data[dev.SectorSize():], int64(dev.SectorSize())
	}
	if part.Zero {
		return dev.Zero(off, int64(len(data)))
	}
	return dev.WriteAt(data, off)
}

// tail does to the disk behind the image what the configuration says.
func (r *Run) tail(g *Gathered, dev *disk.Device) error {
	off, n := g.Map.Bytes, dev.Bytes()-g.Map.Bytes
	n -= n % int64(dev.SectorSize())
	switch {
	case n == 0:
		return nil
	case r.Config.Target.Unmapped == "zero":
		return dev.Zero(off, n)
	case r.Config.Target.Unmapped == "discard":
		if err := dev.Discard(off, n); err != nil {
			r.warn("%v", err) // it was advice, which some disks take badly
		}
	}
	return nil
}

// readBack compares the disk with the map, past the page cache.
func (r *Run) readBack(ctx context.Context, g *Gathered, dev *disk.Device) error {
	pool, err := image.NewPool(buffers, disk.Buffer)
	if err != nil {
		return err
	}
	bar := r.Report.Progress("compare", g.Map.Bytes)
	src := &deviceSource{dev: dev, end: g.Map.Bytes}
	_, err = image.Each(ctx, src, pool, nil, func(part image.Range) error {
		if part.Index == 0 && !part.Zero { // the holding code is not zeros
			copy(part.Data, g.Sector0)
		}
		bar.Add(int64(len(part.Data)))
		if err := g.Map.Check(part); err != nil {
			return fmt.Errorf("read back %s: the disk does not hold what was written: %w", dev.Path(), err)
		}
		return nil
	})
	if err := errors.Join(err, pool.Release(disk.FreeBuffer)); err != nil {
		return err
	}
	bar.Done()
	return nil
}

// partitions makes the kernel know the new partitions and waits until they are there.
func (r *Run) partitions(ctx context.Context, g *Gathered, dev *disk.Device) error {
	if err := dev.Reread(ctx); err != nil {
		return err
	}
	return r.Uevents.Await(ctx, "the new partitions of "+g.Disk.Path, r.Config.Machine.DeviceTimeout.Duration, func() (bool, error) {
		now, err := r.Disks.Disk(g.Disk.Name)
		if err != nil {
			return false, err
		}
		for _, e := range g.Table.Entries {
			p, ok := now.Partition(e.Number)
			if !ok {
				return false, fmt.Errorf("partition %d is missing", e.Number)
			}
			if p.Start != e.Start || !e.Extended && p.Bytes != e.Bytes {
				return false, fmt.Errorf("partition %d starts at %d with %d bytes, expected %d with %d", e.Number, p.Start, p.Bytes, e.Start, e.Bytes)
			}
			if _, err := os.Stat(p.Path); err != nil {
				return false, err
			}
		}
		return true, nil
	})
}

// Landed is a machine that boots its new system.
type Landed struct{}

// Land gives the disk its own first sector, so that it boots the new system.
func (r *Run) Land(_ context.Context, done *Restored) (_ *Landed, err error) {
	finish := r.stage("land")
	dev, err := disk.Open(done.Disk.Path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	// What unmounting wrote may still be in the disk's cache.
	if err := dev.Flush(); err != nil {
		return nil, err
	}
	if err := writeSector0(dev, done.Sector0); err != nil {
		return nil, err
	}
	finish(int64(len(done.Sector0)))
	r.Report.Printf("landed   %s boots its new system", done.Disk.Path)
	return &Landed{}, nil
}

// deviceSource reads a disk from its beginning to an offset. The memory that it is
// given has to be aligned, as the buffers of a Pool are.
type deviceSource struct {
	dev      *disk.Device
	off, end int64
}

// Next reads as much as fits.
func (d *deviceSource) Next(buf []byte) (image.Chunk, error) {
	n := min(int64(len(buf)), d.end-d.off)
	if n == 0 {
		return image.Chunk{}, io.EOF
	}
	if err := d.dev.ReadAt(buf[:n], d.off); err != nil {
		return image.Chunk{}, err
	}
	d.off += n
	return image.Chunk{Data: buf[:n]}, nil
}
