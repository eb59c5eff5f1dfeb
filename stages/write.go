package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"reimager/disk"
	"reimager/fault"
	"reimager/imaging"
)

// Written is a disk that holds the whole image but what firmware boots it by, read
// back and compared, with its partitions known to the kernel.
type Written struct{ *Gathered }

// Write casts off and writes the image: from its first byte on the old system is
// gone. What firmware boots a disk by is held back until the machine lands.
func (r *Run) Write(ctx context.Context, g *Gathered) (_ *Written, err error) {
	r.Record.Attempts++
	dev, err := r.openTarget(ctx, g)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	done := r.stage("write")
	if err := r.castOff(g, dev); err != nil {
		return nil, err
	}
	written, err := r.writeImage(ctx, g, dev)
	if err != nil {
		return nil, err
	}
	done(written)

	done = r.stage("read back")
	if err := r.readBack(ctx, g, dev); err != nil {
		return nil, err
	}
	r.Record.ReadBack = true
	done(g.Map.MappedBytes())
	if err := r.partitions(ctx, g, dev); err != nil {
		return nil, err
	}
	return &Written{g}, nil
}

// openTarget opens the disk that is to be written, and refuses what the engine would
// refuse: that has to be known while there is a way back.
func (r *Run) openTarget(ctx context.Context, g *Gathered) (*disk.Device, error) {
	dev, err := r.openDisk(ctx, g.Disk.Path)
	if err != nil {
		return nil, err
	}
	if dev.Bytes() != g.Disk.Bytes || dev.SectorSize() != g.Disk.SectorSize {
		err = fmt.Errorf("open %s: %d bytes in sectors of %d, expected %d in %d", dev.Path(), dev.Bytes(), dev.SectorSize(), g.Disk.Bytes, g.Disk.SectorSize)
	} else {
		err = r.job(g, dev).Check()
	}
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return dev, nil
}

// openDisk opens the target. What a killed program had mounted may hold it for a while
// yet, until its last writes are on the disk.
func (r *Run) openDisk(ctx context.Context, path string) (dev *disk.Device, err error) {
	deadline := time.Now().Add(r.Config.Machine.DeviceTimeout.Duration)
	for {
		dev, err = disk.Open(path)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return dev, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

var errNotCastOff = errors.New("the disk refused the first write; nothing was changed")

// castOff is the point of no return.
func (r *Run) castOff(g *Gathered, dev *disk.Device) error {
	if err := r.CastOff(); err != nil {
		return err
	}
	r.Report.Printf("cast off %s: from here on the old system is gone", dev.Path())
	undone, err := imaging.CastOff(dev, g.Boot.Holding, g.Boot.headers(dev))
	if undone && r.Record.Attempts == 1 {
		return errors.Join(errNotCastOff, err, r.Undone())
	}
	return err
}

// writeImage takes the image from RAM and writes each range that is what gather saw,
// all but what is held back.
func (r *Run) writeImage(ctx context.Context, g *Gathered, dev *disk.Device) (int64, error) {
	src, err := r.source(g)
	if err != nil {
		return 0, err
	}
	bar := r.Report.Progress("write", g.Map.MappedBytes())
	job := r.job(g, dev)
	job.Source, job.Progress = src, bar.Add
	result, err := imaging.Write(ctx, job)
	if err := errors.Join(err, src.Close()); err != nil {
		return 0, err
	}
	bar.Done()
	return result.Bytes, nil
}

// job is what the engine is told of the image.
func (r *Run) job(g *Gathered, dev *disk.Device) imaging.Job {
	return imaging.Job{
		Device: dev, Map: &g.Map, Unmapped: imaging.Unmapped(r.Config.Target.Unmapped), Held: g.Boot.headers(dev),
		Written: func() { fault.At("write range") },
		Warn:    func(err error) { r.warn("%v", err) },
	}
}

// readBack compares the disk with the map; what is held back is not there yet.
func (r *Run) readBack(ctx context.Context, g *Gathered, dev *disk.Device) error {
	bar := r.Report.Progress("compare", g.Map.MappedBytes())
	if err := imaging.ReadBack(ctx, dev, &g.Map, g.Boot.Image, bar.Add); err != nil {
		return err
	}
	bar.Done()
	return nil
}

// partitions makes the kernel know the new partitions and waits until they are there.
func (r *Run) partitions(ctx context.Context, g *Gathered, dev *disk.Device) error {
	if err := r.tellPartitions(ctx, g, dev); err != nil {
		return err
	}
	return r.Uevents.Await(ctx, "the new partitions of "+g.Disk.Path, r.Config.Machine.DeviceTimeout.Duration, func() (bool, error) {
		now, err := r.Disks.Disk(g.Disk.Name)
		if err != nil {
			return false, err
		}
		for _, e := range g.Table.Entries {
			if e.Extended && g.Boot.TableHeld {
				continue
			}
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

// tellPartitions has the kernel read the new table, or tells it where that is held back.
func (r *Run) tellPartitions(ctx context.Context, g *Gathered, dev *disk.Device) error {
	if !g.Boot.TableHeld {
		return dev.Reread(ctx)
	}
	r.heldTable = &heldTable{disk: g.Disk.Name, table: &g.Table}
	now, err := r.Disks.Disk(g.Disk.Name)
	if err != nil {
		return err
	}
	return dev.SetPartitions(ctx, now.Partitions, &g.Table)
}

// Landed is a machine that boots its new system.
type Landed struct{}

// Land gives the disk what was held back, so that it boots the new system.
func (r *Run) Land(ctx context.Context, done *Restored) (_ *Landed, err error) {
	finish := r.stage("land")
	dev, err := r.openDisk(ctx, done.Disk.Path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	// What unmounting wrote may still be in the disk's cache.
	if err := dev.Flush(); err != nil {
		return nil, err
	}
	if err := imaging.Land(dev, done.Boot.Land); err != nil {
		return nil, err
	}
	finish(int64(len(done.Boot.Holding)))
	r.Report.Printf("landed   %s boots its new system", done.Disk.Path)
	return &Landed{}, nil
}
