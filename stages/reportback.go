package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"reimager/disk"
	"reimager/report"
	"reimager/wake"
)

// ReportBack writes the record and log of a failed run into the file that
// `reimager arm` preallocated on the old system. The filesystem is not mounted for
// writing: the file's blocks are overwritten where they lie, each after a look
// that it is one of that file.
func (r *Run) ReportBack(ctx context.Context) error {
	source := r.Job.Report.Source
	if source.IsZero() {
		return nil
	}
	p, err := r.await(ctx, source.Device, nil)
	if err != nil {
		return err
	}
	if !disk.InPlace(p.fs) {
		return fmt.Errorf("leave a report on %s: files there cannot be overwritten in place", p)
	}
	if err := r.mount(ctx, p, sourceDir, unix.MS_RDONLY); err != nil {
		return err
	}
	var extents []disk.Extent
	err = openBeneath(sourceDir, source, func(f *os.File) error {
		var err error
		extents, err = disk.Extents(f)
		return err
	})
	if err := errors.Join(err, wake.UnmountBelow(sourceDir)); err != nil {
		return err
	}
	log, err := os.ReadFile(r.LogFile)
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	r.notePeak()
	blocks, err := report.FileBlocks(r.Job.RunID, r.Job.Report.Bytes, r.Record, log)
	if err != nil {
		return err
	}
	isOurs := func(index int, block []byte) bool { return report.IsFileBlock(r.Job.RunID, index, block) }
	if err := disk.OverwriteExtents(p.part.Path, extents, report.FileBlockBytes, blocks, isOurs); err != nil {
		return err
	}
	r.Report.Printf("report   left in %s on the old system", strings.TrimPrefix(source.Path, "/"))
	return nil
}
