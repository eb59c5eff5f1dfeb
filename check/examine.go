package check

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"reimager/boot"
	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/lifeboat"
	"reimager/report"
	"reimager/retain"
)

// EntryID names our GRUB entry.
const EntryID = "reimager"

// What an armed machine has in BootFolder.
const (
	KernelName = "kernel"
	InitrdName = "initrd"
	JobName    = "job.json"
)

// BootFolder is where kernel, initrd and job lie while a machine is armed: beside
// GRUB's own folder, where GRUB can surely read. Without GRUB it is in /boot.
func BootFolder(g *boot.GRUB) string {
	if g == nil {
		return "/boot/reimager"
	}
	return filepath.Join(g.Beside(), "reimager")
}

// job is what the machine was armed for last; nil if there is none that can be read.
func (h Host) job(g *boot.GRUB) *config.Job {
	folder := BootFolder(g)
	if g == nil {
		folder = h.root(folder)
	}
	job, err := config.ReadJob(filepath.Join(folder, JobName))
	if err != nil {
		return nil
	}
	return job
}

// Options say what is to be examined.
type Options struct {
	Release  string      // directory; "": the machine alone
	Keys     []image.Key // one of them has to have signed; none: one that the initrd trusts
	Rehearse bool        // the run ends before it writes
	Kexec    bool        // the run starts without GRUB
}

// Examination is what is known of a machine, and of a release for it.
type Examination struct {
	Results  Results
	Release  *Release // nil: none was given, or it cannot be armed
	GRUB     *boot.GRUB
	Target   *disk.Disk
	Identity config.DiskIdentity // of the target
	Root     *Location           // of the old system
	Source   *Location           // of the release
	Machine  config.MachineIdentity
	Berth    *lifeboat.Berth // nil: there is no lifeboat, or the run decides

	plan *retain.Plan // what is kept; nil: nothing, or it is not known
}

// Examine finds out what can be known of the running machine before a reboot. It
// needs root's rights.
func Examine(ctx context.Context, o Options) *Examination { return Host{}.examine(ctx, o) }

func (h Host) examine(ctx context.Context, o Options) *Examination {
	x := &Examination{Machine: h.Machine()}
	if o.Release != "" {
		x.Release, x.Results = ReadRelease(o.Release, o.Keys)
		x.examineSource(h)
	}
	x.examineDisk(h)
	x.examineDrivers(h)
	x.examineRetained(ctx, h)
	x.examineFirmware(h)
	x.examineBoot(h, o.Kexec)
	x.examineLifeboat(h, o)
	x.examineMemory(h)
	x.add(judgePower(h.supplies()))
	x.examineReport(h)
	if x.Release != nil {
		last, err := h.cameFrom()
		x.add(judgeDowngrade(x.Release.Manifest, last, err, x.Release.Baked.Config.Machine.Downgrade))
		last, err = h.rehearsed(h.job(x.GRUB))
		x.add(judgeRehearsal(x.Release, last, err, o.Rehearse))
	}
	x.Results.sort()
	return x
}

func (x *Examination) add(r ...Result) { x.Results = append(x.Results, r...) }

// config is what the initrd was baked with, or the defaults.
func (x *Examination) config() config.Config {
	if x.Release == nil {
		return config.Default()
	}
	return *x.Release.Baked.Config
}

func (x *Examination) examineSource(h Host) {
	if x.Release == nil {
		return
	}
	name := x.Release.Image
	if x.Release.Manifest != nil {
		name = x.Release.Dir
	}
	var err error
	if x.Source, err = h.locate(name); err != nil {
		x.add(failed(Source, report.Hint(err, "put the release on a plain partition of this machine")))
		return
	}
	x.add(pass(Source, "%s on %s (%s)", x.Source.Path, x.Source.Device, x.Source.Type))
}

func (x *Examination) examineDisk(h Host) {
	var err error
	rootDisk := ""
	if x.Root, err = h.locate("/"); err != nil {
		hint := "the root has to lie directly on a partition, not on LVM, RAID, LUKS or a network"
		if errors.Is(err, fs.ErrPermission) {
			hint = "run it outside of a container, where root may read the disk"
		}
		x.add(failed(OldRoot, report.Hint(err, "%s", hint)))
	} else {
		rootDisk = x.Root.Disk
		x.add(judgeOldRoot(x.Root, x.config().Old.Root, h.nodeOf(x.config().Old.Root)))
	}
	want := x.config().Target.Disk
	if x.Target, err = h.targetDisk(want, rootDisk); err != nil {
		x.add(failed(Target, err))
		return
	}
	if x.Identity, err = Identify(x.Target); err != nil {
		x.add(failed(Target, err))
	} else {
		x.add(judgeTarget(x.Target, x.Identity, want.Kind != config.HoldsOldRoot))
	}
	x.add(judgeDiskSize(x.Target, x.Release))
	all, err := h.contents(x.Target)
	if err != nil {
		x.add(failed(Contents, err))
		return
	}
	x.add(judgeContents(all))
}

func (x *Examination) examineDrivers(h Host) {
	running, err := h.release()
	if err != nil {
		x.add(failed(Drivers, err))
		return
	}
	if x.Target != nil {
		way, err := h.WayTo(x.Target.Name)
		if err != nil {
			x.add(failed(Drivers, err))
		} else {
			x.add(judgeDrivers(way, x.Release, running))
		}
	}
	need, err := x.neededFilesystems(h)
	if err != nil {
		x.add(failed(Filesystems, err))
		return
	}
	x.add(judgeFilesystems(need, x.Release, running, h.nativeFilesystems()))
}

// neededFilesystems are the drivers of all that a run mounts: the old system with its
// fstab, unless the configuration names something else; what holds the release; and
// the new system, unless nothing is done there.
func (x *Examination) neededFilesystems(h Host) ([]string, error) {
	c := x.config()
	var need []string
	for _, at := range []*Location{x.Root, x.Source} {
		if at != nil {
			need = append(need, disk.Filesystem{Type: at.Type}.Driver())
		}
	}
	if x.Target != nil && len(c.Old.Mounts) == 0 {
		mounted, err := h.mountedFilesystems([]disk.Disk{*x.Target})
		if err != nil {
			return nil, err
		}
		need = append(need, mounted...)
	}
	if r := x.Release; r != nil && (!r.Baked.List.Empty() || len(c.Hooks)+len(c.Rewrites) > 0 || c.New.LogDir != config.LogOff) {
		need = append(need, newFilesystems(r.Manifest)...)
	}
	slices.Sort(need)
	return slices.Compact(need), nil
}

// examineMemory comes after the berth: an image that lies there need not fit into memory.
func (x *Examination) examineMemory(h Host) {
	total, err := h.memory("MemTotal")
	if err != nil {
		x.add(failed(Memory, err))
		return
	}
	if x.Release == nil {
		x.add(pass(Memory, "%s there", disk.Size(total)))
		return
	}
	diskBytes := int64(0)
	if x.Target != nil {
		diskBytes = x.Target.Bytes
	}
	need := neededMemory(x.Release, x.plan, diskBytes)
	need.Berth = x.Berth != nil
	x.add(judgeMemory(total, need))
}

func (x *Examination) examineRetained(ctx context.Context, h Host) {
	if x.Release == nil {
		return
	}
	var kept Result
	x.plan, kept = scan(ctx, h.root(""), x.Release)
	x.add(kept)
	if x.plan == nil {
		return
	}
	accounts, err := retain.ReadAccounts(h.root(""))
	if err != nil {
		x.add(failed(Owners, err))
		return
	}
	users, groups := ownerNames(x.plan, accounts)
	var there map[string]string
	if s := x.Release.system(); s != nil {
		there = s.Paths
	}
	x.add(judgeSpace(x.plan, x.Release.Manifest), judgeOwners(x.Release, users, groups), judgeConflicts(keptPaths(x.plan), there))
}

func (x *Examination) examineFirmware(h Host) {
	machine := h.firmware()
	var m *image.Manifest
	if x.Release != nil {
		m = x.Release.Manifest
	}
	x.add(judgeFirmware(machine, m))
	if machine != uefi {
		return
	}
	if m != nil {
		x.add(judgeUEFILoader(m.System))
	}
	on, err := h.secureBoot()
	signed, signedErr := kernelSigned(x.Release)
	r := judgeSecureBoot(on, err, x.Release != nil, signed, signedErr)
	if on && r.Verdict == Pass && x.Release != nil {
		r = judgeLoaderSigned(x.Release.system(), r)
	}
	x.add(r)
}

func (x *Examination) examineBoot(h Host, kexec bool) {
	var found Result
	x.GRUB, found = h.bootLoader()
	all := Results{found}
	if x.GRUB != nil {
		e, err := h.environment(x.GRUB)
		if job := h.job(x.GRUB); err == nil && job != nil && e.next == EntryID && report.Begun(h.root(ReportPath), job.RunID) {
			e.started = job.RunID
		}
		all = append(all, judgeEnvironment(e, err))
		if err == nil && e.parse == nil {
			all = append(all, judgeNextEntry(e, EntryID))
		}
	}
	if kexec {
		for i := range all {
			if all[i].Verdict == Fail {
				all[i] = warn(all[i].Name, "", "not needed for --kexec: %s", all[i].Found)
			}
		}
		all = append(all, h.kexec())
	}
	x.add(all...)
	if x.Release != nil {
		x.add(judgeBootSpace(h.bootSpace(BootFolder(x.GRUB), x.Release)))
	}
}

func (h Host) bootSpace(dir string, r *Release) bootSpace {
	s := bootSpace{dir: filepath.Dir(dir)}
	for file, there := range map[string]string{r.Kernel: KernelName, r.Initrd: InitrdName} {
		info, err := os.Stat(file)
		if err != nil {
			s.err = err
			return s
		}
		s.need += info.Size()
		if info, err := os.Stat(filepath.Join(dir, there)); err == nil {
			s.held += info.Size()
		}
	}
	if s.free, s.err = freeSpace(s.dir); s.err == nil {
		s.on, s.err = h.locate(s.dir)
	}
	return s
}

func (x *Examination) examineReport(h Host) {
	p := reportPlace{on: x.Root}
	p.free, p.err = freeSpace(filepath.Dir(h.root(ReportPath)))
	for dir := filepath.Dir(h.root(ReportPath)); p.err == nil; dir = filepath.Dir(dir) {
		if exists(dir) {
			p.on, p.err = h.locate(dir)
			break
		}
	}
	x.add(judgeReport(p))
}
