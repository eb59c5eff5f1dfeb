package imaging

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"reimager/disk"
	"reimager/image"
)

// readers is how many ranges are read back at a time: a disk is kept busy while
// others are digested.
const readers = 4

// ReadBack compares a disk with a map, past the page cache. What is held back is
// compared as what the image has there, since it is written last.
func ReadBack(ctx context.Context, dev *disk.Device, m *image.Map, held []disk.Piece, progress func(bytes int64)) error {
	return each(ctx, dev, m, held, progress, func(_ int, differs error) error { return differs })
}

// Differing tells which ranges of a map a disk does not hold, so that a write that was
// cut short goes on with these. A range that cannot be read is one of them: a sector
// that was being written as the power went may be unreadable until it is written.
func Differing(ctx context.Context, dev *disk.Device, m *image.Map, held []disk.Piece, progress func(bytes int64)) ([]bool, error) {
	differing := make([]bool, len(m.Ranges))
	err := each(ctx, dev, m, held, progress, func(i int, differs error) error {
		differing[i] = differs != nil
		return nil
	})
	return differing, err
}

// each compares each range, several at a time, and tells judge what is wrong with it.
func each(ctx context.Context, dev *disk.Device, m *image.Map, held []disk.Piece, progress func(bytes int64), judge func(i int, differs error) error) error {
	if err := m.CheckFine(); err != nil {
		return err
	}
	pool, err := image.NewPool(readers, disk.Buffer)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var running sync.WaitGroup
	for range readers {
		running.Go(func() {
			buf := pool.Take()
			defer pool.Put(buf)
			for i := int(next.Add(1)) - 1; i < len(m.Ranges) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := judge(i, compare(dev, m, i, buf[:m.Ranges[i].Bytes], held)); err != nil {
					cancel(err)
					return
				}
				if progress != nil {
					progress(m.Ranges[i].Bytes)
				}
			}
		})
	}
	running.Wait()
	return errors.Join(context.Cause(ctx), pool.Release(disk.FreeBuffer))
}

func compare(dev *disk.Device, m *image.Map, i int, buf []byte, held []disk.Piece) error {
	off := m.Ranges[i].Off
	if err := dev.ReadAt(buf, off); err != nil {
		return fmt.Errorf("read back %s: %w", dev.Path(), err)
	}
	for _, h := range held {
		if h.Off >= off && h.Off+int64(len(h.Data)) <= off+int64(len(buf)) {
			copy(buf[h.Off-off:], h.Data)
		}
	}
	if err := m.Check(image.Range{Index: i, Off: off, Data: buf, Zero: image.AllZero(buf)}); err != nil {
		return fmt.Errorf("read back %s: the disk does not hold what was written: %w", dev.Path(), err)
	}
	return nil
}
