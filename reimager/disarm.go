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
	"reimager/check"
)

func disarmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "disarm",
		Short: "Take back what arm did",
		Long: `Takes back what "reimager arm" did: GRUB's next_entry, the entry in custom.cfg or the
boot loader entry, a kernel that was loaded for kexec, the files in /boot/reimager, the
report file that no run has touched, and reimager-report.service.

What stays: a report that a run has left, which is put back if arm had set it aside; the
record of a rehearsal; the reporter while it has a record to deliver. On a machine that
is not armed it does nothing.`,
		RunE: func(c *cobra.Command, _ []string) error {
			// A machine may have been armed for kexec without any GRUB.
			grub, err := boot.FindGRUB("/")
			if _, armed := os.Stat(folderOf(nil)); err != nil && armed != nil {
				if !errors.Is(err, boot.ErrNoGRUB) {
					return err
				}
				fmt.Fprintln(c.OutOrStdout(), "nothing to disarm: this machine has no GRUB, and nothing of an arming is here")
				return errors.Join(takeBack(reportFile), removeReporter())
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
	all := []error{dropRehearsal(folderOf(grub), reportFile, check.RehearsalPath)}
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
	folder := folderOf(grub)
	all := []error{unarm(grub), removeLeftovers(folder)}
	for _, name := range []string{gateName, kernelName, initrdName, jobName, "."} {
		// A folder with files of somebody else's stays.
		if err := os.Remove(filepath.Join(folder, name)); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			all = append(all, err)
		}
	}
	all = append(all, takeBack(reportFile), removeReporter())
	return errors.Join(append(all, boot.Settle(filepath.Dir(folder), boot.SelfGuard(thawGuard)))...)
}
