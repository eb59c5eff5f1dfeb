package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"reimager/report"
	"reimager/stages"
	"reimager/wake"
)

// recordFile is where a worker that comes back leaves its record for the one that undoes.
const recordFile = wake.RunDir + "/record.json"

func saveRecord(r *report.Record) error {
	text, err := r.Encode()
	if err != nil {
		return err
	}
	if err := os.WriteFile(recordFile, text, 0o600); err != nil {
		// No record is better than half of it, or an older one.
		return errors.Join(err, os.RemoveAll(recordFile))
	}
	return nil
}

// hasRecord tells whether a worker has left its record.
func hasRecord() bool {
	_, err := os.Stat(recordFile)
	return err == nil
}

// undo leaves the old system as it was found, with a report in the file that
// `reimager arm` made for it.
func undo(r *stages.Run) error {
	ctx := context.Background()
	if text, err := os.ReadFile(recordFile); err == nil {
		if err := json.Unmarshal(text, r.Record); err != nil {
			return fmt.Errorf("read record: %w", err)
		}
	}
	boarding := stages.SavedBoarding() // which is in RAM
	unmounted := wake.UnmountBelow(wake.RunDir)
	failed := *r.Record // wakeUp and LoadJob write into the record
	if err := wakeUp(ctx, r); err != nil {
		return errors.Join(unmounted, err)
	}
	err := r.LoadJob(ctx)
	failed.RunID, failed.Did = r.Record.RunID, os.Getenv(didVariable)
	*r.Record = failed
	if err != nil || r.Job == nil {
		return errors.Join(unmounted, err)
	}
	reported := r.ReportBack(ctx)
	if reported != nil { // once more, while job and log of the lifeboat are there
		reported = r.ReportBack(ctx)
	}
	if err := errors.Join(r.Abandon(), r.AbandonBoarding(ctx, boarding)); err != nil {
		r.Report.Printf("warning: %v", err) // it is no better another time
	}
	return errors.Join(unmounted, reported)
}
