package check

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"reimager/disk"
	"reimager/kmod"
)

// controller is a link of an NVMe subsystem to one of its controllers: with multipath
// the disk itself lies below /sys/devices/virtual.
var controller = regexp.MustCompile(`^nvme\d+$`)

// WayTo returns the devices between a disk and the root of all devices that have a
// driver, outermost first: what has to be loaded so that the disk appears.
func (h Host) WayTo(diskName string) ([]kmod.Step, error) {
	at, err := filepath.EvalSymlinks(h.sys("block/" + diskName))
	if err != nil {
		return nil, fmt.Errorf("find the way to disk %s: %w", diskName, err)
	}
	root, err := filepath.EvalSymlinks(h.sys("devices"))
	if err != nil {
		return nil, fmt.Errorf("find the way to disk %s: %w", diskName, err)
	}
	starts := []string{at}
	if strings.HasPrefix(at, root+"/virtual/nvme-subsystem/") {
		entries, err := os.ReadDir(filepath.Dir(at))
		if err != nil {
			return nil, fmt.Errorf("find the way to disk %s: %w", diskName, err)
		}
		for _, e := range entries {
			if link, err := filepath.EvalSymlinks(filepath.Join(filepath.Dir(at), e.Name())); err == nil && controller.MatchString(e.Name()) {
				starts = append(starts, link)
			}
		}
	}
	var way []kmod.Step
	for _, start := range starts {
		for dir := start; strings.HasPrefix(dir, root+"/"); dir = filepath.Dir(dir) {
			step, ok := h.step(dir, strings.TrimPrefix(dir, root+"/"))
			if ok && !slices.Contains(way, step) {
				way = append(way, step)
			}
		}
	}
	slices.Reverse(way)
	return way, nil
}

// step describes a device that has a driver. Of a driver that is built in the kernel
// shows either no module or one without initstate, which only loaded ones have.
func (h Host) step(dir, name string) (kmod.Step, bool) {
	driver, err := filepath.EvalSymlinks(filepath.Join(dir, "driver"))
	if err != nil {
		return kmod.Step{}, false
	}
	s := kmod.Step{Device: name, Modalias: text(filepath.Join(dir, "modalias")), Driver: filepath.Base(driver)}
	if module, err := filepath.EvalSymlinks(filepath.Join(driver, "module")); err == nil && h.isModule(filepath.Base(module)) {
		s.Module = filepath.Base(module)
	}
	return s, true
}

// isModule tells whether the running kernel has loaded a module, as opposed to having
// it built in.
func (h Host) isModule(name string) bool { return exists(h.sys("module/" + name + "/initstate")) }

// nativeFilesystems are those that are built into the running kernel.
func (h Host) nativeFilesystems() map[string]bool {
	native := map[string]bool{}
	for line := range strings.Lines(text(h.proc("filesystems")) + "\n") {
		if f := strings.Fields(line); len(f) > 0 && !h.isModule(f[len(f)-1]) {
			native[f[len(f)-1]] = true
		}
	}
	return native
}

// bridge is the modalias of a PCI bridge, class 06 of the PCI Code and ID
// Assignment Specification.
var bridge = regexp.MustCompile(`^pci:.*bc06sc`)

// isBridge tells of a bridge whose driver is built in: pcieport, which is so in all
// kernels (CONFIG_PCIEPORTBUS is no module), and its like.
func isBridge(s kmod.Step) bool {
	return s.Module == "" && (s.Driver == "pcieport" || bridge.MatchString(s.Modalias))
}

// judgeDrivers makes sure that an initrd has what stands between its kernel and the
// disk. What is built into the running kernel is surely built into the initrd's only
// if both are the same.
func judgeDrivers(way []kmod.Step, r *Release, running string) Result {
	var have, lacking, unsure []string
	way = slices.DeleteFunc(slices.Clone(way), isBridge)
	for _, s := range way {
		name := s.Module
		if name == "" {
			name = s.Driver
		}
		switch {
		case r == nil:
		case s.Module != "" && r.Baked.Index.Provides(s.Module), s.Modalias != "" && r.Baked.Index.Provides(s.Modalias):
		case s.Module == "" && r.KernelVersion == running:
		case s.Module == "":
			unsure = append(unsure, name)
			continue
		default:
			lacking = append(lacking, strings.TrimSpace(name+" "+s.Modalias))
			continue
		}
		if !slices.Contains(have, name) {
			have = append(have, name)
		}
	}
	switch {
	case len(way) == 0:
		return warn(Drivers, "reimager arm --rehearse shows whether the initrd finds the disk", "this kernel does not show what drives the disk")
	case len(lacking) > 0:
		return fail(Drivers, "run `reimager hardware -o machine.json` here, name that file in machine.modules, and bake the initrd again",
			"the initrd has no module for %s", strings.Join(lacking, ", "))
	case len(unsure) > 0:
		return warn(Drivers, "reimager arm --rehearse shows it", "%s: built into the running kernel %s, and perhaps into %s", strings.Join(unsure, ", "), running, r.KernelVersion)
	case r == nil:
		return pass(Drivers, "on the way to the disk: %s", strings.Join(have, ", "))
	}
	return pass(Drivers, "the initrd has all on the way to the disk: %s", strings.Join(have, ", "))
}

// Hardware describes the machine for imagebuild initrd.
func (h Host) Hardware() (*kmod.Hardware, error) {
	kernel, err := h.release()
	if err != nil {
		return nil, err
	}
	id := h.Machine()
	hw := &kmod.Hardware{Format: kmod.HardwareFormat, About: kmod.HardwareAbout, Vendor: id.Vendor, Product: id.Product, Board: id.Board, Kernel: kernel}
	all, err := h.disks().List()
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		way, err := h.WayTo(d.Name)
		if err != nil {
			return nil, err
		}
		hw.Disks = append(hw.Disks, kmod.HardwareDisk{Name: d.Name, Model: d.Model, Removable: d.Removable, Way: way})
	}
	if hw.Filesystems, err = h.mountedFilesystems(all); err != nil {
		return nil, err
	}
	hw.Modaliases, err = modaliases(h.sys("devices"))
	return hw, err
}

// mountedFilesystems are the drivers of what is mounted from these disks, as far as a
// run mounts such filesystems.
func (h Host) mountedFilesystems(disks []disk.Disk) ([]string, error) {
	b, err := os.ReadFile(h.proc("self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	nodes := map[string]bool{}
	for _, d := range disks {
		for _, p := range d.Partitions {
			nodes[text(h.sys("class/block/"+p.Name+"/dev"))] = true
		}
	}
	kinds := []string{}
	for line := range strings.Lines(string(b)) {
		head, tail, _ := strings.Cut(line, " - ")
		fields, behind := strings.Fields(head), strings.Fields(tail)
		if len(fields) < 5 || len(behind) < 2 || !nodes[fields[2]] {
			continue
		}
		fs := disk.Filesystem{Type: behind[0]}
		if kind := fs.Driver(); fs.Mountable() && !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	return kinds, nil
}

// modaliases are what all devices below a directory of sysfs ask for, each once.
func modaliases(dir string) ([]string, error) {
	var found []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // the device went away while we looked
		}
		if e.Name() == "modalias" && e.Type().IsRegular() {
			if m := text(path); m != "" {
				found = append(found, m)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for devices: %w", err)
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}
