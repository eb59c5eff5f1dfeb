// Command reimager runs on the machine: it arms it to replace its operating system
// at the next boot, takes that back, and shows how the last run ended.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"reimager/boot"
	"reimager/cli"
)

// version is set by the linker.
var version = "unknown"

// thawGuard is the hidden argument by which arm starts the process that thaws a
// frozen filesystem in any case.
const thawGuard = "thaw-guard"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 1 && args[0] == thawGuard {
		if err := boot.RunThawGuard(); err != nil {
			fmt.Fprintf(stderr, "reimager: %v\n", err)
			return cli.Failed
		}
		return cli.Done
	}
	root := &cobra.Command{
		Use:   "reimager",
		Short: "Replace the operating system of this machine",
		Long: `reimager replaces the whole operating system on this machine's disk at its next
boot, and gives the machine its own files back.

  reimager check DIR           can it be done?
  reimager arm --reboot DIR    do it now
  reimager arm DIR             do it at the next boot, whenever that is
  reimager disarm              don't
  reimager status              armed? rehearsed? failed? done? what was kept?
  reimager log                 the log of the last run
  reimager report              deliver its record to where [report] says
  reimager retained            what would be kept of this machine?
  reimager hardware            what drivers does this machine need?
  reimager write IMAGE DISK    write an image to another disk by hand
  reimager cat IMAGE           decode an image

Exit status: 0 done, 1 failed, 2 wrong usage; status has some of its own.`,
		Version: version,
		RunE: func(*cobra.Command, []string) error {
			return cli.Usagef("no command given; see reimager --help")
		},
	}
	root.AddCommand(checkCommand(), armCommand(), disarmCommand(), logCommand(), statusCommand(), reportCommand(), retainedCommand(), hardwareCommand(), captureCommand(), restoreCommand(), writeCommand(), catCommand())
	return cli.Execute(root, args, stdout, stderr)
}
