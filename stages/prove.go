package stages

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/report"
)

// buffers is how many ranges are in memory at a time: enough to decode, digest
// and write at once on two cores.
const buffers = 6

// decodeAll decodes the whole image and notes the digest of every range.
func (r *Run) decodeAll(ctx context.Context, g *Gathered, compressed io.Reader) error {
	src, err := image.Decode(compressed, r.Workers)
	if err != nil {
		return err
	}
	g.Format = src.Format
	pool, err := image.NewPool(buffers, disk.Buffer)
	if err != nil {
		return errors.Join(err, src.Close())
	}
	preview := disk.NewPreview(g.Disk.SectorSize)
	digests := make([]image.Digest, (g.Disk.Bytes+image.RangeBytes-1)/image.RangeBytes)
	inspect := func(part image.Range) error {
		if end := part.Off + int64(len(part.Data)); end > g.Disk.Bytes {
			return report.Hint(fmt.Errorf("the image is larger than %s", g.Disk.String()), "make a smaller image, or use a larger disk")
		}
		if part.Index == 0 {
			g.Sector0 = append([]byte(nil), part.Data[:min(len(part.Data), g.Disk.SectorSize)]...)
		}
		preview.Feed(part.Data)
		return nil
	}
	n, err := image.Each(ctx, src, pool, inspect, func(part image.Range) error {
		digests[part.Index] = part.Digest()
		return nil
	})
	if err := errors.Join(err, src.Close(), pool.Release(disk.FreeBuffer)); err != nil {
		return err
	}
	if n == 0 || n%int64(g.Disk.SectorSize) != 0 {
		return fmt.Errorf("it has %d bytes, which is not a whole number of sectors of %d bytes: it was cut short, or made for another disk", n, g.Disk.SectorSize)
	}
	g.Map = image.Map{Bytes: n, Digests: digests[:(n+image.RangeBytes-1)/image.RangeBytes]}
	return r.checkLayout(ctx, g, preview)
}

// checkLayout refuses an image whose partitions this disk or this initrd could
// not serve.
func (r *Run) checkLayout(ctx context.Context, g *Gathered, preview *disk.Preview) error {
	table, err := preview.Table()
	if err != nil {
		return report.Hint(fmt.Errorf("read its partition table: %w", err), "is it the image of a whole disk with sectors of %d bytes?", g.Disk.SectorSize)
	}
	g.Table = *table
	for _, e := range table.Entries {
		if e.Start+e.Bytes > g.Disk.Bytes {
			return fmt.Errorf("its partition %d ends at byte %d, behind the end of %s", e.Number, e.Start+e.Bytes, g.Disk.String())
		}
	}
	if !r.restores() {
		return nil
	}
	mountable := 0
	for _, e := range table.Entries {
		if e.Extended {
			continue
		}
		fs, err := preview.Filesystem(e)
		if err != nil {
			return fmt.Errorf("look at its partition %d: %w", e.Number, err)
		}
		if !fs.Mountable() {
			continue
		}
		kind := fs.Type
		if kind == "ext2" || kind == "ext3" {
			kind = "ext4"
		}
		if err := r.Drivers.Filesystem(ctx, kind); err != nil {
			return report.Hint(fmt.Errorf("its partition %d has %s, which this initrd cannot mount: %w", e.Number, fs.Type, err), "add the module to [machine] modules")
		}
		mountable++
	}
	if mountable == 0 {
		return errors.New("none of its partitions has a filesystem that can be mounted, so nothing could be restored")
	}
	return r.checkNamed(table)
}

// checkNamed refuses an image that lacks a partition which [new] names by number.
func (r *Run) checkNamed(table *disk.Table) error {
	devices := []config.Device{r.Config.New.Root}
	for _, dir := range byDepth(r.Config.New.Mounts) {
		devices = append(devices, r.Config.New.Mounts[dir])
	}
	for _, d := range devices {
		if d.Kind != config.ByNumber {
			continue
		}
		if _, ok := table.Entry(d.Number()); !ok {
			return fmt.Errorf("it has no %s, which [new] in the configuration names", d)
		}
	}
	return nil
}

// signedBy judges the signature beside the image and returns the id of its key,
// or "" for an image that is not signed and need not be.
func (r *Run) signedBy(source config.Source, signed *image.SignatureCheck) (string, error) {
	root, err := os.OpenRoot(sourceDir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	signature, err := root.ReadFile(strings.TrimPrefix(source.Path, "/") + image.SignatureSuffix)
	switch {
	case errors.Is(err, os.ErrNotExist) && r.Config.Trust.Signature == "if-present":
		r.warn("the image is not signed, and the configuration allows it")
		return "", nil
	case errors.Is(err, os.ErrNotExist):
		return "", report.Hint(fmt.Errorf("there is no signature %s%s beside it", source.Path, image.SignatureSuffix),
			`sign it with "minisign -S -H", or set [trust] signature = "if-present"`)
	case err != nil:
		return "", fmt.Errorf("read signature: %w", err)
	case len(r.Keys) == 0:
		return "", report.Hint(errors.New("it is signed, but this initrd trusts no key"), "build the initrd with imagebuild initrd --key")
	}
	key, err := signed.By(r.Keys, signature)
	if err != nil {
		return "", err
	}
	return key.ID(), nil
}
