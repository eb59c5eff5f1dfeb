package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"reimager/report"
)

func logCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "log",
		Short: "Show how the last run ended that came back to this system",
		Long: `Shows the record and the log that a failed run has left in this system. A run that
succeeded has left them in the new system, in the log_dir of its configuration
(/var/log/reimager by default).`,
		RunE: func(c *cobra.Command, _ []string) error {
			last, err := report.ReadFile(reportFile)
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, report.ErrNoReport) {
				return report.Hint(errors.New("no failed run has come back to this system"), "of a run that succeeded see record.json and reimager.log in the log_dir of its configuration")
			}
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			if asJSON {
				e := json.NewEncoder(out)
				e.SetIndent("", "  ")
				return e.Encode(last.Record)
			}
			fmt.Fprintf(out, "run %s %s at %s: %s\n", last.Record.RunID, last.Record.Outcome, last.Record.Stage, last.Record.Error)
			for _, h := range last.Record.Hints {
				fmt.Fprintf(out, "hint: %s\n", h)
			}
			_, err = fmt.Fprintf(out, "\n%s", last.Log)
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "the record alone, as JSON")
	return c
}
