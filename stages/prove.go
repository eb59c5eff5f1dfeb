package stages

import (
	"context"
	"errors"
	"fmt"
	"io"

	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/imaging"
	"reimager/report"
)

// decodeAll decodes the whole image, compares every range with its map, or notes its
// digest where there is no map, and keeps what it decodes if spare bytes of memory
// are enough for it.
func (r *Run) decodeAll(ctx context.Context, g *Gathered, compressed io.Reader, m *image.Map, spare int64) error {
	src, err := image.Decode(compressed, r.Workers)
	if err != nil {
		return err
	}
	g.Format = src.Format
	pool, err := image.NewPool(imaging.Buffers, disk.Buffer)
	if err != nil {
		return errors.Join(err, src.Close())
	}
	decoded, err := newDecodedCopy(spare)
	if err != nil {
		return errors.Join(err, src.Close())
	}
	preview := disk.NewPreview(g.Disk.SectorSize)
	recorder := &image.Recorder{}
	held := imaging.NewHeld(g.Disk.SectorSize, disk.GPTHeaders(g.Disk.Bytes, g.Disk.SectorSize))
	inspect := func(part image.Range) error {
		if end := part.Off + int64(len(part.Data)); end > g.Disk.Bytes {
			return report.Hint(fmt.Errorf("the image is larger than %s", g.Disk.String()), "make a smaller image, or use a larger disk")
		}
		if m != nil && part.Index < 0 {
			part.Zero = true // it is not written: a table or superblock there would not be on the disk
		}
		held.Take(part)
		if part.Zero {
			preview.FeedZeros(int64(len(part.Data)))
			return nil
		}
		preview.Feed(part.Data)
		return nil
	}
	n, err := image.Each(ctx, src, m, pool, inspect, func(part image.Range) error {
		if m == nil {
			recorder.Note(part)
		} else if err := m.Check(part); err != nil {
			return err
		}
		decoded.keep(part)
		return nil
	})
	whole, keepErr := decoded.finish()
	err = errors.Join(err, keepErr)
	g.Decoded = whole
	if err := errors.Join(err, src.Close(), pool.Release(disk.FreeBuffer)); err != nil {
		return err
	}
	if n == 0 || n%int64(g.Disk.SectorSize) != 0 {
		return fmt.Errorf("it has %d bytes, which is not a whole number of sectors of %d bytes: it was cut short, or made for another disk", n, g.Disk.SectorSize)
	}
	if m == nil {
		m = recorder.Map(n)
	}
	g.Map = *m
	if err := r.checkLayout(ctx, g, preview); err != nil {
		return err
	}
	g.Boot, err = r.holdBack(g, preview, held.Taken())
	return err
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
	var all []place
	g.filesystems = map[int]disk.Filesystem{}
	for _, e := range table.Entries {
		if e.Extended {
			continue
		}
		fs, err := preview.Filesystem(e)
		if err != nil {
			return fmt.Errorf("look at its partition %d: %w", e.Number, err)
		}
		g.filesystems[e.Number] = fs
		all = append(all, place{disk: g.Disk, part: disk.Partition{Path: fmt.Sprintf("partition %d", e.Number), Number: e.Number}, entry: e, fs: fs})
	}
	if !r.restores() {
		return nil
	}
	return r.checkNewSystem(ctx, all)
}

// checkNewSystem refuses an image in which the new system could not be found or not
// be mounted once it is on the disk.
func (r *Run) checkNewSystem(ctx context.Context, all []place) error {
	for _, p := range all {
		if !p.fs.Mountable() {
			continue
		}
		if err := r.Drivers.Filesystem(ctx, p.fs.Driver()); err != nil {
			return report.Hint(fmt.Errorf("its %s, which this initrd cannot mount: %w", p, err), "add the module to [machine] modules")
		}
	}
	wanted := []config.Device{}
	if !r.Config.New.Root.IsZero() {
		wanted = append(wanted, r.Config.New.Root)
	} else if err := rootPossible(all); err != nil {
		return err
	}
	for _, dir := range byDepth(r.Config.New.Mounts) {
		wanted = append(wanted, r.Config.New.Mounts[dir])
	}
	for _, device := range wanted {
		if err := mountableAs(all, device); err != nil {
			return report.Hint(err, "correct [new] in the configuration, or the image")
		}
	}
	return nil
}

// rootPossible tells whether a root can be found by its fstab later.
func rootPossible(all []place) error {
	roots := 0
	for _, p := range all {
		switch p.fs.Type {
		case "crypto_LUKS", "LVM2_member", "linux_raid_member":
			return report.Hint(fmt.Errorf("its %s may hold the root, which is not supported", p), "if the root is a plain partition, name it: [new] root")
		}
		if p.fs.MayHoldRoot() {
			roots++
		}
	}
	if roots == 0 {
		return fmt.Errorf("none of its partitions can be a root: %s", seen(all))
	}
	return nil
}

// mountableAs tells whether just one partition of an image is the named one, and has
// a filesystem. A name below /dev counts by its number, as on the target later.
func mountableAs(all []place, device config.Device) error {
	var found []place
	for _, p := range all {
		target := p.disk
		byNumber := device
		if device.Kind == config.ByPath {
			byNumber = config.Device{Kind: config.ByNumber, Value: trailingDigits(device.Value)}
		}
		if matches(p, byNumber, &target) {
			found = append(found, p)
		}
	}
	switch {
	case len(found) == 0:
		return fmt.Errorf("it has no %s, which [new] in the configuration names; it has %s", device, names(all))
	case len(found) > 1:
		return fmt.Errorf("%d of its partitions are %s: %s", len(found), device, names(found))
	case !found[0].fs.Mountable():
		return fmt.Errorf("its %s has no filesystem that can be mounted", found[0])
	}
	return nil
}
