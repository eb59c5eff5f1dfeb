package stages

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/report"
	"reimager/retain"
	"reimager/wake"
)

// Gathered is everything that the machine needs from its old system, in RAM and
// proven: from here on the disk may be rewritten.
type Gathered struct{ gathered }

// gathered is what a worker that takes over after a crash has to know.
type gathered struct {
	Disk         disk.Disk      `json:"disk"`
	Format       image.Format   `json:"format"`
	Map          image.Map      `json:"map"`
	Sector0      []byte         `json:"sector0"` // of the image: one sector of the target
	Table        disk.Table     `json:"table"`   // of the image
	ArchiveBytes int64          `json:"archive_bytes"`
	Record       *report.Record `json:"record"` // as it was at the end of gather
}

// Where image and archive lie in RAM.
const (
	ramImage   = ramDir + "/image"
	ramArchive = ramDir + "/retained.tar"
	ramState   = ramDir + "/gathered.json"
)

// reserveBytes is what a run needs beside image and archive: the decoder's
// memory, the ranges under way, two Go programs, the kernel's own buffers.
// The QEMU tests hold the measured peak against it.
const reserveBytes = 128 << 20

// Gather reads the job, finds the target and the old root, brings retained files and image into
// RAM and checks all that can be checked. It changes nothing on the disk but what
// mounting read-only does by itself: a dirty journal is replayed.
func (r *Run) Gather(ctx context.Context) (_ *Gathered, err error) {
	done := r.stage("gather")
	if err := r.LoadJob(ctx); err != nil {
		return nil, err
	}
	root, err := r.findOldRoot(ctx)
	if err != nil {
		return nil, err
	}
	if r.Job != nil && r.Job.OldRoot != root.fs.UUID {
		return nil, report.Hint(fmt.Errorf("check old root: %s has the UUID %s, but %s was armed", root, root.fs.UUID, r.Job.OldRoot), "does [old] root in the configuration name the system that armed?")
	}
	target, err := r.findTarget(ctx, root)
	if err != nil {
		return nil, err
	}
	g := &Gathered{gathered{Disk: *target, Record: r.Record}}
	r.Record.Target = report.Target{Path: target.Path, Bytes: target.Bytes, SectorSize: target.SectorSize,
		Serial: target.Serial, WWN: target.WWN, Model: target.Model}
	r.Report.Printf("target   %s", target)
	r.Report.Printf("old root %s", root)

	if err := r.mountSystem(ctx, root, r.Config.Old.Mounts, oldDir, unix.MS_RDONLY); err != nil {
		return nil, errors.Join(err, wake.UnmountBelow(oldDir))
	}
	defer func() { err = errors.Join(err, wake.UnmountBelow(oldDir)) }()
	plan, err := r.plan(ctx)
	if err != nil {
		return nil, err
	}
	source := r.Config.Image.Source
	if r.Job != nil {
		source = r.Job.Image.Source
	}
	if source.IsZero() {
		return nil, report.Hint(errors.New("find image: neither the configuration nor a job names one"), "set [image] source, or start through `reimager arm`")
	}
	err = r.withFile(ctx, source, func(f *os.File) error { return r.take(ctx, g, plan, source, f) })
	if err != nil {
		return nil, err
	}
	if err := g.save(); err != nil {
		return nil, err
	}
	done(r.Record.Image.CompressedBytes)
	return g, nil
}

// findOldRoot finds the root that is to be replaced: by name, by the job, or by its fstab.
func (r *Run) findOldRoot(ctx context.Context) (place, error) {
	named := r.Config.Old.Root
	if named.IsZero() && r.Job != nil && r.Job.OldRoot != "" {
		named = config.Device{Kind: config.ByUUID, Value: r.Job.OldRoot}
	}
	target := r.Config.Target.Disk
	if target.Kind != config.HoldsOldRoot {
		// The named disk first: its absence is the better explanation.
		if _, err := r.awaitDisk(ctx, target); err != nil {
			return place{}, err
		}
	}
	if !named.IsZero() {
		d, err := r.namedDisk(target)
		if err != nil {
			return place{}, err
		}
		return r.await(ctx, named, d)
	}
	var root place
	err := r.Uevents.Await(ctx, "the old root", r.Config.Machine.DeviceTimeout.Duration, func() (bool, error) {
		var err error
		root, err = r.findRoot(ctx, oldDir, func(p place) bool {
			if target.Kind == config.HoldsOldRoot {
				return !p.disk.Removable
			}
			return target.Is(p.disk.Path, p.disk.Serial, p.disk.WWN)
		})
		return err == nil, err
	})
	return root, err
}

// namedDisk returns the disk that the configuration names, or nil if it names none.
func (r *Run) namedDisk(want config.Disk) (*disk.Disk, error) {
	if want.Kind == config.HoldsOldRoot {
		return nil, nil
	}
	all, err := r.Disks.List()
	if err != nil {
		return nil, err
	}
	var found []disk.Disk
	there := ""
	for _, d := range all {
		there += "; " + d.String()
		if want.Is(d.Path, d.Serial, d.WWN) {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 1:
		return &found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("find disk %s: %d disks are it%s", want, len(found), there)
	case len(all) == 0:
		return nil, fmt.Errorf("find disk %s: this machine shows no disk at all; is the driver of its controller in the initrd?", want)
	}
	return nil, fmt.Errorf("find disk %s: this machine has other ones%s", want, there)
}

func (r *Run) awaitDisk(ctx context.Context, want config.Disk) (*disk.Disk, error) {
	var d *disk.Disk
	err := r.Uevents.Await(ctx, "disk "+want.String(), r.Config.Machine.DeviceTimeout.Duration, func() (bool, error) {
		var err error
		d, err = r.namedDisk(want)
		return err == nil, err
	})
	return d, err
}

// findTarget returns the disk to rewrite and refuses one that is not what was
// configured or armed.
func (r *Run) findTarget(ctx context.Context, root place) (*disk.Disk, error) {
	target := &root.disk
	if want := r.Config.Target.Disk; want.Kind != config.HoldsOldRoot {
		d, err := r.awaitDisk(ctx, want)
		if err != nil {
			return nil, err
		}
		target = d
	} else if target.Removable {
		return nil, report.Hint(fmt.Errorf("find target: %s holds the old root but is removable", target), "name it in [target] disk if it is meant")
	}
	if r.Job != nil {
		if diff := r.Job.Target.Differs(identity(target)); diff != "" {
			return nil, report.Hint(fmt.Errorf("check target: %s is not the disk that was armed: %s", target, diff), "was the disk moved or repartitioned? arm the machine again")
		}
	}
	if target.ReadOnly {
		return nil, fmt.Errorf("check target: %s is write-protected", target)
	}
	return target, nil
}

// plan finds out what the list keeps.
func (r *Run) plan(ctx context.Context) (*retain.Plan, error) {
	if len(r.List.Patterns) == 0 {
		return nil, nil
	}
	plan, err := retain.Scan(ctx, oldDir, r.List)
	var missing *retain.MissingError
	if errors.As(err, &missing) && r.Config.Retain.Missing == "report" {
		r.warn("%v", missing)
		err = nil
	}
	if err != nil {
		return nil, err
	}
	for _, s := range plan.Surprises {
		r.warn("retained path %s: %s", s.Path, s.Why)
	}
	return plan, nil
}

// take brings retained files and image into RAM.
func (r *Run) take(ctx context.Context, g *Gathered, plan *retain.Plan, source config.Source, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("stat image: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("open image %s: not a regular file", source)
	}
	size := info.Size()
	if r.Job != nil && r.Job.Image.Bytes != size {
		return report.Hint(fmt.Errorf("check image %s: %d bytes, expected %d as when the machine was armed", source, size, r.Job.Image.Bytes), "the image was changed or cut short; copy it again and arm again")
	}
	archive := int64(0)
	if plan != nil {
		archive = plan.ArchiveBytes
	}
	if err := mountRAM(size, archive, stateBytes(g.Disk.Bytes)); err != nil {
		return err
	}
	if plan != nil {
		if g.ArchiveBytes, err = r.capture(ctx, plan); err != nil {
			return err
		}
	}
	return r.takeImage(ctx, g, source, f, size)
}

// stateBytes is what the saved state takes: a digest in hexadecimal for each range of
// a disk, and some pages for the rest.
func stateBytes(diskBytes int64) int64 {
	const perRange, rest = 80, 4 << 20
	return diskBytes/image.RangeBytes*perRange + rest
}

// mountRAM makes a tmpfs as large as image and archive, if the machine has the
// memory; a tmpfs ends at half of it by default.
func mountRAM(imageBytes, archiveBytes, stateBytes int64) error {
	available, err := memory("MemAvailable")
	if err != nil {
		return err
	}
	if need := imageBytes + archiveBytes + stateBytes + reserveBytes; need > available {
		return report.Hint(fmt.Errorf("check memory: %s available, needed are %s: %s for the image, %s for retained files, %s to work",
			disk.Size(available), disk.Size(need), disk.Size(imageBytes), disk.Size(archiveBytes), disk.Size(reserveBytes)),
			"make the image smaller (xz or zstd), retain less, or add memory")
	}
	if err := os.MkdirAll(ramDir, 0o700); err != nil {
		return err
	}
	options := fmt.Sprintf("size=%d,mode=0700", imageBytes+archiveBytes+stateBytes)
	if err := unix.Mount("tmpfs", ramDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
		return fmt.Errorf("mount RAM for the image: %w", err)
	}
	return nil
}

func (r *Run) capture(ctx context.Context, plan *retain.Plan) (int64, error) {
	out, err := os.OpenFile(ramArchive, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, fmt.Errorf("make archive: %w", err)
	}
	bar := r.Report.Progress("retain", plan.ArchiveBytes)
	last := int64(0)
	summary, err := retain.Capture(ctx, plan, out, func(n int64) { bar.Add(n - last); last = n })
	if err := errors.Join(err, out.Close()); err != nil {
		return 0, err
	}
	bar.Done()
	r.Report.Printf("retain   %d files and directories, %s", len(summary.Entries), disk.Size(summary.ContentBytes))
	for _, e := range summary.Entries {
		r.Report.Detail("retain   %s %s %s %s:%s", e.Type, e.Mode, e.Path, e.Owner, e.Group)
	}
	return summary.ArchiveBytes, nil
}

// takeImage copies the image into RAM and, from the very same bytes, checks its
// signature and decodes it whole: what is written later is what was judged here.
func (r *Run) takeImage(ctx context.Context, g *Gathered, source config.Source, f *os.File, size int64) error {
	out, err := os.OpenFile(ramImage, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make image: %w", err)
	}
	sum := sha256.New()
	bar := r.Report.Progress("verify", size)
	signed := image.NewSignatureCheck(io.TeeReader(f, io.MultiWriter(out, sum, countTo(bar))))
	err = r.decodeAll(ctx, g, signed)
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("check image %s: %w", source, err)
	}
	bar.Done()
	digest := hex.EncodeToString(sum.Sum(nil))
	if r.Job != nil && r.Job.Image.SHA256 != "" && r.Job.Image.SHA256 != digest {
		return report.Hint(fmt.Errorf("check image %s: SHA-256 %s, expected %s as when the machine was armed", source, digest, r.Job.Image.SHA256), "copy the image again and arm again")
	}
	by, err := r.signedBy(source, signed)
	if err != nil {
		return fmt.Errorf("check image %s: %w", source, err)
	}
	r.Record.Image = report.Image{Source: source.String(), Format: string(g.Format), CompressedBytes: size, SHA256: digest, Bytes: g.Map.Bytes, SignedBy: by}
	r.Report.Printf("image    %s, %s of %s, %s", source, g.Format, disk.Size(g.Map.Bytes), g.Table.Kind)
	return nil
}

type counterFunc func(int)

func (c counterFunc) Write(p []byte) (int, error) { c(len(p)); return len(p), nil }

func countTo(bar *report.Progress) io.Writer { return counterFunc(func(n int) { bar.Add(int64(n)) }) }

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
