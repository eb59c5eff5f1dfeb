package check

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"reimager/boot"
	"reimager/config"
	"reimager/disk"
	"reimager/report"
)

// Location is a file as another system finds it.
type Location struct {
	Device string // node of the partition
	UUID   string // of the filesystem
	Type   string // of the filesystem, by its superblock
	Path   string // in the filesystem
	Disk   string // kernel name of the disk
}

// Source names the file for the job.
func (l *Location) Source() config.Source {
	return config.Source{Device: config.Device{Kind: config.ByUUID, Value: l.UUID}, Path: l.Path}
}

// Locate finds the partition that holds a file. What does not lie directly on a
// partition of a disk is an error that names what it lies on.
func Locate(name string) (*Location, error) { return Host{}.locate(name) }

func (h Host) locate(name string) (*Location, error) {
	at, err := boot.Holding(name)
	if err != nil {
		return nil, err
	}
	if on := h.stack(at.Device); on != "" {
		return nil, fmt.Errorf("%s lies on %s (%s)", name, on, at.Device)
	}
	f, err := os.Open(at.Device)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", at.Device, err)
	}
	defer f.Close()
	fs, err := disk.Probe(f)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", at.Device, err)
	}
	if fs.UUID == "" {
		return nil, fmt.Errorf("look at %s: its filesystem (%s) has no UUID", at.Device, at.FSType)
	}
	all, err := h.disks().List()
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		for _, p := range d.Partitions {
			if p.Path == at.Device {
				return &Location{Device: at.Device, UUID: fs.UUID, Type: fs.Type, Path: at.PathInFS, Disk: d.Name}, nil
			}
		}
	}
	return nil, fmt.Errorf("look at %s: %s is not a partition of a disk", name, at.Device)
}

// stack says what a block device is, if it is stacked upon others; "" if not. What
// made a dm device stands before the first - of its uuid: LVM, CRYPT, mpath
// (Documentation/ABI/testing/sysfs-block-dm; libdevmapper and cryptsetup set it).
func (h Host) stack(device string) string {
	name := strings.ReplaceAll(strings.TrimPrefix(device, h.dev("")+"/"), "/", "!")
	dir := h.sys("class/block/" + name)
	if exists(filepath.Join(dir, "md")) {
		return "an MD RAID array, " + text(filepath.Join(dir, "md/level"))
	}
	if exists(filepath.Join(dir, "bcache")) {
		return "bcache"
	}
	if !exists(filepath.Join(dir, "dm")) {
		return ""
	}
	label := text(filepath.Join(dir, "dm/name"))
	kind, rest, _ := strings.Cut(text(filepath.Join(dir, "dm/uuid")), "-")
	switch kind {
	case "LVM":
		return "the LVM volume " + label
	case "CRYPT":
		format, _, _ := strings.Cut(rest, "-")
		return "the encrypted volume " + label + " (" + format + ")"
	case "mpath":
		return "the multipath device " + label
	}
	return "the device-mapper volume " + label
}

// targetDisk returns the disk that the initrd will take, by the same rules.
func (h Host) targetDisk(want config.Disk, rootDisk string) (*disk.Disk, error) {
	if want.Kind == config.HoldsOldRoot {
		if rootDisk == "" {
			return nil, report.Hint(errors.New("find target: it is the disk that holds the old root, and that is not known"), "see old-root")
		}
		return h.disks().Disk(rootDisk)
	}
	all, err := h.disks().List()
	if err != nil {
		return nil, err
	}
	var found []disk.Disk
	var others []string
	for _, d := range all {
		if want.Is(d.Path, d.Serial, d.WWN) {
			found = append(found, d)
		}
		others = append(others, d.String())
	}
	switch len(found) {
	case 1:
		return &found[0], nil
	case 0:
		return nil, report.Hint(fmt.Errorf("find target: this machine has no disk %s; it has %s", want, strings.Join(others, ", ")), "correct target.disk in reimager.toml, and bake the initrd again")
	}
	return nil, fmt.Errorf("find target: %d disks are %s", len(found), want)
}

// Identify reads what tells a disk from all others.
func Identify(d *disk.Disk) (config.DiskIdentity, error) {
	f, err := os.Open(d.Path)
	if err != nil {
		return config.DiskIdentity{}, fmt.Errorf("read target: %w", err)
	}
	defer f.Close()
	table, err := disk.ReadTable(f, d.SectorSize)
	if err != nil {
		return config.DiskIdentity{}, fmt.Errorf("read target %s: %w", d.Path, err)
	}
	return config.DiskIdentity{Serial: d.Serial, WWN: d.WWN, Model: d.Model, Bytes: d.Bytes, PTUUID: table.UUID}, nil
}

// nodeOf returns the node of a device that a configuration names, as udev links it; ""
// if this machine has none, or it is none of a name.
func (h Host) nodeOf(d config.Device) string {
	name := ""
	switch d.Kind {
	case config.ByPath:
		name = h.dev(strings.TrimPrefix(d.Value, "/dev/"))
	case config.ByUUID, config.ByLabel, config.ByPartUUID, config.ByPartLabel:
		name = h.dev("disk/by-" + strings.ToLower(string(d.Kind)) + "/" + d.Value)
	default:
		return ""
	}
	node, err := filepath.EvalSymlinks(name)
	if err != nil {
		return ""
	}
	return node
}

// judgeOldRoot makes sure that a run finds the running root, and finds it at the root of
// its filesystem: it mounts that. node is where named leads on this machine.
func judgeOldRoot(root *Location, named config.Device, node string) Result {
	const hint = "correct [old] root in reimager.toml, or leave it out, and bake the initrd again"
	switch {
	case root.Path != "/" && root.Type == "btrfs":
		return fail(OldRoot, "a root on btrfs has to be its top level", "%s: the root is its btrfs subvolume %s, which a run does not mount", root.Device, root.Path)
	case root.Path != "/":
		return fail(OldRoot, "the root has to be the top of its filesystem", "%s: the root is its folder %s, which a run does not mount", root.Device, root.Path)
	case named.Kind == config.ByUUID && strings.EqualFold(named.Value, root.UUID):
	case named.IsZero(), node == root.Device:
	case named.Kind == config.ByNumber:
		return pass(OldRoot, "%s (%s); the configuration names %s of the target", root.Device, root.Type, named)
	case node == "":
		return fail(OldRoot, hint, "the configuration names %s, which this machine does not have; the running root is %s", named, root.Device)
	default:
		return fail(OldRoot, hint, "the configuration names %s (%s), but the running root is %s", named, node, root.Device)
	}
	return pass(OldRoot, "%s (%s)", root.Device, root.Type)
}
