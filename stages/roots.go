package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"reimager/config"
	"reimager/disk"
	"reimager/report"
	"reimager/wake"
)

var errSeveralRoots = errors.New("several filesystems are one")

// findRoot returns the one place that is a root by its own word: its /etc/fstab
// mounts it on /. Only places that allowed accepts are looked at. dir is where
// they are mounted, read-only, to look.
func (r *Run) findRoot(ctx context.Context, dir string, allowed func(place) bool) (place, error) {
	all, err := r.places()
	if err != nil {
		return place{}, err
	}
	var found []place
	var looked []string
	for _, p := range all {
		if !p.fs.MayHoldRoot() || !allowed(p) {
			continue
		}
		why, err := r.isRoot(ctx, p, dir)
		if err != nil {
			return place{}, err
		}
		if why == "" {
			found = append(found, p)
		} else {
			looked = append(looked, fmt.Sprintf("%s: %s", p.part.Path, why))
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return place{}, report.Hint(fmt.Errorf("find root: %w by their fstab: %s", errSeveralRoots, names(found)), "name it in reimager.toml: [old] root or [new] root")
	case len(looked) == 0:
		return place{}, fmt.Errorf("find root: %s", seen(all))
	}
	return place{}, fmt.Errorf("find root: no filesystem is one by its fstab (%s)", strings.Join(looked, "; "))
}

// isRoot says why a place is not a root; "" means that it is.
func (r *Run) isRoot(ctx context.Context, p place, dir string) (why string, err error) {
	if err := r.mount(ctx, p, dir, unix.MS_RDONLY); err != nil {
		return err.Error(), nil
	}
	defer func() { err = errors.Join(err, wake.UnmountBelow(dir)) }()
	entries, e := readFstab(dir)
	if e != nil {
		return e.Error(), nil
	}
	for _, entry := range entries {
		if entry.Dir != "/" {
			continue
		}
		device, e := plainDevice(entry.Spec)
		if e == nil {
			if q, e := r.deviceOn(device, &p.disk); e == nil && q.part.Name == p.part.Name {
				return "", nil
			}
		}
		return fmt.Sprintf("its fstab mounts %s on /", entry.Spec), nil
	}
	return "its fstab does not mention /", nil
}

func readFstab(rootDir string) ([]disk.FstabEntry, error) {
	root, err := os.OpenRoot(rootDir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open("etc/fstab")
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("no /etc/fstab")
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return disk.ParseFstab(f)
}

// system is an old or new system and where it is mounted.
type system struct {
	root  place
	named map[string]config.Device // filesystems that the configuration names
	dir   string
	// own keeps everything but the root's own disk unmounted, as nothing else may be
	// written to.
	own bool
	// fstab is that of the system as it was found, if it may change meanwhile: a list
	// may keep another one, a hook may write it.
	fstab []disk.FstabEntry
}

// mountSystem mounts a root and its other filesystems: those that the configuration
// names, or else those of its fstab.
func (r *Run) mountSystem(ctx context.Context, s system, flags uintptr) error {
	if err := r.mount(ctx, s.root, s.dir, flags); err != nil {
		return err
	}
	if len(s.named) > 0 {
		for _, at := range byDepth(s.named) {
			p, err := r.resolve(ctx, s, s.named[at])
			if err == nil {
				err = r.mountBeneath(ctx, p, s.dir, at, flags)
			}
			if err != nil {
				return fmt.Errorf("mount %s: %w", at, err)
			}
		}
		return nil
	}
	entries := s.fstab
	if entries == nil {
		var err error
		if entries, err = readFstab(s.dir); err != nil {
			return fmt.Errorf("read fstab of %s: %w", s.root.part.Path, err)
		}
	}
	for _, e := range entries {
		if e.Dir == "/" || !e.Local() {
			continue
		}
		err := r.mountEntry(ctx, s, e, flags)
		if err != nil && e.Has("nofail") {
			r.warn("mount %s, which fstab lets fail: %v", e.Dir, err)
		} else if err != nil {
			return report.Hint(fmt.Errorf("mount %s as fstab of %s says: %w", e.Dir, s.root.part.Path, err),
				"list the filesystems that matter in reimager.toml: [old] mounts or [new] mounts")
		}
	}
	return nil
}

func (r *Run) mountEntry(ctx context.Context, s system, e disk.FstabEntry, flags uintptr) error {
	device, err := plainDevice(e.Spec)
	if err == nil {
		var p place
		if p, err = r.resolve(ctx, s, device); err == nil {
			err = r.mountBeneath(ctx, p, s.dir, e.Dir, flags)
		}
	}
	if err != nil && s.own {
		// The disk is written: a system that lacks a folder is better than none.
		r.warn("%s stays unmounted, and what was retained below it lies in the root's own folder: %v", e.Dir, err)
		return nil
	}
	return err
}

// resolve finds a filesystem of a system. Those of the old one are waited for, as
// their disks may be slow; those of the new one are on its own disk or nowhere.
func (r *Run) resolve(ctx context.Context, s system, device config.Device) (place, error) {
	if s.own {
		return r.deviceOn(device, &s.root.disk)
	}
	var p place
	err := r.Uevents.Await(ctx, device.String(), r.Config.Machine.DeviceTimeout.Duration, func() (bool, error) {
		var err error
		p, err = r.device(device, &s.root.disk)
		return err == nil, err
	})
	return p, err
}

// mountBeneath mounts a place on a directory of a root that is mounted on dir.
func (r *Run) mountBeneath(ctx context.Context, p place, dir, at string, flags uintptr) error {
	point := filepath.Join(dir, at)
	// A mount point behind a symbolic link would lead out of the root.
	if resolved, err := filepath.EvalSymlinks(point); err != nil || resolved != point {
		return fmt.Errorf("mount point %s: not a plain directory of that root", at)
	}
	return r.mountOn(ctx, p, point, flags)
}

func byDepth(mounts map[string]config.Device) []string {
	var dirs []string
	for dir := range mounts {
		dirs = append(dirs, path.Clean(dir))
	}
	sort.Slice(dirs, func(i, j int) bool {
		a, b := strings.Count(dirs[i], "/"), strings.Count(dirs[j], "/")
		return a < b || a == b && dirs[i] < dirs[j]
	})
	return dirs
}
