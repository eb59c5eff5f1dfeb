package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"reimager/cli"
	"reimager/disk"
	"reimager/image"
	"reimager/media"
)

func mediaCommand() *cobra.Command {
	var o media.Options
	var keys []string
	var params string
	var asJSON bool
	c := &cobra.Command{
		Use:   "media RELEASE/ -o STICK.IMG",
		Short: "Make the USB stick for a machine that does not boot",
		Long: `Makes a raw image of a USB stick that starts by BIOS and UEFI (Secure Boot has to be
off). Its menu starts the machine's own disk after ten seconds, unless somebody chooses
to replace its operating system by the release.

The disk is the one that the configuration in the release's initrd names, or the one
that holds the old system, or where that is lost the one fixed disk; several are
refused. What the retention list keeps comes from the old system if it is still there,
or else from --keep, an archive of "reimager capture"; else nothing is kept, and the
machine says so. It refuses whatever a run on an armed machine refuses, and holds
instead of starting again.

With --unattended it replaces without a choice, once: afterwards it starts the
machine's own disk.

It takes grub-common, grub-pc-bin, grub-efi-amd64-bin, dosfstools and mtools, and disk
space for the release twice.`,
		Example: `  imagebuild media release/ -o stick.img --keep kept.tar
  dd if=stick.img of=/dev/sdX bs=4M oflag=direct conv=fsync`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if o.Output == "" {
				return cli.Usagef("--output is missing; see %s --help", c.CommandPath())
			}
			var err error
			if o.Keys, err = image.ReadKeys(keys); err != nil {
				return err
			}
			o.Release, o.Append, o.Now = args[0], strings.Fields(params), time.Now()
			ctx, stop := signal.NotifyContext(c.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
			defer stop()
			made, err := media.Make(ctx, o)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(made)
			}
			return printStick(made, c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringVarP(&o.Output, "output", "o", "", "the image to write; mode 0600, as it may hold a machine's keys")
	f.StringVar(&o.Keep, "keep", "", "an archive of reimager capture, for a machine whose old system is lost")
	f.BoolVar(&o.Unattended, "unattended", false, "replace without a choice, once")
	f.StringArrayVar(&keys, "key", nil, "a trusted minisign public key file; may be given several times (default: the keys in the release's initrd)")
	f.StringVar(&params, "append", "", `further kernel parameters, as "console=ttyS0,115200"`)
	f.StringVar(&o.GRUB, "grub", "/usr/lib/grub", "the folder with GRUB's modules for i386-pc and x86_64-efi")
	f.BoolVar(&asJSON, "json", false, "print the result as JSON")
	return c
}

func printStick(made *media.Result, out io.Writer) error {
	signed := "not signed"
	if made.SignedBy != "" {
		signed = "signed by " + made.SignedBy
	}
	kept := ""
	if made.Kept > 0 {
		kept = fmt.Sprintf(", with %d kept files and directories", made.Kept)
	}
	fmt.Fprintf(out, "%s: %s, release %s, %s%s\n", made.Output, disk.Size(made.Bytes), made.Release, signed, kept)
	for _, w := range made.Warnings {
		fmt.Fprintf(out, "warning: %s\n", w)
	}
	_, err := fmt.Fprintf(out, "write it: dd if=%s of=/dev/sdX bs=4M oflag=direct conv=fsync\n", made.Output)
	return err
}
