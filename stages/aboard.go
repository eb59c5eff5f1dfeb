package stages

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"reimager/boot"
	"reimager/config"
	"reimager/disk"
	"reimager/imaging"
	"reimager/lifeboat"
	"reimager/report"
	"reimager/retain"
	"reimager/wake"
)

// Aboard is a run that was started from its lifeboat.
type Aboard struct {
	passage
	disk disk.Disk
	boat *lifeboat.Boat
	gone bool
}

// Rehearse tells whether the run ends before it casts off.
func (a *Aboard) Rehearse() bool { return a.passage.Rehearse && !a.gone }

// Starts is how often the lifeboat was started before.
func (a *Aboard) Starts() int { return a.boat.Starts() }

// Gone tells whether the old system is gone: a power cut came after casting off.
func (a *Aboard) Gone() bool { return a.gone }

// FromLifeboat tells whether a kernel command line says that this start is from a berth.
func FromLifeboat() bool {
	p, err := ReadParameters()
	return err == nil && p.Lifeboat != ""
}

// FindLifeboat finds the berth that this start comes from, by the run id that is in it:
// letters and partition tables are no help.
func (r *Run) FindLifeboat(ctx context.Context) (*Aboard, error) {
	return r.findLifeboat(ctx, r.Config.Machine.DeviceTimeout.Duration)
}

func (r *Run) findLifeboat(ctx context.Context, timeout time.Duration) (*Aboard, error) {
	p, err := ReadParameters()
	if err != nil {
		return nil, err
	}
	id, off, err := parseLifeboat(p.Lifeboat)
	if err != nil {
		return nil, err
	}
	var a *Aboard
	err = r.Uevents.Await(ctx, "the disk with the lifeboat of run "+id, timeout, func() (bool, error) {
		all, err := r.Disks.List()
		if err != nil {
			return false, err
		}
		var why []error
		var found []*Aboard
		for _, d := range all {
			here := &Aboard{disk: d}
			switch err := r.openBoat(ctx, here, d, off, id); {
			case err == nil:
				found = append(found, here)
			case !errors.Is(err, lifeboat.ErrNoBoat):
				why = append(why, err)
			}
		}
		if len(found) > 0 {
			a, err = theOne(found)
			return err == nil, err
		}
		return false, errors.Join(append(why, fmt.Errorf("no disk has it at byte %d: %s", off, list(all)))...)
	})
	if err != nil {
		return nil, fmt.Errorf("find the lifeboat: %w", err)
	}
	r.Job, r.earlier, r.aboard = a.Job, a.Log, a
	*r.Record = *a.Gathered.Record
	r.Record.Target.Path = a.disk.Path // letters change
	r.Record.Lifeboat.Starts, r.Record.Attempts = a.boat.Starts(), a.boat.Attempts()
	r.Report.SetRun(id)
	r.Report.Tell(report.Event{Run: id, Rehearsal: a.Rehearse()})
	r.Report.Printf("lifeboat %s of %s, %s; so far %d starts and %d writes", a.boat.Header().Berth.Where, a.disk.Path, a.boat.State(), a.boat.Starts(), a.boat.Attempts())
	return a, nil
}

// theOne is the disk that boarded. A copy of it may be plugged in as well.
func theOne(found []*Aboard) (*Aboard, error) {
	if len(found) == 1 {
		return found[0], nil
	}
	var same []*Aboard
	var disks []disk.Disk
	for _, a := range found {
		disks = append(disks, a.disk)
		if boarded := a.Gathered.Disk; a.disk.Serial == boarded.Serial && a.disk.WWN == boarded.WWN {
			same = append(same, a)
		}
	}
	if len(same) != 1 {
		return nil, report.Hint(fmt.Errorf("%d disks have it: %s", len(found), list(disks)), "unplug the copies")
	}
	return same[0], nil
}

// CastOffBefore tells whether some disk starts a lifeboat: where its berth cannot be
// read, that says that the old system is gone.
func (r *Run) CastOffBefore() bool {
	all, err := r.Disks.List()
	return err == nil && slices.ContainsFunc(all, func(d disk.Disk) bool { return boot.IsLifeboat(sector0(&d)) })
}

// parseLifeboat reads RUN@SECTOR.
func parseLifeboat(value string) (id string, off int64, err error) {
	id, sector, ok := strings.Cut(value, "@")
	n, err := strconv.ParseInt(sector, 10, 64)
	if !ok || id == "" || err != nil || n <= 0 || n > 1<<53/boot.SectorBytes {
		return "", 0, fmt.Errorf("read kernel parameter %s: %q, expected RUN@SECTOR", boot.LifeboatParameter, value)
	}
	return id, n * boot.SectorBytes, nil
}

// openBoat opens the lifeboat on a disk, if it is there.
func (r *Run) openBoat(ctx context.Context, a *Aboard, d disk.Disk, off int64, id string) (err error) {
	dev, err := disk.OpenShared(d.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	if off+lifeboat.Overhead > dev.Bytes() {
		return lifeboat.ErrNoBoat
	}
	boat, err := lifeboat.Open(dev, off, id)
	if err != nil {
		return err
	}
	if err := readPassage(ctx, boat, dev, &a.passage); err != nil {
		return err
	}
	a.disk, a.boat = d, boat
	a.gone, err = r.castOffBefore(a, dev)
	return err
}

func readPassage(ctx context.Context, boat *lifeboat.Boat, dev *disk.Device, p *passage) error {
	if err := boat.Verify(ctx, dev, nil, lifeboat.Saved); err != nil {
		return err
	}
	in, err := boat.Reader(dev, lifeboat.Saved)
	if err != nil {
		return err
	}
	if err := json.NewDecoder(in).Decode(p); err != nil {
		return errors.Join(fmt.Errorf("read what boarded: %w", err), in.Close())
	}
	return in.Close()
}

// castOffBefore tells whether an earlier start has cast off. The journal is written
// after sector 0, so that sector decides.
func (r *Run) castOffBefore(a *Aboard, dev *disk.Device) (bool, error) {
	if a.boat.State().Reached(lifeboat.Writing) {
		return true, nil
	}
	holding, err := a.boat.Holding(imaging.At(a.Gathered.Boot.Image, 0))
	if err != nil {
		return false, err
	}
	is, err := dev.ReadSectors(0, int64(dev.SectorSize()))
	return bytes.Equal(is, holding), err
}

// GoAboard brings image and retained files from the berth into RAM. While the old system
// is there the whole lifeboat is proven first, and that it is this program that boarded.
func (r *Run) GoAboard(ctx context.Context, a *Aboard) (_ *Gathered, err error) {
	name := "prove"
	if a.gone {
		name = "carry on"
	}
	done := r.stage(name)
	// A worker that died before it had all has left what it had.
	if err := wake.UnmountBelow(ramDir); err != nil {
		return nil, err
	}
	if !a.gone {
		if err := r.checkPassage(ctx, a); err != nil {
			return nil, err
		}
	}
	g := &Gathered{gathered: a.Gathered}
	g.Disk, g.Record, g.Before = a.disk, r.Record, a.Log
	r.boat = a.boat
	// Gathered is from before there was a boat: its sector 0 would only say that the
	// machine does not boot.
	if g.Boot.Holding, err = a.boat.Holding(imaging.At(g.Boot.Image, 0)); err != nil {
		return nil, err
	}
	dev, err := disk.OpenShared(g.Disk.Path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	if err := a.boat.Start(dev); err != nil {
		return nil, err
	}
	r.Record.Lifeboat.Starts = a.boat.Starts()
	if !a.gone {
		if err := r.verifyAboard(ctx, a, dev); err != nil {
			return nil, err
		}
	}
	if a.boat.State().Reached(lifeboat.Restored) {
		_, err = mountRAM(0, 0, stateBytes(g.Disk.Bytes, &g.Map)) // all is on the disk
	} else {
		err = r.takeAboard(ctx, g, a, dev)
	}
	if err != nil {
		return nil, err
	}
	if err := r.proven(a, dev); err != nil {
		return nil, err
	}
	done(g.Record.Image.CompressedBytes)
	return g, g.save()
}

// verifyAboard compares what is in the berth with its digests, all but the image, which
// is compared when it is taken.
func (r *Run) verifyAboard(ctx context.Context, a *Aboard, dev *disk.Device) error {
	total, names := int64(0), []string{}
	for _, s := range a.boat.Header().Sections {
		if s.Name != lifeboat.Image {
			total, names = total+s.Bytes, append(names, s.Name)
		}
	}
	bar := r.Report.Progress("prove", total)
	if err := a.boat.Verify(ctx, dev, bar.Add, names...); err != nil {
		return err
	}
	bar.Done()
	return nil
}

// proven records that the old system's boot loader has started the lifeboat, and that
// all of it is there.
func (r *Run) proven(a *Aboard, dev *disk.Device) error {
	r.Record.Lifeboat.Proven = true
	if a.boat.State().Reached(lifeboat.Proven) {
		return nil
	}
	if err := a.boat.Enter(dev, lifeboat.Proven); err != nil {
		return err
	}
	r.Report.Printf("lifeboat proven: the old system's GRUB has started it, and all of it is there")
	return nil
}

// checkPassage refuses to go on with anything but what boarded.
func (r *Run) checkPassage(ctx context.Context, a *Aboard) error {
	init, kernel, err := running()
	switch {
	case err != nil:
		return err
	case init != a.Init:
		return fmt.Errorf("check lifeboat: this program has the SHA-256 %s, expected %s, which boarded", init, a.Init)
	case kernel != a.Kernel:
		return fmt.Errorf("check lifeboat: this is kernel %s, expected %s, which boarded", kernel, a.Kernel)
	case a.disk.Bytes != a.Gathered.Disk.Bytes || a.disk.SectorSize != a.Gathered.Disk.SectorSize:
		return fmt.Errorf("check lifeboat: %s has %d bytes in sectors of %d, expected %d in %d", a.disk.Path, a.disk.Bytes, a.disk.SectorSize, a.Gathered.Disk.Bytes, a.Gathered.Disk.SectorSize)
	}
	// A gate that GRUB could not close may start the lifeboat weeks later.
	if mounts, err := r.oldMounts(ctx); err != nil {
		return err
	} else if mounts != a.OldMounts {
		return report.Hint(fmt.Errorf("check lifeboat: the old system was started since this boarded (%s, then %s): what it keeps is out of date", a.OldMounts, mounts), "arm the machine again")
	}
	if err := r.checkMachine(); err != nil {
		return err
	}
	return r.checkTarget(&a.disk)
}

// oldMounts changes whenever the old root is mounted for writing; it is empty where its
// filesystem does not keep count.
func (r *Run) oldMounts(ctx context.Context) (string, error) {
	p, err := r.await(ctx, config.Device{Kind: config.ByUUID, Value: r.Job.OldRoot}, nil)
	if err != nil {
		return "", fmt.Errorf("find the old root: %w", err)
	}
	f, err := os.Open(p.part.Path)
	if err != nil {
		return "", fmt.Errorf("look at the old root: %w", err)
	}
	defer f.Close()
	mounts, err := disk.WritableMounts(f, p.fs)
	if err != nil {
		return "", fmt.Errorf("look at the old root %s: %w", p, err)
	}
	return mounts, nil
}

// takeAboard brings what fits into RAM: the archive always, the image if there is room. It
// is not decoded once more before it is written: these are the bytes that the start
// before has decoded, and each range is compared with the map on its way to the disk.
func (r *Run) takeAboard(ctx context.Context, g *Gathered, a *Aboard, dev *disk.Device) error {
	need := Memory{Image: g.Record.Image.CompressedBytes, Retained: g.ArchiveBytes + int64(g.Files)*entryBytes, State: stateBytes(g.Disk.Bytes, &g.Map)}
	available, err := memory("MemAvailable")
	if err != nil {
		return err
	}
	if g.Afloat = need.Total() > available; g.Afloat {
		need.Image = 0
	}
	if _, err := mountRAM(need.Image, need.Retained, need.State); err != nil {
		return err
	}
	r.Report.Tell(report.Event{Work: &report.Work{Image: g.Record.Image.CompressedBytes, Mapped: g.Map.MappedBytes(), Retained: g.ArchiveBytes}})
	if g.ArchiveBytes > 0 {
		if err := r.takeArchive(ctx, a, dev); err != nil {
			return err
		}
	}
	g.Decoded = false
	if g.Afloat && a.gone {
		return nil // it was read through before casting off
	}
	err = r.takeBoarded(g, a, dev)
	if err != nil && a.gone {
		// It may be on the disk already, and each range that is written is compared.
		r.warn("%v; what is missing on the disk is read from the berth once more", err)
		g.Afloat = true
		if err = os.Remove(ramImage); errors.Is(err, os.ErrNotExist) {
			err = nil
		}
	}
	return err
}

func (r *Run) takeArchive(ctx context.Context, a *Aboard, dev *disk.Device) (err error) {
	if a.gone { // or else it was verified with the rest
		if err := a.boat.Verify(ctx, dev, nil, lifeboat.Archive); err != nil {
			return err
		}
	}
	in, err := a.boat.Reader(dev, lifeboat.Archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.OpenFile(ramArchive, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("make archive: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("read archive from the berth: %w", err)
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("check archive: %w", err)
	}
	_, err = retain.CheckArchive(out)
	return err
}

// takeBoarded reads the image from the berth and compares its digest; where there is room
// for it, it stays in RAM.
func (r *Run) takeBoarded(g *Gathered, a *Aboard, dev *disk.Device) (err error) {
	in, err := a.boat.Reader(dev, lifeboat.Image)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := ramCopy(!g.Afloat)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	sum := sha256.New()
	bar := r.Report.Progress("verify", g.Record.Image.CompressedBytes)
	if _, err := io.Copy(io.MultiWriter(out, sum, countTo(bar)), in); err != nil {
		return fmt.Errorf("read image from the berth: %w", err)
	}
	bar.Done()
	if digest := hex.EncodeToString(sum.Sum(nil)); digest != g.Record.Image.SHA256 {
		return fmt.Errorf("check image in the berth: SHA-256 %s, expected %s", digest, g.Record.Image.SHA256)
	}
	return nil
}

// loadJobAboard reads the job from the berth, for who reports into the old system.
func (r *Run) loadJobAboard(ctx context.Context) error {
	// Whoever reports has a minute, and there is a second place to look.
	_, err := r.findLifeboat(ctx, min(r.Config.Machine.DeviceTimeout.Duration, 20*time.Second))
	return err
}

// reopenBoat finds the lifeboat again for a worker that takes over.
func (r *Run) reopenBoat(g *Gathered) (err error) {
	if g.Berth == nil || !FromLifeboat() {
		return nil
	}
	dev, err := disk.OpenShared(g.Disk.Path)
	if err != nil {
		return err
	}
	r.earlier = g.Before
	r.boat, err = lifeboat.Open(dev, g.Berth.Off, r.Record.RunID)
	switch {
	case err == nil:
		r.Record.Attempts = r.boat.Attempts() // of all starts
	case errors.Is(err, lifeboat.ErrNoBoat):
		// It is cleared away when the disk has landed, and not before.
		sector0, e := dev.ReadSectors(0, int64(dev.SectorSize()))
		if e == nil && bytes.Equal(sector0, imaging.At(g.Boot.Land, 0)) {
			err = ErrLanded
		}
	}
	return errors.Join(err, dev.Close())
}
