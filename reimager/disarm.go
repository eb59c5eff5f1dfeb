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
		Long: `Takes back what "reimager arm" did: GRUB's next_entry, the entry in custom.cfg, a
kernel that was loaded for kexec, and the files in /boot/reimager. A report that a
failed run has left stays, and so does the record of a rehearsal. On a machine that
is not armed it does nothing.`,
		RunE: func(c *cobra.Command, _ []string) error {
			// A machine may have been armed for kexec without any GRUB.
			grub, err := boot.FindGRUB("/")
			if _, armed := os.Stat(folderOf(nil)); err != nil && armed != nil {
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

// unarm ends an arming and leaves its files.
func unarm(grub *boot.GRUB) error {
	var all []error
	if _, err := os.Stat(filepath.Join(folderOf(grub), jobName)); err == nil {
		// With a job of ours what is loaded is ours, too.
		all = append(all, boot.UnloadKexec())
	}
	if grub != nil {
		all = append(all, grub.ClearNextEntry(entryID), grub.RemoveEntry(), grub.Settle(boot.SelfGuard(thawGuard)))
	}
	return errors.Join(all...)
}

// disarm does all that it can, and first what arms.
func disarm(grub *boot.GRUB) error {
	all := []error{unarm(grub)}
	folder := folderOf(grub)
	for _, name := range []string{gateName, kernelName, initrdName, jobName, "."} {
		// A folder with files of somebody else's stays.
		if err := os.Remove(filepath.Join(folder, name)); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			all = append(all, err)
		}
	}
	if _, err := report.ReadFile(reportFile); errors.Is(err, report.ErrNoReport) {
		all = append(all, os.Remove(reportFile))
	}
	all = append(all, removeReporter())
	return errors.Join(append(all, boot.Settle(filepath.Dir(folder), boot.SelfGuard(thawGuard)))...)
}
