package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"reimager/cli"
	"reimager/image"
	"reimager/report"
)

func catCommand() *cobra.Command {
	var o writeOptions
	c := &cobra.Command{
		Use:   "cat RELEASE|IMAGE",
		Short: "Decode an image to the standard output",
		Long: `Decodes a release's image, or a compressed image (bzip2, zstd, gzip, xz or raw, known
by its content; "-" is the standard input), with the decoders that a run uses. Into a
file runs of zeros become holes. An image that is damaged, or goes on behind its end,
is an error that says where.`,
		Example: `  reimager cat disk.img.bz2 > disk.img
  reimager cat release/ | sha256sum`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			limitMemory(o.workers)
			in, err := o.input(args[0])
			if err != nil {
				return err
			}
			return errors.Join(cat(in, o.workers, c.OutOrStdout()), in.Close())
		},
	}
	f := c.Flags()
	f.StringVar(&o.sha256, "sha256", "", "SHA-256 of the compressed image, in hexadecimal")
	f.StringArrayVar(&o.keys, "key", nil, "a minisign public key file: the image or release has to be signed by one of these")
	f.IntVar(&o.workers, "workers", runtime.NumCPU(), "how many processors decode; each takes some 25 MiB of memory")
	return c
}

func cat(in *image.Input, workers int, w io.Writer) error {
	out := &holes{w: w}
	if f, ok := w.(*os.File); ok {
		if term.IsTerminal(int(f.Fd())) {
			return report.Hint(cli.Usagef("cat %s: this would fill the terminal with a disk image", in.Name), "redirect it: > disk.img")
		}
		out.find(f)
	}
	src, err := image.Decode(in, workers)
	if err != nil {
		return err
	}
	return errors.Join(out.copy(src), src.Close())
}

// holes writes an image; where zeros are the end of a file they are left out.
type holes struct {
	w    io.Writer
	file *os.File // nil: not a file that ends where we write
	zero []byte
}

// find tells whether f is a file that ends where it stands: only there does what is
// skipped read as zeros.
func (h *holes) find(f *os.File) {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return
	}
	// What is appended goes to the end of the file, wherever one has sought to.
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_APPEND != 0 {
		return
	}
	if at, err := f.Seek(0, io.SeekCurrent); err == nil && at == info.Size() {
		h.file = f
	}
}

func (h *holes) copy(src *image.Decoder) error {
	buf := make([]byte, 1<<20)
	for {
		c, err := src.Next(buf)
		if err == io.EOF {
			return h.end()
		}
		if err != nil {
			return err
		}
		if len(c.Data) > 0 {
			_, err = h.w.Write(c.Data)
		} else {
			err = h.zeros(c.Zeros)
		}
		if err != nil {
			return fmt.Errorf("write decoded image: %w", err)
		}
	}
}

func (h *holes) zeros(n int64) error {
	if h.file != nil {
		_, err := h.file.Seek(n, io.SeekCurrent)
		return err
	}
	if h.zero == nil {
		h.zero = make([]byte, 1<<20)
	}
	for n > 0 {
		k := min(n, int64(len(h.zero)))
		if _, err := h.w.Write(h.zero[:k]); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// end gives the file its length if it ends in a hole.
func (h *holes) end() error {
	if h.file == nil {
		return nil
	}
	at, err := h.file.Seek(0, io.SeekCurrent)
	if err == nil {
		err = h.file.Truncate(at)
	}
	if err != nil {
		return fmt.Errorf("write decoded image: %w", err)
	}
	return nil
}
