package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"reimager/cli"
	"reimager/image"
	"reimager/initrd"
	"reimager/report"
)

// verdict is what imagebuild verify prints as JSON.
type verdict struct {
	Release  string   `json:"release"`
	Counter  int64    `json:"counter"`
	SignedBy string   `json:"signed_by,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

func verifyCommand() *cobra.Command {
	var keys []string
	var asJSON bool
	c := &cobra.Command{
		Use:   "verify RELEASE/",
		Short: "Check all of a release",
		Long: `Checks a release as a machine will, and more: the signature on the manifest, the
digests of all files, every range of the decoded image against the block map, the
digest of the decoded image, and that kernel and initrd belong together.

Without --key the keys in the release's own initrd are taken: that shows that its
machines will accept it, not that it is yours.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
			defer stop()
			r := cli.Reporter(c.ErrOrStderr())
			defer r.Flush()
			v, err := verify(ctx, args[0], keys, r)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(v)
			}
			for _, w := range v.Warnings {
				fmt.Fprintf(c.OutOrStdout(), "warning: %s\n", w)
			}
			signed := "not signed"
			if v.SignedBy != "" {
				signed = "signed by " + v.SignedBy
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %s, counter %d, is whole; %s\n", args[0], v.Release, v.Counter, signed)
			return err
		},
	}
	c.Flags().StringArrayVar(&keys, "key", nil, "a trusted minisign public key file; may be given several times")
	c.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	return c
}

func verify(ctx context.Context, dir string, keyFiles []string, r *report.Reporter) (*verdict, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open release: %w", err)
	}
	defer root.Close()
	if !image.IsRelease(root) {
		return nil, report.Hint(fmt.Errorf("open release %s: there is no %s in it", dir, image.ManifestName), "name a release of imagebuild pack")
	}
	v := &verdict{}
	trust := image.Trust{Unsigned: len(keyFiles) == 0, Unchecked: true}
	if trust.Keys, err = image.ReadKeys(keyFiles); err != nil {
		return nil, err
	}
	release, err := image.OpenRelease(root, trust)
	if err != nil {
		return nil, err
	}
	m := release.Manifest
	v.Release, v.Counter = m.String(), m.Counter
	if err := v.initrd(dir, release, &trust); err != nil {
		return nil, err
	}
	if len(keyFiles) == 0 && len(trust.Keys) > 0 { // those of the initrd
		if err := release.Judge(trust); err != nil {
			return nil, err
		}
	}
	switch {
	case release.SignedBy != nil:
		v.SignedBy = release.SignedBy.ID()
	case len(trust.Keys) == 0:
		v.warn("no key is known to check a signature with: give --key")
	default:
		v.warn("the manifest is not signed")
	}
	if err := v.strangers(dir, m); err != nil {
		return nil, err
	}
	return v, decodeAll(ctx, release, r)
}

func (v *verdict) warn(format string, args ...any) {
	v.Warnings = append(v.Warnings, fmt.Sprintf(format, args...))
}

// initrd checks kernel and initrd, and takes the initrd's keys where none are given.
func (v *verdict) initrd(dir string, release *image.Release, trust *image.Trust) error {
	m := release.Manifest
	if m.Kernel == nil || m.Initrd == nil {
		v.warn("there is no kernel and initrd in it: reimager write takes it, reimager arm does not")
		return nil
	}
	for _, f := range []image.File{m.Kernel.File, m.Initrd.File} {
		if err := release.Prove(f); err != nil {
			return err
		}
	}
	in, err := initrd.Read(filepath.Join(dir, m.Initrd.Name))
	if err != nil {
		return err
	}
	kernel, err := os.Open(filepath.Join(dir, m.Kernel.Name))
	if err != nil {
		return fmt.Errorf("read kernel: %w", err)
	}
	defer kernel.Close()
	version, err := in.CheckKernel(kernel)
	if err == nil && version != m.Kernel.Version {
		err = fmt.Errorf("the kernel is %s, the manifest says %s", version, m.Kernel.Version)
	}
	if err == nil {
		err = m.CheckCompatible(in.Config.Machine.Compatible)
	}
	if err != nil {
		return fmt.Errorf("check release %s: %w", dir, err)
	}
	if len(in.Keys) == 1 {
		v.warn("the initrd trusts one key only: bake a spare, too")
	}
	if len(trust.Keys) == 0 {
		trust.Keys = in.Keys
		trust.Unsigned = in.Config.Trust.Signature == "if-present"
	}
	return nil
}

// strangers names files that the manifest does not: nobody vouches for them.
func (v *verdict) strangers(dir string, m *image.Manifest) error {
	known := []string{image.ManifestName, image.ManifestName + image.SignatureSuffix, m.Image.Name, m.Map.Name}
	if m.Kernel != nil {
		known = append(known, m.Kernel.Name)
	}
	if m.Initrd != nil {
		known = append(known, m.Initrd.Name)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read release: %w", err)
	}
	for _, e := range entries {
		if !slices.Contains(known, e.Name()) {
			v.warn("%s is not in the manifest", e.Name())
		}
	}
	return nil
}

// decodeAll holds the image against all that the release says of it.
func decodeAll(ctx context.Context, release *image.Release, r *report.Reporter) error {
	m := release.Manifest
	in, err := release.Open(m.Image.File)
	if err != nil {
		return err
	}
	src, err := image.Decode(in, runtime.NumCPU())
	if err != nil {
		return errors.Join(err, in.Close())
	}
	bar := r.Progress("verify", m.Image.RawBytes)
	pool, err := image.NewPool(runtime.NumCPU()+2, func(n int) ([]byte, error) { return make([]byte, n), nil })
	if err != nil {
		return err
	}
	whole := &zeroHash{sum: sha256.New()}
	_, err = image.Each(ctx, src, release.Map, pool, func(part image.Range) error {
		whole.add(part)
		bar.Add(int64(len(part.Data)))
		return nil
	}, release.Map.Check)
	if err == nil && src.Format != m.Image.Format {
		err = fmt.Errorf("the image is %s, the manifest says %s", src.Format, m.Image.Format)
	}
	if err == nil && whole.digest() != m.Image.RawSHA256 {
		err = fmt.Errorf("the decoded image has the SHA-256 %s, expected %s as in the manifest", whole.digest(), m.Image.RawSHA256)
	}
	if err == nil && release.Map.MappedBytes() != m.Image.MappedBytes {
		err = fmt.Errorf("the block map has %d bytes, the manifest says %d", release.Map.MappedBytes(), m.Image.MappedBytes)
	}
	if err := errors.Join(err, src.Close(), in.Close()); err != nil {
		return fmt.Errorf("check release: %s: %w", m.Image.Name, err)
	}
	bar.Done()
	return nil
}

// zeroHash digests ranges, whose zeros are not in memory.
type zeroHash struct {
	sum  hash.Hash
	zero []byte
}

func (z *zeroHash) add(part image.Range) {
	data := part.Data
	if part.Zero {
		if z.zero == nil {
			z.zero = make([]byte, image.RangeBytes)
		}
		data = z.zero[:len(data)]
	}
	_, _ = io.Writer(z.sum).Write(data) // hash.Hash never returns an error
}

func (z *zeroHash) digest() (d image.Digest) {
	z.sum.Sum(d[:0])
	return d
}
