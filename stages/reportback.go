package stages

import (
	"context"
	"strings"

	"reimager/report"
)

// ReportBack writes the record and log of a run that came back into the file that
// `reimager arm` preallocated on the old system. The filesystem is not mounted for
// writing: the file's blocks are overwritten where they lie, each after a look
// that it is one of that file. A report that is there stays: it is of an earlier start.
func (r *Run) ReportBack(ctx context.Context) error {
	source := r.Job.Report.Source
	if source.IsZero() {
		return nil
	}
	p, err := r.await(ctx, source.Device, nil)
	if err != nil {
		return err
	}
	file, err := r.lookAt(ctx, p, source, report.FileBlockBytes)
	if err != nil {
		return err
	}
	state, err := report.FileStateOf(r.Job.RunID, file.begin)
	if err != nil {
		return err
	}
	if state == report.FileFilled {
		r.Report.Printf("report   there is one in the old system, which stays")
		return nil
	}
	log, err := r.wholeLog()
	if err != nil {
		return err
	}
	r.notePeak()
	blocks, err := report.FileBlocks(r.Job.RunID, r.Job.Report.Bytes, r.Record, log)
	if err != nil {
		return err
	}
	isOurs := func(index int, block []byte) bool { return report.IsFileBlock(r.Job.RunID, index, block) }
	if err := file.overwrite(report.FileBlockBytes, blocks, isOurs); err != nil {
		return err
	}
	r.Report.Printf("report   left in %s on the old system", strings.TrimPrefix(source.Path, "/"))
	return nil
}
