package stages

import (
	"context"
	"errors"
	"fmt"
	"os"

	"reimager/boot"
	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/lifeboat"
	"reimager/report"
)

// bootFiles are what a lifeboat takes along from the old system's /boot, in bytes.
type bootFiles struct{ kernel, initrd int64 }

// without goes on without a lifeboat, or refuses to, as the configuration says.
func (r *Run) without(why error) error {
	const consequence = "a power cut while the disk is written leaves a machine that does not boot"
	if r.Config.PowerCut.Lifeboat == "require" {
		return report.Hint(fmt.Errorf(`no lifeboat, and power_cut.lifeboat = "require": %w`, why), "`reimager check` says what a lifeboat needs; with \"prefer\" the run goes on without one")
	}
	r.warn("no lifeboat: %v; %s", why, consequence)
	return nil
}

// findBootFiles tells whether this machine and this run can have a lifeboat, if there is
// a berth. It is nil where there can be none, which was said then.
func (r *Run) findBootFiles(ctx context.Context, target *disk.Disk) (*bootFiles, error) {
	if r.Config.PowerCut.Lifeboat == "off" || r.Job != nil && r.Job.Proof {
		return nil, nil
	}
	h, err := r.lookForBootFiles(ctx, target)
	if err != nil {
		return nil, r.without(err)
	}
	return h, nil
}

func (r *Run) lookForBootFiles(ctx context.Context, target *disk.Disk) (*bootFiles, error) {
	uefi, err := r.bootedByUEFI()
	if err != nil {
		return nil, err
	}
	if err := lifeboat.Supported(uefi, target.SectorSize); err != nil {
		return nil, err
	}
	switch {
	case r.Job == nil:
		return nil, errors.New("`reimager arm` has not armed this machine")
	case r.fromStick():
		return nil, errors.New("the run was started from a stick, which can start it again")
	case r.Job.Boot == nil:
		return nil, errors.New("the boot loader that was armed could not try it out")
	case !r.onTarget(ctx, r.Job.Gate.Device):
		return nil, fmt.Errorf("the old system's boot files are not on %s", target.Path)
	}
	if _, err := readCore(); err != nil {
		return nil, err
	}
	h := &bootFiles{}
	for _, file := range []struct {
		source config.Source
		bytes  *int64
	}{{r.Job.Boot.Kernel, &h.kernel}, {r.Job.Boot.Initrd, &h.initrd}} {
		err := r.withFile(ctx, file.source, func(f *os.File) error {
			info, err := f.Stat()
			if err == nil {
				*file.bytes = info.Size()
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("look at what started this run: %w", err)
		}
	}
	return h, nil
}

// readCore reads the GRUB that imagebuild has baked in.
func readCore() (*boot.LifeboatCore, error) {
	bootImg, err := os.ReadFile(config.LifeboatBootPath)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("imagebuild has baked none into this initrd")
	}
	if err != nil {
		return nil, fmt.Errorf("read the lifeboat's GRUB: %w", err)
	}
	coreImg, err := os.ReadFile(config.LifeboatCorePath)
	if err != nil {
		return nil, fmt.Errorf("read the lifeboat's GRUB: %w", err)
	}
	return boot.ParseLifeboatCore(bootImg, coreImg)
}

// berth chooses where the lifeboat lies, when the image's own layout is known. The old
// root is mounted.
func (r *Run) berth(g *Gathered, h *bootFiles, imageBytes int64) (*lifeboat.Berth, error) {
	old, err := r.onDisk(&g.Disk)
	if err != nil {
		return nil, err
	}
	mounts := r.Config.Old.Mounts
	if len(mounts) == 0 {
		fstab, err := readFstab(oldDir)
		if err != nil {
			return nil, fmt.Errorf("read fstab of the old system: %w", err)
		}
		mounts = MountsOf(fstab)
	}
	named, err := BerthPartition(r.Config.PowerCut.Berth, old)
	if err != nil {
		return nil, err
	}
	inUse := Mounted(mounts, old)
	for what, source := range map[string]config.Source{"the image": r.Job.Image.Source, "the gate": r.Job.Gate, "the report": r.Job.Report.Source} {
		if p, err := r.find(source.Device, &g.Disk); err == nil && p.disk.Name == g.Disk.Name {
			inUse[p.part.Number] = what + " is on it"
		}
	}
	var written []image.Extent
	for _, part := range g.Map.Ranges {
		written = append(written, part.Extent)
	}
	for _, p := range g.Boot.Land {
		written = append(written, image.Extent{Off: p.Off, Bytes: int64(len(p.Data))})
	}
	b, err := lifeboat.Choose(lifeboat.Search{
		DiskBytes: g.Disk.Bytes, Old: old, New: lifeboat.System{Table: &g.Table, Filesystems: g.filesystems}, Written: written,
		Need:  NeededBerth(h.kernel, h.initrd, imageBytes, g.ArchiveBytes, g.Disk.Bytes, &g.Map),
		Named: named, InUse: inUse,
	})
	if err != nil {
		return nil, err
	}
	return &b, nil
}

// onDisk is what the system that is on a disk has there.
func (r *Run) onDisk(d *disk.Disk) (lifeboat.System, error) {
	s := lifeboat.System{Filesystems: map[int]disk.Filesystem{}}
	var err error
	if s.Table, err = r.table(d); err != nil {
		return s, err
	}
	all, err := r.places()
	for _, p := range all {
		if p.disk.Name == d.Name {
			s.Filesystems[p.part.Number] = p.fs
		}
	}
	return s, err
}

// Abandon clears away a lifeboat that was not needed, when the machine goes back to its
// old system: nobody shall start it some day, and its key shall not stay. Where the old
// system is gone, nothing is touched.
func (r *Run) Abandon() (err error) {
	if r.aboard == nil || r.aboard.gone || interrupted(&r.aboard.disk) {
		return nil
	}
	if err := sink(&r.aboard.disk, r.aboard.boat); err != nil {
		return err
	}
	r.Report.Printf("lifeboat cleared away: the old system goes on")
	return nil
}

// Boarding is what a start that ends before its word of it may leave in a berth.
type Boarding struct {
	disk  disk.Disk
	berth lifeboat.Berth
	state image.Extent
}

// SavedBoarding is that of the start that has left its state in RAM; nil: it has no berth.
func SavedBoarding() *Boarding {
	g, err := readState()
	if err != nil || g.Berth == nil {
		return nil
	}
	return &Boarding{g.Disk, *g.Berth, g.StateAt}
}

// AbandonBoarding does what Abandon does for a start that was not from a lifeboat: it
// has died, perhaps, after it set the gate, and the boot loader would start a lifeboat
// that the report knows nothing of.
func (r *Run) AbandonBoarding(ctx context.Context, b *Boarding) error {
	if b == nil || r.aboard != nil || r.Job == nil {
		return nil
	}
	d, err := r.Disks.Disk(b.disk.Name)
	if err != nil {
		return fmt.Errorf("clear the berth: %w", err)
	}
	if d.Bytes != b.disk.Bytes || d.Serial != b.disk.Serial || d.WWN != b.disk.WWN || interrupted(d) {
		return fmt.Errorf("clear the berth: %s is not the disk that it is on, or was cast off", d)
	}
	gate := r.retractGate(ctx, b.berth.Off/boot.SectorBytes)
	dev, err := disk.OpenShared(d.Path)
	if err != nil {
		return errors.Join(gate, fmt.Errorf("clear the berth: %w", err))
	}
	return errors.Join(gate, lifeboat.Clear(dev, b.berth, b.state), dev.Close())
}

func sink(d *disk.Disk, boat *lifeboat.Boat) (err error) {
	dev, err := disk.OpenShared(d.Path)
	if err != nil {
		return fmt.Errorf("clear the berth: %w", err)
	}
	return errors.Join(boat.Sink(dev), dev.Close())
}
