package stages

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"reimager/disk"
	"reimager/fault"
	"reimager/image"
	"reimager/imaging"
	"reimager/lifeboat"
)

// Written is a disk that holds the whole image but what firmware boots it by, read
// back and compared, with its partitions known to the kernel.
type Written struct {
	*Gathered
	voyage *lifeboat.Voyage
}

// Write casts off and writes the image: from its first byte on the old system is
// gone. What firmware boots a disk by is held back until the machine lands. After a
// power cut only that is written which the disk does not hold yet.
func (r *Run) Write(ctx context.Context, g *Gathered) (_ *Written, err error) {
	r.Record.Attempts++
	w := &Written{g, r.voyage(g)}
	if w.voyage.Done().Reached(lifeboat.Restored) {
		r.Report.Printf("write    done before the power cut, like the restore")
		return w, nil
	}
	dev, err := r.openTarget(ctx, g)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	done := r.stage("write")
	if err := r.castOff(w.voyage, dev); err != nil {
		return nil, err
	}
	written, err := r.writeImage(ctx, w, dev)
	if err != nil {
		return nil, err
	}
	done(written)

	done = r.stage("read back")
	if err := r.readBack(ctx, w, dev); err != nil {
		return nil, err
	}
	r.Record.ReadBack = true
	done(g.Map.MappedBytes())
	return w, r.partitions(ctx, g, dev)
}

// voyage is the order in which the disk changes, and how far it has come before.
func (r *Run) voyage(g *Gathered) *lifeboat.Voyage {
	return &lifeboat.Voyage{
		Boat: r.boat, Map: &g.Map, Holding: g.Boot.Holding, Image: g.Boot.Image, Landing: g.Boot.Land, BIOS: !g.Boot.UEFI, Headers: g.Boot.headers(&g.Disk),
		Unmapped: imaging.Unmapped(r.Config.Target.Unmapped),
		Written:  func() { fault.At("write range") },
		Warn:     func(err error) { r.warn("%v", err) },
		Landed: func() {
			fault.At("landed")
			if err := r.Landed(); err != nil {
				r.warn("%v", err)
			}
		},
	}
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
func (r *Run) castOff(v *lifeboat.Voyage, dev *disk.Device) error {
	if err := r.CastOff(); err != nil {
		return err
	}
	r.Report.Printf("cast off %s: from here on the old system is gone", dev.Path())
	undone, err := v.CastOff(dev)
	if undone && r.Record.Attempts == 1 {
		return errors.Join(errNotCastOff, err, r.Undone())
	}
	return err
}

// writeImage writes each range that is what gather saw, all but what is held back.
func (r *Run) writeImage(ctx context.Context, w *Written, dev *disk.Device) (int64, error) {
	if r.boat != nil && (r.boat.Starts() > 1 || r.boat.Attempts() > 0) {
		w.voyage.Comparing = r.Report.Progress("look", w.Map.MappedBytes()).Add
	}
	bar := r.Report.Progress("write", w.Map.MappedBytes())
	open := func() (image.Source, io.Closer, error) {
		src, err := r.source(w.Gathered, dev)
		return src, src, err
	}
	written, err := w.voyage.Write(ctx, dev, open, bar.Add)
	if err != nil {
		return 0, err
	}
	bar.Done()
	return written, nil
}

// job is what the engine is told of the image, for what it can check beforehand.
func (r *Run) job(g *Gathered, dev *disk.Device) imaging.Job {
	job := imaging.Job{Device: dev, Map: &g.Map, Held: g.Boot.headers(&g.Disk)}
	if r.boat != nil {
		job.Keep = r.boat.Keep()
	}
	return job
}

// readBack compares the disk with the map; what is held back is not there yet.
func (r *Run) readBack(ctx context.Context, w *Written, dev *disk.Device) error {
	bar := r.Report.Progress("compare", w.Map.MappedBytes())
	if err := w.voyage.ReadBack(ctx, dev, bar.Add); err != nil {
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
	if err := done.voyage.Land(dev); err != nil {
		return nil, err
	}
	finish(int64(len(done.Boot.Holding)))
	r.Report.Printf("landed   %s boots its new system", done.Disk.Path)
	return &Landed{}, nil
}
