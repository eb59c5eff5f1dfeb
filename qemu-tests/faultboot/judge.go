package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"reimager/report"
)

// Words of init/outcome.go.
const (
	goBack = "boot the old system"
	goOn   = "boot the new system"
)

// The ends that a run may come to.
const (
	endBack  = "back"  // the old system boots
	endNew   = "new"   // the new system boots
	endHold  = "hold"  // the machine stands still
	endWrong = "wrong" // none of them
)

// verdict is what a run has come to, and what is wrong with that.
type verdict struct {
	end     string
	wrong   []string
	notable []string // what may be, and should be known
}

func (v *verdict) blame(format string, args ...any) {
	v.wrong = append(v.wrong, fmt.Sprintf(format, args...))
}

// judge says whether a machine may end so. With mayLack the way back itself is broken:
// the report may be lacking then, but that has to be said. What the disk holds decides, not what was
// said.
func judge(e *ending, mayLack bool, disk *victim) verdict {
	v := verdict{end: endWrong}
	switch outcome := e.outcome(); {
	case e.problem != "":
		v.blame("%s", e.problem)
	case e.held:
		v.end = endHold
		judgeHold(&v, disk)
	case outcome == goBack:
		v.end = endBack
		judgeBack(&v, e, mayLack, disk)
	case outcome == goOn:
		v.end = endNew
		judgeNew(&v, disk)
	default:
		v.blame("the machine rebooted after the outcome %q", outcome)
	}
	if e.rebooted && e.sysrq != "sub" {
		v.blame("sysrq %q before the reboot, expected sub", e.sysrq)
	}
	// What is still mounted is flushed by sysrq s and u at best.
	if e.rebooted && len(e.mounts) > 0 && v.end != endNew && !mayLack {
		v.blame("still mounted at the reboot: %s", strings.Join(e.mounts, ", "))
	}
	return v
}

// judgeBack: the old system is whole, and its report tells the truth.
func judgeBack(v *verdict, e *ending, mayLack bool, disk *victim) {
	if diff := disk.isOld(); diff != "" {
		v.blame("the old system boots, but %s", diff)
	}
	last, err := lastRun()
	begun := err == nil && strings.HasSuffix(last.Record.Error, "left no report") // which is true
	if begun {
		err = errors.New(last.Record.Error)
	}
	switch {
	case err == nil:
		judgeReport(v, last)
	case mayLack:
		// The report itself failed; what is left may be none, or a torn one.
		v.notable = append(v.notable, "no report: "+err.Error())
		if !strings.Contains(e.log, "no report in the old system") {
			v.blame("there is no report (%v), and nothing was said of that", err)
		}
	default:
		v.blame("read the report: %v", err)
	}
}

func judgeReport(v *verdict, last *report.LastRun) {
	r := last.Record
	switch {
	case r.Outcome != "failed":
		v.blame("the report says that the run has %q, expected failed", r.Outcome)
	case r.Error == "" || r.Stage == "":
		v.blame("the report gives the error %q in the stage %q", r.Error, r.Stage)
	case r.RunID != runID:
		v.blame("the report is of the run %q, expected %q", r.RunID, runID)
	case !strings.Contains(last.Log, "FAILED"):
		v.blame("the log in the report does not say FAILED")
	}
}

// judgeNew: the new system is what it is after a clean run, or its record says why not.
func judgeNew(v *verdict, disk *victim) {
	diff := ""
	if disk.new != nil {
		diff = disk.isNew()
	}
	record, err := readRecord()
	switch {
	case errors.Is(err, os.ErrNotExist) && diff == "":
		v.notable = append(v.notable, "no record in the new system")
	case err != nil:
		v.blame("read the record: %v", err)
	case record.Outcome != "restored":
		v.blame("the record says that the run has %q, expected restored", record.Outcome)
	case diff != "" && len(record.Warnings) > disk.warned:
		v.notable = append(v.notable, fmt.Sprintf("%s; the record warns: %s", diff, strings.Join(record.Warnings, "; ")))
		diff = ""
	}
	if diff != "" {
		v.blame("the new system boots, but %s", diff)
	}
}

// judgeHold: nothing boots that is not complete.
func judgeHold(v *verdict, disk *victim) {
	switch sector := disk.sector0(); sector {
	case "holding":
	case "old":
		if diff := disk.isOld(); diff != "" {
			v.blame("it holds, and its disk would boot the old system, but %s", diff)
		}
	case "new":
		if diff := disk.isNew(); diff != "" {
			v.blame("it holds, and its disk would boot the new system, but %s", diff)
		}
	default:
		v.blame("it holds, and its disk would boot what nobody knows")
	}
}

// readRecord reads the record in the new system.
func readRecord() (*report.Record, error) {
	record, err := recordOn(kioskPartition, "log")
	if errors.Is(err, os.ErrNotExist) {
		// A filesystem that could not be mounted leaves what belongs to it in the root.
		if in, inRoot := recordOn(rootPartition, "kiosk/log"); inRoot == nil {
			return in, nil
		}
	}
	return record, err
}

func recordOn(partition int, folder string) (*report.Record, error) {
	var record report.Record
	err := mounted(partition, func(dir string) error {
		text, err := os.ReadFile(filepath.Join(dir, folder, report.RecordName))
		if err != nil {
			return err
		}
		return json.Unmarshal(text, &record)
	})
	return &record, err
}
