package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"reimager/boot"
	"reimager/cli"
	"reimager/config"
	"reimager/disk"
	"reimager/report"
	"reimager/retain"
)

// The states that a machine can be in.
const (
	stateIdle   = "idle"
	stateArmed  = "armed"
	stateFailed = "failed" // the last run came back to this system
	stateDone   = "done"   // this system was put here by a run
)

// status is what reimager status shows, and its JSON.
type status struct {
	State       string              `json:"state"`
	Job         *config.Job         `json:"job,omitempty"`    // of an armed machine
	Record      *report.Record      `json:"record,omitempty"` // of the last run
	LogDir      string              `json:"log_dir,omitempty"`
	Differences []retain.Difference `json:"differences,omitempty"` // --verify
	Verified    bool                `json:"verified,omitempty"`    // --verify was asked for
}

func statusCommand() *cobra.Command {
	var asJSON, verify bool
	var logDir string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what was, or will be, done to this machine",
		Long: `Shows whether this machine is armed, came back from a run that failed, or runs the
system that a run has put here: which image, when, how long it took, what was kept,
and what was warned of.

With --verify every file that was put back is compared again with the digests in the
record; files that a service has changed since then are differences, too.

Exit status: 0, or 1 if the last run failed or --verify finds a difference.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := readStatus(logDir)
			if err == nil && verify {
				err = s.verify(c.Context())
			}
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				err = e.Encode(s)
			} else {
				s.print(c.OutOrStdout())
			}
			return errors.Join(err, s.verdict())
		},
	}
	c.Flags().BoolVar(&verify, "verify", false, "compare the retained files again")
	c.Flags().StringVar(&logDir, "log-dir", "", "where the run has left record.json (default: where it says, else /var/log/reimager)")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

// readStatus looks at what arm, or a run, has left. What was armed last counts most,
// then what failed here, then what brought this system.
func readStatus(logDir string) (*status, error) {
	if job, err := armedJob(); err != nil || job != nil {
		return &status{State: stateArmed, Job: job}, err
	}
	last, err := report.ReadFile(reportFile)
	switch {
	case err == nil:
		return &status{State: stateFailed, Record: &last.Record}, nil
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, report.ErrNoReport):
		return nil, err
	}
	for _, dir := range logDirs(logDir) {
		text, err := os.ReadFile(filepath.Join(dir, report.RecordName))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read record: %w", err)
		}
		record := &report.Record{Retained: &retain.Report{}}
		if err := json.Unmarshal(text, record); err != nil {
			return nil, fmt.Errorf("read record %s: %w", filepath.Join(dir, report.RecordName), err)
		}
		return &status{State: stateDone, Record: record, LogDir: dir}, nil
	}
	return &status{State: stateIdle}, nil
}

func logDirs(named string) []string {
	if named != "" {
		return []string{named}
	}
	return []string{"/" + report.LogPointer, config.Default().New.LogDir}
}

// armedJob returns the job that the next boot, or kexec, will do; nil if the machine is
// not armed.
func armedJob() (*config.Job, error) {
	grub, err := boot.FindGRUB("/")
	if err == nil {
		next, err := grub.NextEntry()
		if errors.Is(err, fs.ErrPermission) {
			return nil, report.Hint(fmt.Errorf("status: %w", err), "run it with sudo")
		}
		if err == nil && next == entryID {
			return config.ReadJob(filepath.Join(folderOf(grub), jobName))
		}
	}
	if !boot.KexecLoaded() {
		return nil, nil
	}
	job, err := config.ReadJob(filepath.Join(folderOf(grub), jobName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // what is loaded is somebody else's
	}
	return job, err
}

// verify compares the retained files with the record.
func (s *status) verify(ctx context.Context) error {
	if s.State != stateDone {
		return cli.Usagef("--verify: no run has put this system here (%s)", s.State)
	}
	put, ok := s.Record.Retained.(*retain.Report)
	if !ok || put == nil {
		return errors.New("status: the record says nothing of retained files")
	}
	var err error
	s.Differences, err = retain.Recheck(ctx, "/", put)
	s.Verified = true
	return err
}

func (s *status) verdict() error {
	if s.State == stateFailed {
		return report.Hint(errors.New("the last run failed"), "reimager log shows all of it")
	}
	if n := len(s.Differences); n > 0 {
		return fmt.Errorf("%d differences from what was put back", n)
	}
	return nil
}

func (s *status) print(out io.Writer) {
	line := func(what, format string, args ...any) {
		fmt.Fprintf(out, "%-9s %s\n", what, fmt.Sprintf(format, args...))
	}
	line("state", "%s", s.State)
	if s.Job != nil {
		line("armed", "at %s, run %s", s.Job.Armed.Local().Format("2006-01-02 15:04:05"), s.Job.RunID)
		line("image", "%s, %s", s.Job.Image.Source, disk.Size(s.Job.Image.Bytes))
	}
	if s.Record == nil {
		return
	}
	r := s.Record
	line("run", "%s, started %s, last stage %s", r.RunID, r.Started.Local().Format("2006-01-02 15:04:05"), r.Stage)
	image := r.Image.Source
	if r.Image.Name != "" {
		image = fmt.Sprintf("%s %s, counter %d", r.Image.Name, r.Image.Version, r.Image.Counter)
	}
	if image != "" {
		line("image", "%s, SHA-256 %s", image, r.Image.SHA256)
	}
	if r.Image.SignedBy != "" {
		line("signed by", "%s", r.Image.SignedBy)
	}
	total := 0.0
	for _, d := range r.Stages {
		line("took", "%s %.1f s", d.Stage, d.Seconds)
		total += d.Seconds
	}
	if total > 0 {
		line("took", "%.1f s in all, attempt %d", total, r.Attempts)
	}
	if put, ok := r.Retained.(*retain.Report); ok && put != nil {
		line("kept", "%d files and directories, %s", len(put.Entries), disk.Size(put.ContentBytes))
		if put.Accounts != nil {
			line("accounts", "%s", put.Accounts.Summary())
		}
		for _, path := range r.NotThere {
			line("not there", "%s", path)
		}
		for _, c := range put.Conflicts {
			line("missing", "%s: %s", c.Path, c.Why)
		}
	}
	for _, w := range r.Warnings {
		line("warning", "%s", w)
	}
	if r.Error != "" {
		line("error", "%s", r.Error)
	}
	for _, h := range r.Hints {
		line("hint", "%s", h)
	}
	if s.LogDir != "" {
		line("log", "%s", filepath.Join(s.LogDir, report.LogName))
	}
	for _, d := range s.Differences {
		line("differs", "%s: %s is %s, was %s", d.Path, d.What, d.Got, d.Want)
	}
	if s.Verified && len(s.Differences) == 0 {
		line("verified", "every file that was put back is as it was")
	}
}
