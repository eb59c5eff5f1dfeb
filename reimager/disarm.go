package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"reimager/boot"
	"reimager/report"
)

func disarmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "disarm",
		Short: "Take back what arm did",
		Long: `Takes back what "reimager arm" did: GRUB's next_entry, the entry in custom.cfg,
and the files in /boot/reimager. A report that a failed run has left stays. On a
machine that is not armed it does nothing.`,
		RunE: func(c *cobra.Command, _ []string) error {
			grub, err := boot.FindGRUB("/")
			if err != nil {
				return err
			}
			unlock, err := lock(grub)
			if err != nil {
				return err
			}
			defer unlock()
			if err := disarm(grub); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "disarmed: the next boot is an ordinary one")
			return nil
		},
	}
}

// disarm does all that it can, next_entry first: it is what arms.
func disarm(grub *boot.GRUB) error {
	guard := boot.SelfGuard(thawGuard)
	all := []error{grub.ClearNextEntry(entryID), grub.RemoveEntry(), boot.Settle(grub.Dir(), guard)}
	all = append(all, os.RemoveAll(filepath.Join(filepath.Dir(grub.Dir()), bootFolder)))
	if _, err := report.ReadFile(reportFile); errors.Is(err, report.ErrNoReport) {
		all = append(all, os.Remove(reportFile))
	}
	return errors.Join(append(all, boot.Settle(grub.Dir(), guard))...)
}
