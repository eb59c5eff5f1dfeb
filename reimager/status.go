package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"reimager/boot"
	"reimager/cli"
	"reimager/config"
	"reimager/delivery"
	"reimager/report"
	"reimager/retain"
)

// Exit statuses of reimager status. A state is no failure of the command: 1 and 2 keep
// the meaning that they have everywhere, so that a script which cannot ask a machine is
// not told that its run failed.
const (
	exitArmed       = 3
	exitRehearsed   = 4
	exitFailed      = 5
	exitInterrupted = 6
	exitDiffers     = 7
)

// status is what reimager status shows, and its JSON: docs/formats.md.
type status struct {
	State       string              `json:"state"`
	RunID       string              `json:"run_id,omitempty"`
	Job         *config.Job         `json:"job,omitempty"`    // of an armed machine
	Record      *report.Record      `json:"record,omitempty"` // of the last run
	LogDir      string              `json:"log_dir,omitempty"`
	Lifeboat    string              `json:"lifeboat,omitempty"` // of a run that was interrupted as it started it
	Report      []delivered         `json:"report,omitempty"`
	Differences []retain.Difference `json:"differences,omitempty"` // --verify
	Verified    bool                `json:"verified,omitempty"`    // --verify was asked for
}

// delivered is whether one place of [report] has the record of the last run.
type delivered struct {
	To        string `json:"to"`
	Delivered bool   `json:"delivered"`
	delivery.Try
}

func statusCommand() *cobra.Command {
	var asJSON, verify bool
	var logDir string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what was, or will be, done to this machine",
		Long: `Shows whether this machine is armed, came back from a run that failed or from a
rehearsal, or runs the system that a run has put here: which image, when, how long it
took, what was kept, what was warned of, and whether the record was delivered.

With --verify every file that was put back is compared again with the digests in the
record; files that a service has changed since then are differences, too.

Exit status:
  0  idle, or done
  1  the state could not be found out
  2  wrong usage
  3  armed
  4  rehearsed: the last run was a rehearsal, and passed
  5  failed: the last run came back to this system
  6  interrupted: a run began and has left no report
  7  --verify finds a difference`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := thisMachine(logDir).status()
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
			if err != nil {
				return err
			}
			return s.verdict()
		},
	}
	c.Flags().BoolVar(&verify, "verify", false, "compare the retained files again")
	c.Flags().StringVar(&logDir, "log-dir", "", "where the run has left record.json (default: where it says, else /var/log/reimager)")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

// status looks at what arm, or a run, has left. What was armed last counts most, then
// what came back here, then what brought this system.
func (m machine) status() (*status, error) {
	job, err := armedJob(m.root)
	if err != nil {
		return nil, err
	}
	return m.statusWith(job)
}

// statusWith is status of a machine whose boot loader is about to start a job, or nil.
func (m machine) statusWith(job *config.Job) (*status, error) {
	last, err := m.lastRun()
	// A job whose run has begun is over, although a GRUB that cannot write has left
	// next_entry in place.
	if job != nil && (err != nil || last.runID != job.RunID) {
		return &status{State: stateArmed, RunID: job.RunID, Job: job}, nil
	}
	if err != nil {
		return nil, err
	}
	s := &status{State: last.state, RunID: last.runID, Record: last.record, LogDir: last.logDir}
	if s.State == stateInterrupted {
		folder := filepath.Join(m.root, folderOf(nil))
		if grub, err := boot.FindGRUB(m.root); err == nil {
			folder = folderOf(grub)
		}
		s.Lifeboat = lifeboatOf(filepath.Join(folder, gateName), s.RunID)
	}
	if s.Report, err = m.deliveries(last); err != nil {
		// What became of the run matters more, and is known.
		s.Report = []delivered{{To: "[report]", Try: delivery.Try{Error: err.Error()}}}
	}
	return s, nil
}

// lifeboatOf tells from the gate of an interrupted run what became of its lifeboat; ""
// if there was none, or nothing is known.
func lifeboatOf(gate, runID string) string {
	block, err := os.ReadFile(gate)
	if err != nil {
		return ""
	}
	state, berth, err := boot.ReadGate(runID, block)
	switch {
	case err != nil || berth == 0:
		return ""
	case state == boot.GateProve:
		return "it has boarded, but GRUB has not started it: it could not write the gate, or the power failed; `reimager disarm` keeps GRUB from doing so later"
	}
	return "it has boarded, and GRUB has started it, but it left no report: the power failed, or it does not boot on this machine"
}

// armedJob returns the job that the next boot, or kexec, will do; nil if the machine is
// not armed.
func armedJob(root string) (*config.Job, error) {
	name := filepath.Join(root, folderOf(nil), jobName)
	next := ""
	grub, err := boot.FindGRUB(root)
	if err == nil {
		next, err = grub.NextEntry()
	}
	if err != nil && !errors.Is(err, boot.ErrNoGRUB) {
		// What GRUB does is not known; but without a job it does nothing of ours.
		if _, there := os.Stat(name); !errors.Is(there, fs.ErrNotExist) {
			return nil, readable(fmt.Errorf("status: %w", err))
		}
		return nil, nil
	}
	if next == entryID {
		return config.ReadJob(name)
	}
	if !boot.KexecLoaded() {
		return nil, nil
	}
	job, err := config.ReadJob(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // what is loaded is somebody else's
	}
	return job, err
}

// deliveries tells which places have the record; none of a machine that delivers none.
func (m machine) deliveries(last *lastRun) ([]delivered, error) {
	if last.runID == "" {
		return nil, nil
	}
	root, err := os.OpenRoot(m.root)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	settings, err := delivery.ReadSettings(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, readable(err)
	}
	notes, err := delivery.ReadNotes(root, last.runID)
	if err != nil {
		return nil, readable(err)
	}
	var all []delivered
	for _, p := range delivery.Places(settings.To) {
		all = append(all, delivered{p.String(), notes.Done(p), notes.Places[p.String()]})
	}
	return all, nil
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

// verdict is the exit status.
func (s *status) verdict() error {
	switch s.State {
	case stateArmed:
		return cli.Status(exitArmed, nil)
	case stateRehearsed:
		return cli.Status(exitRehearsed, nil)
	case stateFailed:
		return cli.Status(exitFailed, report.Hint(errors.New("the last run failed"), "reimager log shows all of it"))
	case stateInterrupted:
		return cli.Status(exitInterrupted, report.Hint(errors.New("the last run began and has left no report"), "the power failed, or the machine was reset; arm it again"))
	}
	if n := len(s.Differences); n > 0 {
		return cli.Status(exitDiffers, fmt.Errorf("%d differences from what was put back", n))
	}
	return nil
}
