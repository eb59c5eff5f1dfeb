package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

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
	folder := folderOf(grub)
	for _, name := range []string{filepath.Join(folder, kernelName), filepath.Join(folder, initrdName), filepath.Join(folder, jobName), folder} {
		// A folder with files of somebody else's stays.
		if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			all = append(all, err)
		}
	}
	if _, err := report.ReadFile(reportFile); errors.Is(err, report.ErrNoReport) {
		all = append(all, os.Remove(reportFile))
	}
	return errors.Join(append(all, boot.Settle(grub.Dir(), guard))...)
}
