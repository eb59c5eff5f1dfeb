package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"reimager/cli"
	"reimager/disk"
	"reimager/image"
	"reimager/pack"
)

func packCommand() *cobra.Command {
	var o pack.Options
	var format, key, passwordFile string
	var asJSON bool
	c := &cobra.Command{
		Use:   "pack DISK -o RELEASE/",
		Short: "Pack a disk image into a release",
		Long: `Makes a release out of a raw disk image: the compressed image, a block map of what
in it carries data, and a manifest that says what it is and whom it fits, which is
signed. What ext2/3/4, XFS, btrfs and swap do not use is left out of the map and
travels as zeros; a filesystem that was not cleanly unmounted, or is not known, and
all that lies outside filesystems is mapped whole.

An image that is compressed already (bzip2, zstd, gzip, xz) is taken byte for byte.

zst is 4 to 9% smaller than bzip2 -9 and is decoded faster. bz2 is some 5% larger
than what bzip2 -9 or lbzip2 -9 make of the same disk; an image that one of these has
made is taken as it is. Each processor takes up to 130 MiB of memory.`,
		Example: `  imagebuild pack disk.img -o release/ --name kiosk --version 13.1 \
      --kernel vmlinuz --initrd reimager.initrd --compatible kiosk-g3 --key fleet.key`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			o.Disk = args[0]
			if o.Output == "" {
				return cli.Usagef("--output is missing; see %s --help", c.CommandPath())
			}
			var ok bool
			if o.Format, ok = map[string]image.Format{"bz2": image.Bzip2, "zst": image.Zstd}[format]; !ok {
				return cli.Usagef("--format %s: expected bz2 or zst", format)
			}
			if o.Name == "" {
				o.Name = strings.SplitN(filepath.Base(o.Disk), ".", 2)[0]
			}
			if !c.Flag("counter").Changed {
				var err error
				if o.Counter, err = buildTime(); err != nil {
					return err
				}
			}
			if o.Version == "" {
				o.Version = strconv.FormatInt(o.Counter, 10)
			}
			if o.Workers < 1 {
				return cli.Usagef("--workers %d: expected at least 1", o.Workers)
			}
			if key != "" {
				secret, err := readSecretKey(key, passwordFile)
				if err != nil {
					return err
				}
				o.Sign = secret.sign
			}
			ctx, stop := signal.NotifyContext(c.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
			defer stop()
			return packRelease(ctx, o, asJSON, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.StringVarP(&o.Output, "output", "o", "", "the release directory to make")
	f.StringVar(&format, "format", "zst", "how to compress a raw image: zst or bz2")
	f.StringVar(&o.Kernel, "kernel", "", "the kernel that will boot the initrd")
	f.StringVar(&o.Initrd, "initrd", "", "the initrd, of imagebuild initrd")
	f.StringVar(&o.Name, "name", "", "name of the release (default: that of the image)")
	f.StringVar(&o.Version, "version", "", "version of the release (default: its counter)")
	f.Int64Var(&o.Counter, "counter", 0, "a number that grows with each release (default: SOURCE_DATE_EPOCH, or now, in seconds since 1970)")
	f.StringArrayVar(&o.Compatible, "compatible", nil, "a kind of machine that it fits; may be given several times")
	f.StringVar(&key, "key", "", "the secret key to sign with, of imagebuild keygen or minisign -G")
	f.StringVar(&passwordFile, "password-file", "", "a file whose first line is the password of the secret key (default: ask)")
	f.IntVar(&o.Workers, "workers", runtime.NumCPU(), "how many processors compress")
	f.BoolVar(&asJSON, "json", false, "print the manifest")
	return c
}

// buildTime is now, or what a reproducible build says it is:
// https://reproducible-builds.org/specs/source-date-epoch/
func buildTime() (int64, error) {
	text, ok := os.LookupEnv("SOURCE_DATE_EPOCH")
	if !ok {
		return time.Now().Unix(), nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("read SOURCE_DATE_EPOCH=%q: expected seconds since 1970", text)
	}
	return n, nil
}

func packRelease(ctx context.Context, o pack.Options, asJSON bool, stdout, stderr io.Writer) error {
	o.Report = cli.Reporter(stderr)
	defer o.Report.Flush()
	done, err := pack.Pack(ctx, o)
	if err != nil {
		return err
	}
	if asJSON {
		text, err := done.Manifest.Encode()
		if err != nil {
			return err
		}
		_, err = stdout.Write(text)
		return err
	}
	m := done.Manifest
	t := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	for _, p := range done.Partitions {
		what := fmt.Sprintf("%s free and left out", disk.Size(p.FreeBytes))
		if p.Whole != "" {
			what = p.Whole
		}
		kind := p.Filesystem.Type
		if kind == "" {
			kind = "unknown"
		}
		fmt.Fprintf(t, "partition %d\t%s\t%s\t%s\n", p.Number, kind, disk.Size(p.Bytes), what)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, missing := range m.System.Missing {
		fmt.Fprintf(stdout, "not known: %s\n", missing)
	}
	fmt.Fprintf(stdout, "%s: %s\n", o.Output, summary(m))
	if o.Sign == nil {
		fmt.Fprintf(stdout, "not signed: give --key, or run minisign -S -H -m %s\n", filepath.Join(o.Output, image.ManifestName))
	}
	return nil
}

// summary is a release in one line.
func summary(m *image.Manifest) string {
	return fmt.Sprintf("%s, counter %d: %s of %s in %s of %s", m, m.Counter, disk.Size(m.Image.MappedBytes), disk.Size(m.Image.RawBytes), disk.Size(m.Image.Bytes), m.Image.Format)
}
