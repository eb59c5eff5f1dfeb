package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"reimager/cli"
	"reimager/disk"
	"reimager/image"
	"reimager/imaging"
	"reimager/report"
)

// writeOptions are the options of reimager write.
type writeOptions struct {
	yes, verify, prove, asJSON bool
	unmapped, blockMap, sha256 string
	keys, keep                 []string
	workers                    int
}

// written is what reimager write --json prints.
type written struct {
	Image       string  `json:"image"`
	Release     string  `json:"release,omitempty"`
	SignedBy    string  `json:"signed_by,omitempty"`
	Format      string  `json:"format"`
	Target      string  `json:"target"`
	ImageBytes  int64   `json:"image_bytes"`
	Written     int64   `json:"written_bytes"`
	ReadBack    bool    `json:"read_back"`
	WriteTime   float64 `json:"write_seconds"`
	CompareTime float64 `json:"read_back_seconds,omitempty"`
}

func writeCommand() *cobra.Command {
	var o writeOptions
	c := &cobra.Command{
		Use:   "write RELEASE|IMAGE TARGET",
		Short: "Write an image to a disk by hand",
		Long: `Writes a release or a compressed image (bzip2, zstd, gzip, xz or raw, known by its
content; "-" is the standard input) to a disk that nobody uses, or to a file that
exists, with the same code that replaces an operating system.

Of a release, each range is compared with its digest in the signed block map before
it is written; ranges that the map leaves out are not written. Everything is read
back past the page cache. What makes a disk bootable, the first sector and the headers of
a GPT, is cleared first and written last: a write that was interrupted leaves no disk
that only looks whole.`,
		Example: `  reimager write release/ /dev/sdb --key fleet.pub
  reimager write disk.img.bz2 /dev/disk/by-id/usb-Generic_42 --yes
  curl https://example.org/disk.img.zst | reimager write - /dev/sdb --yes`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			switch imaging.Unmapped(o.unmapped) {
			case imaging.Leave, imaging.Discard, imaging.Zero:
			default:
				return cli.Usagef("--unmapped %s: expected leave, discard or zero", o.unmapped)
			}
			ctx, stop := signal.NotifyContext(c.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			return o.run(ctx, args[0], args[1], c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.BoolVarP(&o.yes, "yes", "y", false, "do not ask before the target is destroyed")
	f.BoolVar(&o.verify, "verify", true, "read everything back and compare")
	f.BoolVar(&o.prove, "prove", false, "decode and check all of the image before anything is written; needs a second pass over it")
	f.StringVar(&o.unmapped, "unmapped", "leave", "what lies outside the image or its block map: leave, discard or zero")
	f.StringArrayVar(&o.keep, "keep", nil, "OFFSET+BYTES: never touch this part of the target; may be given several times")
	f.StringVar(&o.blockMap, "map", "", "a .bmap file for an image that is not in a release")
	f.StringVar(&o.sha256, "sha256", "", "SHA-256 of the compressed image, in hexadecimal; a file is proven by it first, the standard input at its end")
	f.StringArrayVar(&o.keys, "key", nil, "a minisign public key file: the image, which is proven first, or the release has to be signed by one of these")
	f.IntVar(&o.workers, "workers", min(4, runtime.NumCPU()), "how many processors decode; each takes some 25 MiB of memory")
	f.BoolVar(&o.asJSON, "json", false, "print the result as JSON")
	return c
}

func (o *writeOptions) run(ctx context.Context, name, target string, stdout, stderr io.Writer) error {
	limitMemory(o.workers)
	keep, err := parseKeep(o.keep)
	if err != nil {
		return err
	}
	in, err := o.input(name)
	if err != nil {
		return err
	}
	defer func() { in.Close() }()
	dev, what, err := openTarget(target)
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := fits(in, name, target, dev, what); err != nil {
		return err
	}
	if !o.yes {
		if err := confirm(name, what, stderr); err != nil {
			return err
		}
	}
	r := cli.Reporter(stderr)
	defer r.Flush()
	if in.Release != nil && in.SignedBy == nil {
		r.Printf("warning: nobody's signature on the release was checked; give the public key with --key")
	}
	result := &written{Image: name, Target: dev.Path(), ReadBack: o.verify}
	if in.Release != nil {
		result.Release = in.Release.Manifest.String()
	}
	if in.SignedBy != nil {
		result.SignedBy = in.SignedBy.ID()
	}
	// A digest or signature over a bare image is known to be right when all of it was read.
	judged := in.Release == nil && in.Bytes >= 0 && (o.sha256 != "" || len(o.keys) > 0)
	if o.prove || judged || in.Map != nil && in.Map.CheckFine() != nil {
		if in, err = o.proven(ctx, in, dev, r); err != nil {
			return fmt.Errorf("%w; nothing was written", err)
		}
	}
	if err := o.write(ctx, in, dev, keep, r, result); err != nil {
		return err
	}
	if o.asJSON {
		return json.NewEncoder(stdout).Encode(result)
	}
	_, err = fmt.Fprintf(stdout, "%s: %s of %s written%s\n", dev.Path(), disk.Size(result.Written), disk.Size(result.ImageBytes), map[bool]string{true: ", read back and the same"}[o.verify])
	return err
}

// fits refuses what is known not to, before anything is asked or written.
func fits(in *image.Input, name, target string, dev *disk.Device, what string) error {
	if in.Release != nil {
		if err := in.Release.Manifest.CheckDisk(what, dev.Bytes(), dev.SectorSize()); err != nil {
			return err
		}
	}
	if in.Map != nil && in.Map.Bytes > dev.Bytes() {
		return report.Hint(fmt.Errorf("write %s: it has %d bytes, the image %d", dev.Path(), dev.Bytes(), in.Map.Bytes), "use a smaller image, or a larger disk")
	}
	from, err1 := os.Stat(name)
	to, err2 := os.Stat(target)
	if err1 == nil && err2 == nil && os.SameFile(from, to) {
		return fmt.Errorf("write %s: it is the image itself", target)
	}
	return nil
}

// limitMemory keeps garbage from piling up: what is in use is bounded, and a limit
// costs less than collecting all the time.
func limitMemory(workers int) {
	const base, perWorker = 40 << 20, 24 << 20
	debug.SetMemoryLimit(int64(base + perWorker*workers))
}

func (o *writeOptions) input(name string) (*image.Input, error) {
	keys, err := image.ReadKeys(o.keys)
	if err != nil {
		return nil, err
	}
	options := image.InputOptions{Keys: keys, Map: o.blockMap}
	if o.sha256 != "" {
		options.SHA256 = &image.Digest{}
		if err := options.SHA256.UnmarshalText([]byte(o.sha256)); err != nil {
			return nil, cli.Usagef("--sha256: %v", err)
		}
	}
	return image.OpenInput(name, options)
}

// proven reads the image once to its end and opens it anew.
func (o *writeOptions) proven(ctx context.Context, in *image.Input, dev *disk.Device, r *report.Reporter) (*image.Input, error) {
	if in.Name == "-" {
		return in, report.Hint(errors.New("prove image: the standard input can be read only once"), "use a file, or a map of imagebuild pack")
	}
	src, err := image.Decode(in, o.workers)
	if err != nil {
		return in, err
	}
	bar := r.Progress("prove", imageBytes(in))
	m, err := imaging.Prove(ctx, src, in.Map, dev.Bytes(), bar.Add)
	if err := errors.Join(err, src.Close()); err != nil {
		return in, fmt.Errorf("prove image %s: %w", in.Name, err)
	}
	bar.Done()
	if err := in.Close(); err != nil {
		return in, err
	}
	again, err := o.input(in.Name)
	if err != nil {
		return in, err
	}
	again.Map = m
	return again, nil
}

func imageBytes(in *image.Input) int64 {
	if in.Map == nil {
		return 0
	}
	return in.Map.Bytes
}

// write writes, reads back, and only then makes the target bootable.
func (o *writeOptions) write(ctx context.Context, in *image.Input, dev *disk.Device, keep []image.Extent, r *report.Reporter, result *written) error {
	src, err := in.Decode(o.workers)
	if err != nil {
		return err
	}
	result.Format = string(src.Format)
	if src.Format == image.Raw && in.Bytes > dev.Bytes() {
		return errors.Join(report.Hint(fmt.Errorf("write %s: it has %d bytes, the image %d", dev.Path(), dev.Bytes(), in.Bytes), "use a smaller image, or a larger disk"), src.Close())
	}
	start := time.Now()
	job := imaging.Job{
		Device: dev, Source: src, Map: in.Map, Unmapped: imaging.Unmapped(o.unmapped), Keep: keep, NoDigests: !o.verify,
		Warn: func(err error) { r.Printf("warning: %v", err) },
	}
	var bar *report.Progress
	if in.Map != nil {
		bar = r.Progress("write", in.Map.MappedBytes())
		job.Progress = bar.Add
	} else { // how long the image is nobody knows, but how much of the file is read
		bar = r.Progress("read", max(0, in.Bytes))
		in.Progress = bar.Add
	}
	if err := job.Check(); err != nil {
		return errors.Join(err, src.Close())
	}
	done, err := imaging.WriteWhole(ctx, job, func(done *imaging.Result) error {
		bar.Done()
		result.WriteTime = time.Since(start).Seconds()
		if !o.verify {
			return nil
		}
		start = time.Now()
		bar = r.Progress("compare", done.Map.MappedBytes())
		if err := imaging.ReadBack(ctx, dev, done.Map, done.Held, bar.Add); err != nil {
			return err
		}
		bar.Done()
		result.CompareTime = time.Since(start).Seconds()
		return nil
	})
	if err := errors.Join(err, src.Close()); err != nil {
		return fmt.Errorf("%w\n%s holds only some of the image now, and does not boot", err, dev.Path())
	}
	result.ImageBytes, result.Written = done.Map.Bytes, done.Bytes
	if dev.IsDisk() {
		if err := dev.Reread(ctx); err != nil && !errors.Is(err, disk.ErrNotPartitioned) {
			r.Printf("warning: %v", err) // what was written is whole; only this kernel does not see it yet
		}
	}
	return nil
}

// parseKeep reads OFFSET+BYTES.
func parseKeep(specs []string) ([]image.Extent, error) {
	var keep []image.Extent
	for _, spec := range specs {
		a, b, _ := strings.Cut(spec, "+")
		off, err1 := strconv.ParseInt(a, 10, 64)
		n, err2 := strconv.ParseInt(b, 10, 64)
		if err1 != nil || err2 != nil || off < 0 || n <= 0 || off+n < 0 {
			return nil, cli.Usagef("--keep %s: expected OFFSET+BYTES, both in bytes", spec)
		}
		keep = append(keep, image.Extent{Off: off, Bytes: n})
	}
	return keep, nil
}

// confirm asks before a target is destroyed. A script has to say --yes.
func confirm(name, what string, w io.Writer) error {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return report.Hint(cli.Usagef("write %s: this destroys all that is on %s, and there is no terminal to ask on", name, what), "give --yes")
	}
	fmt.Fprintf(w, "Everything on %s will be destroyed.\nType yes to go on: ", what)
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil && err != io.EOF {
		return fmt.Errorf("read answer: %w", err)
	}
	if strings.TrimSpace(answer) != "yes" {
		return errors.New("not confirmed; nothing was written")
	}
	return nil
}
