package check

import (
	"fmt"
	"os"
	"strings"

	"reimager/config"
	"reimager/disk"
	"reimager/image"
)

// judgeTarget says what will be rewritten, and whether it will be known again.
func judgeTarget(d *disk.Disk, identity config.DiskIdentity, byName bool) Result {
	switch {
	case d.ReadOnly:
		return fail(Target, "switch its write protection off", "%s is write-protected", d)
	case d.Removable && !byName:
		return fail(Target, "name it in target.disk if it is meant", "%s holds the old root, but is removable", d)
	case identity.Serial == "" && identity.WWN == "" && identity.PTUUID == "":
		return warn(Target, "give its partition table an id (sfdisk --disk-id)", "%s: nothing but its size tells it from another disk", d)
	}
	return pass(Target, "%s", d)
}

func judgeDiskSize(d *disk.Disk, r *Release) Result {
	here := fmt.Sprintf("%s in sectors of %d bytes", disk.Size(d.Bytes), d.SectorSize)
	switch {
	case r == nil:
		return pass(DiskSize, "%s", here)
	case r.Manifest == nil:
		return warn(DiskSize, "pack it with imagebuild pack, and it is known beforehand",
			"%s; a bare image shows its own size only when it is decoded, which the run does before it writes", here)
	}
	if err := r.Manifest.CheckDisk(d.Path, d.Bytes, d.SectorSize); err != nil {
		return failed(DiskSize, err)
	}
	return pass(DiskSize, "%s; the image needs %s", here, disk.Size(r.Manifest.Disk.MinBytes))
}

// content is what a partition of the target holds.
type content struct {
	partition  string // sda2
	filesystem string // as disk.Probe, or "ntfs", "BitLocker"; "" where nothing is known
	uses       []string
	listed     bool // in the old system's fstab
}

// contents looks at all partitions of a disk, but at the extended one, which holds
// others.
func (h Host) contents(d *disk.Disk) ([]content, error) {
	users, err := h.disks().Users(d)
	if err != nil {
		return nil, err
	}
	fstab := h.fstabSpecs()
	var all []content
	for _, p := range d.Partitions {
		f, err := os.Open(p.Path)
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", p.Path, err)
		}
		fs, err := disk.Probe(f)
		boot := make([]byte, 512)
		if err == nil && fs.Type == "" {
			_, err = f.ReadAt(boot, 0)
			fs.Type = foreign(boot)
		}
		f.Close()
		const extended = 1 << 10 // the kernel gives an extended partition two sectors: block/partitions/msdos.c
		if p.Bytes <= extended {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", p.Path, err)
		}
		c := content{partition: p.Name, filesystem: fs.Type}
		for _, u := range users {
			if use, ok := strings.CutPrefix(u, p.Path+" "); ok {
				c.uses = append(c.uses, strings.TrimPrefix(strings.TrimPrefix(use, "is "), "mounted at "))
			}
		}
		for _, spec := range fstab {
			c.listed = c.listed || spec == p.Path || fs.UUID != "" && strings.EqualFold(spec, "UUID="+fs.UUID) || fs.Label != "" && spec == "LABEL="+fs.Label
		}
		all = append(all, c)
	}
	return all, nil
}

// foreign knows the boot sectors of what no Linux lies on: ntfs-3g's layout.h, and
// BitLocker's as libbde describes it.
func foreign(sector []byte) string {
	switch string(sector[3:11]) {
	case "NTFS    ":
		return "ntfs"
	case "-FVE-FS-":
		return "BitLocker"
	}
	return ""
}

// fstabSpecs are the devices that the old system's fstab names, swap included.
func (h Host) fstabSpecs() []string {
	entries, err := h.fstab()
	if err != nil {
		return nil
	}
	var specs []string
	for _, e := range entries {
		specs = append(specs, e.Spec)
	}
	return specs
}

// judgeContents warns of what this system does not use: it may be another one, and it
// goes with the disk.
func judgeContents(all []content) Result {
	var list, strange []string
	for _, c := range all {
		kind := c.filesystem
		if kind == "" {
			kind = "nothing known"
		}
		line := c.partition + " " + kind
		if len(c.uses) > 0 {
			line += " (" + strings.Join(c.uses, ", ") + ")"
		} else if c.filesystem != "" && c.filesystem != "swap" && !c.listed {
			strange = append(strange, line)
		}
		list = append(list, line)
	}
	if len(strange) > 0 {
		return warn(Contents, "what it holds, perhaps another system, is lost with all else on the disk; copy it if somebody needs it",
			"this system does not use %s; on the disk are %s", strings.Join(strange, ", "), strings.Join(list, "; "))
	}
	if len(list) == 0 {
		return pass(Contents, "no partitions")
	}
	return pass(Contents, "%s", strings.Join(list, "; "))
}

// judgeFilesystems makes sure that the initrd's kernel mounts what it has to. native
// tells of the running kernel's built-in ones, which count if it is the same kernel.
func judgeFilesystems(need []string, r *Release, running string, native map[string]bool) Result {
	if len(need) == 0 {
		return pass(Filesystems, "no filesystem is known that a run would mount")
	}
	if r == nil {
		return pass(Filesystems, "a run mounts %s", several(need))
	}
	var lacking, unsure []string
	for _, kind := range need {
		switch {
		case r.Baked.Index.Provides("fs-"+kind) || r.Baked.Index.Provides(kind):
		case native[kind] && r.KernelVersion == running:
		case native[kind]:
			unsure = append(unsure, kind)
		default:
			lacking = append(lacking, kind)
		}
	}
	const hint = "add it to machine.modules and bake the initrd again"
	switch {
	case len(lacking) > 0:
		return fail(Filesystems, hint, "the initrd has no module for %s", strings.Join(lacking, ", "))
	case len(unsure) > 0:
		return warn(Filesystems, "reimager arm --rehearse shows it", "%s: built into the running kernel %s, and perhaps into %s", strings.Join(unsure, ", "), running, r.KernelVersion)
	}
	return pass(Filesystems, "the initrd mounts %s", several(need))
}

// newFilesystems are those of the image that a run mounts.
func newFilesystems(m *image.Manifest) []string {
	if m == nil || m.System == nil {
		return nil
	}
	var all []string
	for _, f := range m.System.Filesystems {
		fs := disk.Filesystem{Type: f.Type}
		if fs.Mountable() {
			all = append(all, fs.Driver())
		}
	}
	return all
}
