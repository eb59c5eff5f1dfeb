package stages

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"reimager/disk"
	"reimager/image"
	"reimager/report"
)

// Rehearse does the rest of what comes before the point of no return, measures, and
// fills in the record. It writes nothing.
func (r *Run) Rehearse(ctx context.Context, g *Gathered) (err error) {
	begun := sinceStart()
	done := r.stage("rehearse")
	dev, err := r.openTarget(ctx, g)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	rate, err := readRate(ctx, dev, &g.Map)
	if err != nil {
		return err
	}
	if r.Config.Target.Unmapped == "discard" && !r.Disks.Discards(&g.Disk) {
		r.warn("%s cannot discard: what the image leaves out stays as the old system left it", g.Disk.Path)
	}
	free, err := memory("MemAvailable")
	if err != nil {
		return err
	}
	disks, err := r.Disks.List()
	if err != nil {
		return err
	}
	measured := &report.Rehearsal{Manifest: g.Manifest, Drivers: r.Drivers.Loaded(), FreeBytes: free, RetainedFiles: g.Files, RetainedBytes: g.FileBytes}
	for _, d := range disks {
		measured.Devices = append(measured.Devices, d.String())
	}
	measured.GatherSeconds = r.Record.Spent("gather").Seconds()
	took := downtime(begun, g.Map.MappedBytes(), g.ArchiveBytes, rate)
	if r.boat != nil { // and the start before, which boarded
		took += begun + r.Record.Spent("gather", "board")
	}
	measured.DowntimeSeconds = took.Seconds()
	done(0)
	r.Record.Rehearsal, r.Record.Outcome = measured, "rehearsed"
	r.Report.Printf("rehearse %s reads %s a second: a run would take about %s", g.Disk.Path, disk.Size(rate), took.Round(time.Second))
	r.Report.Printf("rehearse passed; nothing was written")
	return nil
}

// downtime estimates a run: what has passed since the kernel started, then image and
// retained files written and read back at the rate that the disk reads.
func downtime(passed time.Duration, mapped, archive, rate int64) time.Duration {
	return passed + time.Duration(float64(2*(mapped+archive))/float64(rate)*float64(time.Second))
}

// The disk is read in pieces, spread over what will be written, until the time is up:
// a slow one shows itself soon.
const (
	readPieces   = 16
	readPiece    = 4 << 20
	readPatience = 5 * time.Second
)

// readRate measures how fast the disk is read past the page cache, in bytes a second.
func readRate(ctx context.Context, dev *disk.Device, m *image.Map) (rate int64, err error) {
	buf, err := disk.Buffer(readPiece)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, disk.FreeBuffer(buf)) }()
	start, read := time.Now(), int64(0)
	for _, part := range spread(m.Ranges, readPieces) {
		sector := int64(dev.SectorSize())
		n := min(part.Bytes, readPiece) / sector * sector
		if ctx.Err() != nil || time.Since(start) > readPatience {
			break
		}
		if err := dev.ReadAt(buf[:n], part.Off); err != nil {
			return 0, fmt.Errorf("measure %s: %w", dev.Path(), err)
		}
		read += n
	}
	if read == 0 {
		return 0, errors.Join(fmt.Errorf("measure %s: nothing was read", dev.Path()), ctx.Err())
	}
	return max(1, int64(float64(read)/max(time.Since(start), time.Microsecond).Seconds())), nil
}

// spread takes at most n ranges, evenly over all.
func spread(all []image.MapRange, n int) []image.MapRange {
	if len(all) <= n {
		return all
	}
	var some []image.MapRange
	for i := range n {
		some = append(some, all[i*len(all)/n])
	}
	return some
}

// sinceStart is how long the kernel has been running.
func sinceStart() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0 // every kernel since 2.6.39 has it
	}
	return time.Duration(t.Nano())
}
