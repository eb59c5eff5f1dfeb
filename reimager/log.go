package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"reimager/report"
)

func logCommand() *cobra.Command {
	var asJSON bool
	var logDir string
	c := &cobra.Command{
		Use:   "log",
		Short: "Show the log of the last run",
		Long: `Shows how the last run ended, and its log: of a run that failed or a rehearsal, what
it has left in this system; of the run that put this system here, what it left in the
log_dir of its configuration (/var/log/reimager by default).

Exit status: 0, or 1 if no run has left a log here.`,
		RunE: func(c *cobra.Command, _ []string) error {
			last, err := thisMachine(logDir).lastRun()
			if err != nil {
				return err
			}
			return showLog(last, asJSON, c.OutOrStdout())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "the record alone, as JSON")
	c.Flags().StringVar(&logDir, "log-dir", "", "where the run has left its log (default: where it says, else /var/log/reimager)")
	return c
}

func showLog(last *lastRun, asJSON bool, out io.Writer) error {
	switch {
	case last.state == stateInterrupted:
		return report.Hint(fmt.Errorf("run %s began and has left no report", last.runID), "the power failed, or the machine was reset; arm it again")
	case last.record == nil:
		return report.Hint(errors.New("no run has left a log here"), "reimager status shows what this machine is about to do; --log-dir names another folder")
	}
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(last.record)
	}
	r := last.record
	ended := r.Outcome
	if r.Error != "" {
		ended += ": " + r.Error
	}
	if _, err := fmt.Fprintf(out, "run %s at %s: %s\n", r.RunID, r.Stage, ended); err != nil {
		return err
	}
	for _, h := range r.Hints {
		fmt.Fprintf(out, "hint: %s\n", h)
	}
	if last.logDir == "" {
		_, err := fmt.Fprintf(out, "\n%s", last.log)
		return err
	}
	f, err := os.Open(filepath.Join(last.logDir, report.LogName))
	if err != nil {
		return readable(fmt.Errorf("read log: %w", err))
	}
	defer f.Close()
	fmt.Fprintln(out)
	if _, err := io.Copy(out, f); err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	return nil
}
