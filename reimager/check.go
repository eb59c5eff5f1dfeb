package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"reimager/check"
	"reimager/cli"
	"reimager/image"
	"reimager/report"
)

// keyHelp explains --key, which check and arm have.
const keyHelp = "a minisign public key file: the release has to be signed by one of these (default: by one that its own initrd trusts, which says nothing of where it came from)"

func checkCommand() *cobra.Command {
	var keys []string
	var asJSON, kexec bool
	c := &cobra.Command{
		Use:   "check [RELEASE]",
		Short: "Show what can be known before the reboot",
		Long: `Checks everything that can be known before this machine is armed with the release in
the directory RELEASE, and changes nothing: signature and digests, whether it is for
this machine, the disk and what is on it, memory, what is kept, drivers, boot loader,
firmware, power. Without RELEASE, what is to be known of the machine alone.

Each line is a check: pass, warn (read it) or fail (arm refuses). The second column is
the name by which "reimager arm --force" knows it.

Exit status: 0 nothing failed, 1 something did, 2 wrong usage.`,
		Args: cobra.MatchAll(cobra.MaximumNArgs(1), notEmpty),
		RunE: func(c *cobra.Command, args []string) error {
			if err := onlyRoot("check"); err != nil {
				return err
			}
			o := check.Options{Kexec: kexec}
			if len(args) == 1 {
				o.Release = args[0]
			}
			var err error
			if o.Keys, err = image.ReadKeys(keys); err != nil {
				return err
			}
			out := c.OutOrStdout()
			if o.Release != "" && !asJSON {
				fmt.Fprintf(out, "reading %s\n", o.Release)
			}
			x := check.Examine(c.Context(), o)
			if asJSON {
				err = x.Results.JSON(out)
			} else {
				err = x.Results.Print(out, cli.Width(out))
				fmt.Fprintf(out, "\n%s\n", x.Results.Summary())
			}
			if x.Results.Count(check.Fail) > 0 {
				err = errors.Join(err, errors.New("check: this machine cannot be armed as it is"))
			}
			return err
		},
	}
	c.Flags().StringArrayVar(&keys, "key", nil, keyHelp)
	c.Flags().BoolVar(&kexec, "kexec", false, "for arm --kexec, which needs no GRUB")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

func onlyRoot(what string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return report.Hint(fmt.Errorf("%s: only root can", what), "run it with sudo")
}

// notEmpty refuses an empty argument: an unset variable in a script is no release, and
// no check without one.
func notEmpty(_ *cobra.Command, args []string) error {
	if slices.Contains(args, "") {
		return errors.New("an empty argument; expected the directory of a release")
	}
	return nil
}
