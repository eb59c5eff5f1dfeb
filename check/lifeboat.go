package check

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"

	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/initrd"
	"reimager/lifeboat"
	"reimager/report"
	"reimager/stages"
)

// berthProbe is what tells whether a run survives a power cut.
type berthProbe struct {
	rule     config.Choice
	rehearse bool
	without  []error // why there is no lifeboat here, whatever room there is
	// search is nil where what the image leaves free is not known before the run; unknown
	// says why.
	search  *lifeboat.Search
	unknown string
}

// cutHarms is what a run without a lifeboat means.
const cutHarms = "a power cut while the disk is written leaves a machine that does not boot"

// judgeLifeboat chooses the berth as the run will; nil if there is none, or nobody knows.
// With "require" nothing but a berth passes, and that cannot be forced: the run would end
// before it writes.
func judgeLifeboat(p berthProbe) (Result, *lifeboat.Berth) {
	if p.rule == "off" {
		return pass(Lifeboat, `power_cut.lifeboat = "off": %s`, cutHarms), nil
	}
	if len(p.without) > 0 {
		return p.none(errors.Join(p.without...)), nil
	}
	if p.search == nil {
		const hint = "pack it with imagebuild pack, and it is known beforehand"
		if p.rule == "require" {
			return warn(Lifeboat, hint, "%s; the run looks for a berth, and ends before it writes where there is none", p.unknown), nil
		}
		return warn(Lifeboat, hint, "%s; the run looks for a berth, and where there is none %s", p.unknown, cutHarms), nil
	}
	berth, err := lifeboat.Choose(*p.search)
	if err != nil {
		return p.none(err), nil
	}
	found := fmt.Sprintf("a power cut is survived: berth of %s in %s, needs %s", disk.Size(berth.Bytes), berth.Where, disk.Size(p.search.Need))
	if p.rehearse {
		found += "; the rehearsal proves that the machine starts from it"
	}
	return pass(Lifeboat, "%s", found), &berth
}

// none warns, or refuses where a lifeboat is required.
func (p berthProbe) none(err error) Result {
	r := failed(Lifeboat, err)
	r.Found = "no lifeboat: " + strings.ReplaceAll(r.Found, "\n", "; ")
	if p.rule == "require" {
		r.Found = `power_cut.lifeboat = "require", but ` + r.Found
		r.Hint = cmp.Or(r.Hint, `"prefer" in the initrd goes without one`)
		r.Firm = true
		return r
	}
	r.Verdict = Warn
	r.Found += ": " + cutHarms
	return r
}

// examineLifeboat says whether a power cut is survived, and where the lifeboat lies.
func (x *Examination) examineLifeboat(h Host, o Options) {
	if x.Target == nil {
		return
	}
	if x.Release == nil {
		x.add(x.judgeRoom(h, o))
		return
	}
	p := berthProbe{rule: x.config().PowerCut.Lifeboat, rehearse: o.Rehearse}
	if p.rule != "off" {
		p.without = x.noLifeboat(h, o)
	}
	if p.rule != "off" && len(p.without) == 0 {
		var err error
		if p.search, p.unknown, err = x.searchBerth(h); err != nil {
			p.without = append(p.without, err)
		}
	}
	result, berth := judgeLifeboat(p)
	x.Berth = berth
	x.add(result)
}

// judgeRoom says of a machine without a release where a lifeboat could lie.
func (x *Examination) judgeRoom(h Host, o Options) Result {
	p := berthProbe{rule: "prefer", without: x.noLifeboat(h, o)}
	old, err := h.oldSystem(x.Target)
	var inUse map[int]string
	if err == nil {
		inUse, err = h.inUse(x.Target, nil, old)
	}
	if err != nil {
		p.without = append(p.without, err)
	}
	if len(p.without) > 0 {
		return p.none(errors.Join(p.without...))
	}
	return judgeRoom(lifeboat.Room(lifeboat.Search{DiskBytes: x.Target.Bytes, Old: old, InUse: inUse}))
}

func judgeRoom(room []lifeboat.Berth) Result {
	if len(room) == 0 {
		return warn(Lifeboat, "a swap partition would do, or unpartitioned space", "no room for a lifeboat: %s", cutHarms)
	}
	var all []string
	for _, b := range room {
		all = append(all, fmt.Sprintf("%s in %s", disk.Size(b.Bytes), b.Where))
	}
	return pass(Lifeboat, "there is room for a lifeboat, as far as the new system leaves it: %s", strings.Join(all, ", "))
}

// noLifeboat lists what keeps this machine from having one.
func (x *Examination) noLifeboat(h Host, o Options) []error {
	var all []error
	if err := lifeboat.Supported(h.firmware() == uefi, x.Target.SectorSize); err != nil {
		all = append(all, err)
	}
	if o.Kexec {
		all = append(all, report.Hint(errors.New("it is GRUB that starts one, and --kexec goes without GRUB"), "arm without --kexec"))
	} else if err := x.noGate(h); err != nil {
		all = append(all, err)
	}
	if x.Release != nil && !carriesLifeboat(x.Release.Baked) {
		all = append(all, report.Hint(errors.New("the initrd has nothing to start one with"), "bake it again with this version of imagebuild"))
	}
	return all
}

// noGate says why GRUB could not start a lifeboat: it does so where the gate says that it
// is to be proven, and on the disk that the gate lies on.
func (x *Examination) noGate(h Host) error {
	if x.GRUB == nil {
		return errors.New("there is no GRUB that could start one")
	}
	bls, err := x.GRUB.ReadsBLS()
	if err != nil {
		return err
	}
	if bls {
		return errors.New("GRUB reads boot loader entries here, which have no gate")
	}
	at, err := h.locate(x.GRUB.Beside())
	if err != nil {
		return err
	}
	return judgeGate(at, x.Target)
}

func judgeGate(at *Location, target *disk.Disk) error {
	if at.Disk == target.Name {
		return nil
	}
	return report.Hint(fmt.Errorf("the gate would lie on %s, and not on %s, which is replaced", at.Device, target.Path), "put /boot on the same disk")
}

// carriesLifeboat tells whether GRUB's images for a lifeboat are baked into an initrd.
func carriesLifeboat(in *initrd.Initrd) bool {
	for _, name := range []string{config.LifeboatBootPath, config.LifeboatCorePath} {
		if _, err := in.Archive.Content(name); err != nil {
			return false
		}
	}
	return true
}

// searchBerth gathers what a berth is looked for in; nil, and why, where the release does
// not say enough.
func (x *Examination) searchBerth(h Host) (*lifeboat.Search, string, error) {
	system := newSystem(x.Release.Manifest)
	if system == nil || x.Release.Map == nil {
		return nil, unknownLayout(x.Release.Manifest), nil
	}
	s := &lifeboat.Search{DiskBytes: x.Target.Bytes, New: *system}
	for _, r := range x.Release.Map.Ranges {
		s.Written = append(s.Written, r.Extent)
	}
	var err error
	if s.Need, err = x.neededBerth(); err != nil {
		return nil, "", err
	}
	if s.Old, err = h.oldSystem(x.Target); err != nil {
		return nil, "", err
	}
	if s.Named, err = namedBerth(x.config().PowerCut.Berth, x.Target, s.Old); err != nil {
		return nil, "", err
	}
	s.InUse, err = h.inUse(x.Target, x.config().Old.Mounts, s.Old)
	return s, "", err
}

func unknownLayout(m *image.Manifest) string {
	if m == nil {
		return "a bare image does not say what it leaves free"
	}
	return "an older imagebuild has packed the release, which does not say where its partitions lie"
}

// neededBerth counts as a run does.
func (x *Examination) neededBerth() (int64, error) {
	var sizes [2]int64
	for i, name := range []string{x.Release.Kernel, x.Release.Initrd} {
		info, err := os.Stat(name)
		if err != nil {
			return 0, fmt.Errorf("look at release: %w", err)
		}
		sizes[i] = info.Size()
	}
	archive := int64(0)
	if x.plan != nil {
		archive = x.plan.ArchiveBytes
	}
	return stages.NeededBerth(sizes[0], sizes[1], x.Release.ImageBytes, archive, x.Target.Bytes, x.Release.Map), nil
}

// namedBerth finds the partition that the configuration names. On the running machine a
// name below /dev has to be one of the target's: the run goes by its number.
func namedBerth(berth config.Device, d *disk.Disk, old lifeboat.System) (int, error) {
	if berth.Kind == config.ByPath {
		for _, p := range d.Partitions {
			if p.Path == berth.Value {
				return p.Number, nil
			}
		}
		return 0, report.Hint(fmt.Errorf("find berth %s: it is no partition of %s", berth, d.Path), "correct [power_cut] berth")
	}
	return stages.BerthPartition(berth, old)
}
