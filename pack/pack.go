// Package pack makes releases: from a disk image the compressed image, its block map
// and a signed manifest, beside the kernel and initrd that will write it.
package pack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"reimager/config"
	"reimager/image"
	"reimager/initrd"
	"reimager/report"
)

// Options say what a release is to be.
type Options struct {
	Disk   string // a raw image, a disk, or an image that is compressed already
	Output string // directory to make
	// Format is image.Zstd or image.Bzip2; an image that is compressed already stays
	// as it is.
	Format     image.Format
	Kernel     string // both or neither
	Initrd     string
	Name       string
	Version    string
	Counter    int64
	Compatible []string
	Workers    int
	Report     *report.Reporter
	// Sign signs the manifest; nil leaves the release unsigned.
	Sign func(manifest *image.Manifest, text []byte) (signature []byte, err error)
}

// Result is what was packed.
type Result struct {
	Manifest   *image.Manifest
	Partitions []Partition
}

// Names of the files of a release; the image's has its format behind it.
const (
	imageName  = "image"
	mapName    = "image.bmap"
	kernelName = "kernel"
	initrdName = "initrd"
)

// Pack makes a release. The output directory appears whole or not at all.
func Pack(ctx context.Context, o Options) (_ *Result, err error) {
	if err := vacant(o.Output); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(filepath.Clean(o.Output)), ".reimager-pack-")
	if err != nil {
		return nil, fmt.Errorf("make release: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	p := &packer{Options: o, dir: dir, manifest: &image.Manifest{
		Format: image.ManifestFormat, Name: o.Name, Version: o.Version, Counter: o.Counter, Compatible: o.Compatible,
	}}
	defer func() { err = errors.Join(err, p.close()) }()
	for _, step := range []func(context.Context) error{p.addInitrd, p.open, p.addImage, p.addFacts, p.finish} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return &Result{Manifest: p.manifest, Partitions: p.layout.partitions}, p.publish()
}

// vacant refuses to write where something is.
func vacant(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && len(entries) > 0 {
		err = report.Hint(errors.New("there is something in it"), "name a new directory, or remove this one")
	}
	if err != nil {
		return fmt.Errorf("make release %s: %w", dir, err)
	}
	return nil
}

// packer is a release in the making.
type packer struct {
	Options
	dir      string
	manifest *image.Manifest

	img        *os.File // raw
	size       int64
	compressed bool // the image was already
	layout     *layout
	initrdRAM  int64
}

func (p *packer) path(name string) string { return filepath.Join(p.dir, name) }

func (p *packer) close() error {
	if p.img == nil {
		return nil
	}
	return p.img.Close()
}

// addInitrd comes first: what does not fit together is known within a second.
func (p *packer) addInitrd(context.Context) error {
	if p.Kernel == "" && p.Initrd == "" {
		return nil
	}
	if p.Kernel == "" || p.Initrd == "" {
		return errors.New("make release: kernel and initrd belong together; give both or neither")
	}
	k, err := p.copyFile(p.Kernel, kernelName)
	if err != nil {
		return err
	}
	i, err := p.copyFile(p.Initrd, initrdName)
	if err != nil {
		return err
	}
	in, err := initrd.Read(p.path(initrdName)) // what is shipped is what was looked at
	if err != nil {
		return err
	}
	kernel, err := os.Open(p.path(kernelName))
	if err != nil {
		return fmt.Errorf("read kernel: %w", err)
	}
	defer kernel.Close()
	version, err := in.CheckKernel(kernel)
	if err != nil {
		return fmt.Errorf("check kernel %s: %w", p.Kernel, err)
	}
	if err := p.manifest.CheckCompatible(in.Config.Machine.Compatible); err != nil {
		return fmt.Errorf("check initrd %s: %w", p.Initrd, err)
	}
	if in.Config.Trust.Signature == "require" && p.Sign == nil {
		p.Report.Printf("warning: the initrd takes signed releases only, and this one will not be signed: give --key, or sign %s with minisign -S -H", image.ManifestName)
	}
	p.manifest.Kernel = &image.KernelFile{File: k, Version: version}
	p.manifest.Initrd = &image.InitrdFile{File: i, RawBytes: in.RawBytes}
	p.initrdRAM = i.Bytes + in.RawBytes
	return nil
}

func (p *packer) copyFile(from, name string) (image.File, error) {
	in, err := os.Open(from)
	if err != nil {
		return image.File{}, fmt.Errorf("make release: %w", err)
	}
	defer in.Close()
	return p.write(name, func(w io.Writer) error {
		_, err := io.Copy(w, in)
		return err
	})
}

// write makes a file of the release, flushes it, and describes it.
func (p *packer) write(name string, fill func(io.Writer) error) (image.File, error) {
	out, err := os.OpenFile(p.path(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return image.File{}, fmt.Errorf("make release: %w", err)
	}
	sum := sha256.New()
	counted := &counter{}
	err = fill(io.MultiWriter(out, sum, counted))
	if err == nil {
		err = out.Sync()
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return image.File{}, fmt.Errorf("make %s: %w", name, err)
	}
	f := image.File{Name: name, Bytes: counted.n}
	sum.Sum(f.SHA256[:0])
	return f, nil
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

// open opens the raw image. One that is compressed becomes part of the release as it
// is, and is unpacked beside it to be looked into.
func (p *packer) open(ctx context.Context) error {
	in, err := os.Open(p.Disk)
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	head := make([]byte, image.HeadBytes)
	n, err := io.ReadFull(in, head)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return errors.Join(fmt.Errorf("read image %s: %w", p.Disk, err), in.Close())
	}
	format, err := image.Detect(head[:n])
	if err != nil {
		return errors.Join(fmt.Errorf("read image %s: %w", p.Disk, err), in.Close())
	}
	if format == image.Raw {
		p.img = in
		p.size, err = sizeOf(in)
		return err
	}
	return errors.Join(p.takeCompressed(ctx, in, format), in.Close())
}

func (p *packer) takeCompressed(ctx context.Context, in *os.File, format image.Format) error {
	size, err := sizeOf(in)
	if err != nil {
		return err
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read image: %w", err)
	}
	raw, err := os.OpenFile(p.path("raw"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("unpack image: %w", err)
	}
	p.img, p.compressed = raw, true
	if err := os.Remove(p.path("raw")); err != nil { // it lives as long as it is open
		return fmt.Errorf("unpack image: %w", err)
	}
	bar := p.Report.Progress("unpack", size)
	file, err := p.write(imageName+suffix(format), func(w io.Writer) error {
		_, err := unpack(ctx, io.TeeReader(in, io.MultiWriter(w, countTo(bar))), raw, p.Workers)
		return err
	})
	if err != nil {
		return fmt.Errorf("read image %s: %w", p.Disk, err)
	}
	bar.Done()
	p.manifest.Image = image.ImageFile{File: file, Format: format}
	p.size, err = sizeOf(raw)
	return err
}

// suffix is how files of a format are named.
func suffix(format image.Format) string {
	return map[image.Format]string{image.Bzip2: ".bz2", image.Gzip: ".gz", image.XZ: ".xz", image.Zstd: ".zst"}[format]
}

type writerFunc func(n int)

func (f writerFunc) Write(p []byte) (int, error) { f(len(p)); return len(p), nil }

func countTo(bar *report.Progress) io.Writer { return writerFunc(func(n int) { bar.Add(int64(n)) }) }

// addImage digests the image and, unless it is compressed already, compresses it.
func (p *packer) addImage(ctx context.Context) (err error) {
	before, err := p.img.Stat()
	if err != nil {
		return fmt.Errorf("read image: %w", err)
	}
	if p.layout, err = readLayout(ctx, p.img, p.size); err != nil {
		return fmt.Errorf("read image %s: %w", p.Disk, err)
	}
	raw := &masked{f: p.img, mapped: p.layout.mapped, end: p.size}
	if p.compressed {
		raw.mapped = []image.Extent{{Off: 0, Bytes: p.size}} // its bytes are kept, those that nobody needs, too
	}
	digester := newDigester(p.layout.mapped)
	bar := p.Report.Progress("pack", p.size)
	src := io.TeeReader(&cancellable{ctx, raw}, io.MultiWriter(digester, countTo(bar)))
	if p.compressed {
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, src, make([]byte, 1<<20))
	} else {
		p.manifest.Image.Format = p.Format
		p.manifest.Image.File, err = p.write(imageName+suffix(p.Format), func(w io.Writer) error {
			return compress(ctx, w, src, p.Format, p.Workers)
		})
	}
	if err != nil {
		return err
	}
	bar.Done()
	after, err := p.img.Stat()
	if err != nil {
		return fmt.Errorf("read image: %w", err)
	}
	// What a system that is still running allocates meanwhile is not in the map.
	if after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return report.Hint(fmt.Errorf("read image %s: it was changed while it was packed", p.Disk), "shut down what uses it, or pack a copy")
	}
	m, sum := digester.result()
	p.manifest.Image.RawBytes, p.manifest.Image.RawSHA256, p.manifest.Image.MappedBytes = m.Bytes, sum, m.MappedBytes()
	text, err := image.EncodeMap(m)
	if err != nil {
		return err
	}
	p.manifest.Map, err = p.write(mapName, func(w io.Writer) error { _, err := w.Write(text); return err })
	return err
}

// cancellable ends a long read when its context does.
type cancellable struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancellable) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// addFacts describes the new system, and what it needs of a machine.
func (p *packer) addFacts(ctx context.Context) (err error) {
	p.manifest.Disk = image.Disk{MinBytes: p.size, SectorSize: p.layout.sectorSize, Table: p.layout.table.Kind, Firmware: p.layout.firmware, EBRs: p.layout.table.EBRs}
	for _, e := range p.layout.table.Entries {
		p.manifest.Disk.Partitions = append(p.manifest.Disk.Partitions, image.Partition{Number: e.Number, Start: e.Start, Bytes: e.Bytes, Type: e.Type, Extended: e.Extended})
	}
	p.manifest.Memory.Bytes = p.manifest.Image.Bytes + p.manifest.Map.Bytes + p.initrdRAM + config.ReserveBytes + config.KernelBytes
	p.manifest.System, err = p.facts(ctx)
	return err
}

// finish writes and signs the manifest.
func (p *packer) finish(context.Context) error {
	text, err := p.manifest.Encode()
	if err != nil {
		return err
	}
	if _, err := image.ParseManifest(text); err != nil {
		return err // what we would refuse is not to be shipped
	}
	if _, err := p.write(image.ManifestName, func(w io.Writer) error { _, err := w.Write(text); return err }); err != nil {
		return err
	}
	if p.Sign == nil {
		return nil
	}
	signature, err := p.Sign(p.manifest, text)
	if err != nil {
		return err
	}
	_, err = p.write(image.ManifestName+image.SignatureSuffix, func(w io.Writer) error { _, err := w.Write(signature); return err })
	return err
}

// publish gives the release its name.
func (p *packer) publish() error {
	if err := os.Chmod(p.dir, 0o755); err != nil {
		return fmt.Errorf("make release: %w", err)
	}
	if err := os.Remove(p.Output); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make release: %w", err)
	}
	if err := os.Rename(p.dir, p.Output); err != nil {
		return fmt.Errorf("make release: %w", err)
	}
	parent, err := os.Open(filepath.Dir(filepath.Clean(p.Output)))
	if err != nil {
		return fmt.Errorf("make release: %w", err)
	}
	return errors.Join(parent.Sync(), parent.Close())
}
