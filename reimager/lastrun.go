package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"reimager/check"
	"reimager/delivery"
	"reimager/report"
	"reimager/retain"
)

// The states that a machine can be in.
const (
	stateIdle        = "idle"
	stateArmed       = "armed"
	stateRehearsed   = "rehearsed"   // the last run was a rehearsal, and passed
	stateFailed      = "failed"      // the last run came back to this system
	stateInterrupted = "interrupted" // a run began here and has left no report
	stateDone        = "done"        // this system was put here by a run
)

// lastRun is what the last run has left on this machine.
type lastRun struct {
	state  string // idle: there was none
	runID  string
	record *report.Record // of one that was interrupted at most its beginning
	log    string         // of one that came back
	logDir string         // of one that is done
}

// machine is where the things lie that tell of runs.
type machine struct {
	root       string // "/"
	reportFile string
	logDirs    []string // where record.json may lie; the first counts
}

// thisMachine is the running system; logDir is named by the operator, or "".
func thisMachine(logDir string) machine {
	m := machine{root: "/", reportFile: reportFile, logDirs: []string{logDir}}
	if logDir != "" {
		return m
	}
	m.logDirs = check.LogDirs(m.root)
	return m
}

// settingsOf reads what a system is to deliver to.
func settingsOf(root string) (*delivery.Settings, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return delivery.ReadSettings(r)
}

// lastRun finds the last run. A report file is younger than the record of the run that
// brought this system, unless it came along with it: the list may keep it.
func (m machine) lastRun() (*lastRun, error) {
	done, doneErr := m.doneRun()
	back, err := m.backRun()
	if err != nil {
		return nil, errors.Join(doneErr, err)
	}
	// What comes along with a run is never filled: arm and the run's beginning empty it.
	if doneErr != nil && (back == nil || back.state == stateInterrupted) {
		return nil, doneErr
	}
	if back != nil && (done == nil || back.runID != done.runID) {
		return back, nil
	}
	if back == nil {
		if back, err = m.earlierRun(); err != nil {
			return nil, err
		}
		// These may have come along with the retained files from the system before.
		if back != nil && (done == nil || back.record.Started.After(done.record.Started)) {
			return back, nil
		}
	}
	if done != nil {
		return done, nil
	}
	return &lastRun{state: stateIdle}, nil
}

// doneRun reads the record of the run that put this system here; nil if there is none.
// A run that has left its record has left a link to it as well: behind that link there
// is a record, or its filesystem is not mounted.
func (m machine) doneRun() (*lastRun, error) {
	for _, dir := range m.logDirs {
		name := filepath.Join(dir, report.RecordName)
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			if to, e := os.Readlink(dir); e == nil && dir == filepath.Join(m.root, report.LogPointer) {
				return nil, report.Hint(fmt.Errorf("read record of the run that has put this system here: %w", err), "is the filesystem of %s mounted? if the record was removed, remove the link %s, too", to, dir)
			}
			continue
		}
		if err != nil {
			return nil, readable(fmt.Errorf("read record: %w", err))
		}
		record := &report.Record{Retained: &retain.Report{}}
		if err := json.Unmarshal(text, record); err != nil {
			return nil, report.Hint(fmt.Errorf("read record %s: %w", name, err), "the new system was not shut down properly after the run, or somebody wrote to it; the log beside it may tell more")
		}
		return &lastRun{state: stateDone, runID: record.RunID, record: record, logDir: dir}, nil
	}
	return nil, nil
}

// backRun reads the report of a run that came back to this system, or did not end; nil
// if there is none.
func (m machine) backRun() (*lastRun, error) { return readBack(m.reportFile) }

// earlierRun is what is known of a run before the one that the machine is armed for: its
// report that was set aside, else the record of a rehearsal; nil if there is neither.
func (m machine) earlierRun() (*lastRun, error) {
	run, err := readBack(check.LastReport(m.reportFile))
	if err != nil || run != nil && run.record != nil {
		return run, err
	}
	name := filepath.Join(filepath.Dir(m.reportFile), filepath.Base(check.RehearsalPath))
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, readable(fmt.Errorf("read record: %w", err))
	}
	record := &report.Record{}
	if err := json.Unmarshal(text, record); err != nil {
		return nil, report.Hint(fmt.Errorf("read record %s: %w", name, err), "remove it, and rehearse again")
	}
	return &lastRun{state: stateRehearsed, runID: record.RunID, record: record}, nil
}

func readBack(reportFile string) (*lastRun, error) {
	all, err := os.ReadFile(reportFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, readable(fmt.Errorf("read report: %w", err))
	}
	id, state, err := report.FileHead(reportFile, all)
	if err != nil {
		return nil, report.Hint(err, "it was changed or cut short; remove it, or arm again, which makes it anew")
	}
	if state == "begun" {
		run := &lastRun{state: stateInterrupted, runID: id}
		if last, err := report.ParseFile(reportFile, all); err == nil {
			run.record = &last.Record // of its beginning
		}
		return run, nil
	}
	last, err := report.ParseFile(reportFile, all)
	if errors.Is(err, report.ErrNoReport) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	run := &lastRun{state: stateFailed, runID: id, record: &last.Record, log: last.Log}
	if last.Record.Outcome == "rehearsed" {
		run.state = stateRehearsed
	}
	return run, nil
}

// readable adds a hint to an error of permissions.
func readable(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return report.Hint(err, "run it with sudo")
	}
	return err
}
