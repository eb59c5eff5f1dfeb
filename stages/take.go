package stages

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"reimager/config"
	"reimager/disk"
	"reimager/fault"
	"reimager/image"
	"reimager/lifeboat"
	"reimager/report"
	"reimager/retain"
)

// entryBytes is what is told of one retained file in plan, report and record, in
// memory: 1.2 KiB with 200,000 of them.
const entryBytes = 1200

// keeping is where the retained files come from: both nil if nothing is retained.
type keeping struct {
	plan  *retain.Plan    // the old system
	stick *config.JobKeep // an archive
}

// take brings retained files and image into RAM.
func (r *Run) take(ctx context.Context, g *Gathered, keeps keeping, from *offer, h *bootFiles) error {
	plan := keeps.plan
	if r.Job != nil && r.Job.Image.Bytes != from.bytes {
		return report.Hint(fmt.Errorf("check image %s: %d bytes, expected %d as when the machine was armed", from, from.bytes, r.Job.Image.Bytes), "the image was changed or cut short; copy it again and arm again")
	}
	if from.release != nil {
		if err := CheckSpace(plan, from.release.Manifest); err != nil {
			return err
		}
	}
	need := NeededMemory(from.bytes, plan, g.Disk.Bytes, from.blockMap())
	if keeps.stick != nil {
		need.Retained = keeps.stick.Bytes + int64(keeps.stick.Files)*entryBytes
	}
	available, err := memory("MemAvailable")
	if err != nil {
		return err
	}
	if g.Afloat = h != nil && need.Total() > available; g.Afloat {
		r.Report.Printf("memory   the image does not fit: it is read from the berth of the lifeboat")
		need.Image = 0
	}
	spare, err := mountRAM(need.Image, need.Retained, need.State)
	if err != nil {
		return err
	}
	if len(r.Config.Hooks) > 0 {
		spare = max(0, spare-hookBytes)
	}
	work := report.Work{Image: from.bytes}
	if plan != nil {
		work.Retained = plan.ArchiveBytes
	} else if keeps.stick != nil {
		work.Retained = keeps.stick.Bytes
	}
	if m := from.blockMap(); m != nil {
		work.Mapped = m.MappedBytes()
	}
	r.Report.Tell(report.Event{Work: &work})
	if plan != nil {
		summary, err := r.capture(ctx, plan)
		if err != nil {
			return err
		}
		g.ArchiveBytes, g.Files, g.FileBytes = summary.ArchiveBytes, len(summary.Entries), summary.ContentBytes
	} else if keeps.stick != nil {
		if err := r.takeKept(ctx, keeps.stick); err != nil {
			return err
		}
		g.ArchiveBytes, g.Files, g.FileBytes = keeps.stick.Bytes, keeps.stick.Files, keeps.stick.Bytes
	}
	if err := r.takeImage(ctx, g, from, spare); err != nil {
		return err
	}
	return r.findBerth(g, h, from)
}

// findBerth chooses where the lifeboat lies. An image that does not fit into memory goes
// there at once, while what holds it is mounted.
func (r *Run) findBerth(g *Gathered, h *bootFiles, from *offer) error {
	if h == nil {
		return nil
	}
	var err error
	if g.Berth, err = r.berth(g, h, from.bytes); err != nil {
		if g.Afloat {
			return report.Hint(fmt.Errorf("the image does not fit into memory, and there is no berth to read it from: %w", err), "add memory, or make room on the disk: `reimager check` says how much")
		}
		return r.without(err)
	}
	r.Report.Printf("berth    %s, %s", g.Berth.Where, disk.Size(g.Berth.Bytes))
	r.Record.Lifeboat = &report.Lifeboat{Where: g.Berth.Where, Offset: g.Berth.Off, Bytes: g.Berth.Bytes}
	if g.Afloat {
		return r.streamImage(g, from)
	}
	return nil
}

// hookBytes is left to the new system's own programs where memory allows: the decoded
// copy is a help, and update-initramfs needs some hundred MiB.
const hookBytes = 512 << 20

// Memory is what a run needs, in bytes, beside what the kernel and the unpacked initrd
// have taken.
type Memory struct{ Image, Retained, State int64 }

// Total is all of it, with the reserve to work in.
func (m Memory) Total() int64 { return m.Image + m.Retained + m.State + config.ReserveBytes }

// NeededMemory says what a run needs for a compressed image of so many bytes, for what
// a plan keeps (nil: nothing), and for its map (nil: it has none) on a disk of so many.
func NeededMemory(imageBytes int64, plan *retain.Plan, diskBytes int64, m *image.Map) Memory {
	need := Memory{Image: imageBytes, State: stateBytes(diskBytes, m)}
	if plan != nil {
		need.Retained = plan.ArchiveBytes + int64(len(plan.Entries))*entryBytes
	}
	return need
}

// CheckSpace refuses to bring more files than the new filesystems have room for, as far
// as the release says how much that is. A plan of nil keeps nothing.
func CheckSpace(plan *retain.Plan, m *image.Manifest) error {
	if plan == nil || m.System == nil {
		return nil
	}
	free := int64(0)
	for _, f := range m.System.Filesystems {
		switch {
		case f.FreeBytes != nil:
			free += *f.FreeBytes
		case disk.Filesystem{Type: f.Type}.Mountable():
			return nil // it may have room for all
		}
	}
	if plan.ArchiveBytes > free {
		return report.Hint(fmt.Errorf("check space: %s are retained, the filesystems of release %s have %s free", disk.Size(plan.ArchiveBytes), m, disk.Size(free)), "retain less, or make an image with larger filesystems")
	}
	return nil
}

// stateBytes is what the saved state takes: some 150 bytes for each range of the map,
// or of the disk where there is none, and some pages for the rest.
func stateBytes(diskBytes int64, m *image.Map) int64 {
	const perRange, rest = 150, 4 << 20
	ranges := diskBytes / image.RangeBytes
	if m != nil {
		ranges = int64(len(m.Ranges))
	}
	return ranges*perRange + rest
}

// mountRAM makes a tmpfs as large as image and archive, if the machine has the
// memory; a tmpfs ends at half of it by default. It returns how much memory is there
// for the decoded image as well, with the reserve left free twice.
func mountRAM(imageBytes, archiveBytes, stateBytes int64) (spare int64, err error) {
	available, err := memory("MemAvailable")
	if err != nil {
		return 0, err
	}
	if need := imageBytes + archiveBytes + stateBytes + config.ReserveBytes; need > available {
		return 0, report.Hint(fmt.Errorf("check memory: %s available, needed are %s: %s for the image, %s for retained files, %s to work",
			disk.Size(available), disk.Size(need), disk.Size(imageBytes), disk.Size(archiveBytes), disk.Size(config.ReserveBytes)),
			"make the image smaller (xz or zstd), retain less, or add memory")
	}
	if err := os.MkdirAll(ramDir, 0o700); err != nil {
		return 0, err
	}
	taken := imageBytes + archiveBytes + stateBytes
	spare = max(0, available-taken-2*config.ReserveBytes)
	options := fmt.Sprintf("size=%d,mode=0700", taken+spare)
	if err := unix.Mount("tmpfs", ramDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
		return 0, fmt.Errorf("mount RAM for the image: %w", err)
	}
	return spare, nil
}

func (r *Run) capture(ctx context.Context, plan *retain.Plan) (*retain.Summary, error) {
	out, err := os.OpenFile(ramArchive, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make archive: %w", err)
	}
	bar := r.Report.Progress("retain", plan.ArchiveBytes)
	last := int64(0)
	summary, err := retain.Capture(ctx, plan, out, func(n int64) { bar.Add(n - last); last = n })
	if err := errors.Join(err, out.Close()); err != nil {
		return nil, err
	}
	bar.Done()
	r.Report.Printf("retain   %d files and directories, %s", len(summary.Entries), disk.Size(summary.ContentBytes))
	for _, e := range summary.Entries {
		r.Report.Detail("retain   %s %s %s %s:%s", e.Type, e.Mode, e.Path, e.Owner, e.Group)
	}
	return &summary, nil
}

// takeImage copies the image into RAM and, from the very same bytes, checks digest or
// signature and decodes it whole: what is written later is what was judged here.
func (r *Run) takeImage(ctx context.Context, g *Gathered, from *offer, spare int64) error {
	out, err := ramCopy(!g.Afloat)
	if err != nil {
		return err
	}
	fault.At("verify")
	sum := sha256.New()
	bar := r.Report.Progress("verify", from.bytes)
	compressed := io.TeeReader(from.content, io.MultiWriter(out, sum, countTo(bar)))
	err = r.decodeAll(ctx, g, compressed, from.blockMap(), spare)
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("check image %s: %w", from, err)
	}
	bar.Done()
	r.Report.Tell(report.Event{Work: &report.Work{Image: from.bytes, Mapped: g.Map.MappedBytes(), Retained: g.ArchiveBytes}})
	digest := hex.EncodeToString(sum.Sum(nil))
	if err := r.checkArmed(digest); err != nil {
		return fmt.Errorf("check image %s: %w", from, err)
	}
	r.Record.Image = report.Image{Source: from.source.String(), Format: string(g.Format), CompressedBytes: from.bytes, SHA256: digest,
		Bytes: g.Map.Bytes, MappedBytes: g.Map.MappedBytes()}
	key, err := from.signer(r.Keys)
	if err != nil {
		return fmt.Errorf("check image %s: %w", from, err)
	}
	if key != nil {
		r.Record.Image.SignedBy = key.ID()
	}
	if from.release != nil {
		m := from.release.Manifest
		g.Manifest, g.starters = from.release.Digest.String(), starters(m)
		r.Record.Image.Name, r.Record.Image.Version, r.Record.Image.Counter = m.Name, m.Version, m.Counter
	}
	if g.Decoded {
		r.Report.Printf("image    kept in memory decoded, too")
	}
	r.Report.Printf("image    %s, %s of %s, %s", from, g.Format, disk.Size(g.Map.Bytes), g.Table.Kind)
	return nil
}

// starters are the digests of what a release is started by.
func starters(m *image.Manifest) map[string]image.Digest {
	all := map[string]image.Digest{}
	if m.Kernel != nil {
		all[lifeboat.Kernel] = m.Kernel.SHA256
	}
	if m.Initrd != nil {
		all[lifeboat.Initrd] = m.Initrd.SHA256
	}
	return all
}

// ramCopy makes the file that takes the compressed image, or what drops it.
func ramCopy(keep bool) (io.WriteCloser, error) {
	name := ramImage
	flags := os.O_CREATE | os.O_EXCL | os.O_WRONLY
	if !keep {
		name, flags = os.DevNull, os.O_WRONLY
	}
	out, err := os.OpenFile(name, flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	return out, nil
}

// checkArmed tells whether an image is the one that the machine was armed for.
func (r *Run) checkArmed(digest string) error {
	if r.Job == nil || r.Job.Image.SHA256 == "" || r.Job.Image.SHA256 == digest {
		return nil
	}
	return report.Hint(fmt.Errorf("SHA-256 %s, expected %s as when the machine was armed", digest, r.Job.Image.SHA256), "copy the image again and arm again")
}

type counterFunc func(int)

func (c counterFunc) Write(p []byte) (int, error) { c(len(p)); return len(p), nil }

func countTo(bar *report.Progress) io.Writer { return counterFunc(func(n int) { bar.Add(int64(n)) }) }
