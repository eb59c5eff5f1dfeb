package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"regexp"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"reimager/cli"
	"reimager/image"
	"reimager/prove"
)

func proveCommand() *cobra.Command {
	var o prove.Options
	var keys []string
	var diskSize, memory string
	var asJSON bool
	c := &cobra.Command{
		Use:   "prove RELEASE/",
		Short: "Replace a machine in QEMU with a release, and boot it",
		Long: `Shows before anything is shipped that a release works: a machine in QEMU is replaced
by the release's own kernel and initrd, and boots its new system.

The release is verified first; nothing that is not verified boots. The machine stands
in for a real one: a disk with an old system as the configuration in the initrd names
it, and with what the retention list requires, made up, some of it a user's whose
numbers differ in the new system. The initrd gets it as "reimager arm" would leave it.
Afterwards the disk is read from here, without mounting it: sector 0, what lies outside
filesystems, the run's record, and every retained file with content and owner (on XFS
and btrfs init's own comparison has to do). Then the disk boots by its own boot loader,
until the new system has mounted its root for writing or shows a login prompt; --expect
names a text on the serial console instead.

It needs neither root nor KVM; without KVM it is slow. Without --key the keys in the
release's own initrd are taken, as its machines will.

It takes qemu-system-x86, fdisk and e2fsprogs, and ovmf for an image that only UEFI can
boot; and disk space for the release twice and for the machine's disk (in $TMPDIR, or
in --output).`,
		Example: `  imagebuild prove release/ --key fleet.pub --expect "kiosk is up"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			o.Release = args[0]
			var err error
			if o.DiskBytes, err = parseSize("disk-size", diskSize); err != nil {
				return err
			}
			if o.MemoryBytes, err = parseSize("memory", memory); err != nil {
				return err
			}
			if o.Timeout <= 0 {
				return cli.Usagef("--timeout %s: expected more than nothing", o.Timeout)
			}
			if o.Keys, err = image.ReadKeys(keys); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
			defer stop()
			o.Report = cli.Reporter(c.ErrOrStderr())
			defer o.Report.Flush()
			result, err := prove.Run(ctx, o)
			if asJSON {
				return errors.Join(err, json.NewEncoder(c.OutOrStdout()).Encode(result))
			}
			return errors.Join(err, printResult(result, c.OutOrStdout()))
		},
	}
	f := c.Flags()
	f.StringArrayVar(&keys, "key", nil, "a trusted minisign public key file; may be given several times")
	f.StringVar(&diskSize, "disk-size", "", "the machine's disk, as 8G (default: as large as the release needs)")
	f.StringVar(&memory, "memory", "", "the machine's memory, as 512M (default: what the release needs, and 1G for the new system)")
	f.StringVar(&o.Expect, "expect", "", "a text on the serial console that says that the new system is up")
	f.DurationVar(&o.Timeout, "timeout", 10*time.Minute, "how long each of the two boots may take")
	f.StringVar(&o.Output, "output", "", "a directory for the consoles' logs and the last screen (default: a temporary one, kept only after a failure)")
	f.BoolVar(&asJSON, "json", false, "print the result as JSON")
	return c
}

// parseSize reads "512M" or "8G"; "" is 0.
func parseSize(flag, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	m := regexp.MustCompile(`^([1-9]\d{0,8})([MGT])$`).FindStringSubmatch(text)
	if m == nil {
		return 0, cli.Usagef("--%s %s: expected a size such as 512M or 8G", flag, text)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return 0, cli.Usagef("--%s %s: %v", flag, text, err)
	}
	return n << map[string]int{"M": 20, "G": 30, "T": 40}[m[2]], nil
}

func printResult(r *prove.Result, out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "release\t%s\n", r.Release)
	if r.Machine != "" {
		fmt.Fprintf(t, "machine\t%s\n", r.Machine)
	}
	for _, s := range r.Steps {
		switch {
		case !s.Passed:
			fmt.Fprintf(t, "%s\tFAILED\n", s.Name)
		case s.Seconds > 0:
			fmt.Fprintf(t, "%s\t%.1f s, %s\n", s.Name, s.Seconds, s.Detail)
		default:
			fmt.Fprintf(t, "%s\t%s\n", s.Name, s.Detail)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, w := range r.Warnings {
		if _, err := fmt.Fprintf(out, "warning: %s\n", w); err != nil {
			return err
		}
	}
	return nil
}
