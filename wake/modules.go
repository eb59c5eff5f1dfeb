package wake

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"reimager/kmod"
)

// Drivers loads kernel modules: the baked set, then what the hardware asks for.
type Drivers struct {
	loader  *kmod.Loader
	warn    func(error)
	settled atomic.Bool
}

// NewDrivers reads the baked index, whose modules lie beside it, and the
// parameters on the kernel command line. warn is told of modules that would not
// load: another one, or none, may drive the disk; if not, the wait for the disk
// says what is missing.
func NewDrivers(index string, warn func(error)) (*Drivers, error) {
	f, err := os.Open(index)
	if err != nil {
		return nil, fmt.Errorf("open module index: %w", err)
	}
	defer f.Close()
	x, err := kmod.DecodeIndex(f)
	if err != nil {
		return nil, err
	}
	if len(x.Modules) > 0 {
		release, err := KernelRelease()
		if err != nil {
			return nil, err
		}
		if err := x.CheckKernel(release); err != nil {
			return nil, err
		}
	}
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, fmt.Errorf("read kernel command line: %w", err)
	}
	cmdline := string(text)
	loader := kmod.NewLoader(x, filepath.Dir(index), kmod.ParamsFromCmdline(cmdline),
		kmod.WithBlacklist(kmod.BlacklistFromCmdline(cmdline)...))
	return &Drivers{loader: loader, warn: warn}, nil
}

// LoadFirst loads the baked set.
func (d *Drivers) LoadFirst(ctx context.Context) {
	if err := d.loader.LoadFirst(ctx); err != nil {
		d.warn(err)
	}
}

// LoadFor loads what a device asks for.
func (d *Drivers) LoadFor(ctx context.Context, modaliases ...string) {
	if err := d.loader.LoadFor(ctx, modaliases...); err != nil {
		d.warn(err)
	}
}

// Start loads what the devices ask for that are there, and the baked set beside it:
// a controller waits for its disks for most of the time that it takes. Then it
// loads what has come by that.
func (d *Drivers) Start(ctx context.Context) error {
	aliases, err := modaliases("/sys/devices")
	if err != nil {
		return err
	}
	var both sync.WaitGroup
	both.Go(func() { d.LoadFor(ctx, aliases...) })
	both.Go(func() { d.LoadFirst(ctx) })
	both.Wait()
	if aliases, err = modaliases("/sys/devices"); err != nil {
		return err
	}
	d.LoadFor(ctx, aliases...)
	d.settled.Store(true)
	return nil
}

// Settled tells whether Start has done its work.
func (d *Drivers) Settled() bool { return d.settled.Load() }

// Filesystem makes the kernel able to mount a type, by loading its module unless
// it is there.
func (d *Drivers) Filesystem(ctx context.Context, kind string) error {
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return fmt.Errorf("read filesystems of the kernel: %w", err)
	}
	for line := range strings.Lines(string(known)) {
		if f := strings.Fields(line); len(f) > 0 && f[len(f)-1] == kind {
			return nil
		}
	}
	if err := d.loader.Load(ctx, "fs-"+kind); err != nil {
		return fmt.Errorf("load filesystem %s: %w", kind, err)
	}
	return nil
}

// Loaded names the modules that were loaded.
func (d *Drivers) Loaded() []string {
	var names []string
	for _, r := range d.loader.Results() {
		if r.Outcome == kmod.Loaded {
			names = append(names, r.Name)
		}
	}
	return names
}

// Summary says in a few words what was loaded, and what took its time.
func (d *Drivers) Summary() string {
	var loaded, idle int
	var slow []string
	for _, r := range d.loader.Results() {
		switch r.Outcome {
		case kmod.Loaded:
			loaded++
		case kmod.NoHardware:
			idle++
		}
		if r.Took > 50*time.Millisecond {
			slow = append(slow, fmt.Sprintf("%s %.2f s", r.Name, r.Took.Seconds()))
		}
	}
	s := fmt.Sprintf("%d modules loaded, %d without hardware", loaded, idle)
	if len(slow) > 0 {
		s += "; slow were " + strings.Join(slow, ", ")
	}
	return s
}

// modaliases collects what the devices below a directory of sysfs ask for.
func modaliases(dir string) ([]string, error) {
	var found []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // the device went away while we looked
		}
		if e.Name() == "modalias" && e.Type().IsRegular() {
			if text, err := os.ReadFile(path); err == nil && len(text) > 1 {
				found = append(found, strings.TrimSpace(string(text)))
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for devices: %w", err)
	}
	return found, nil
}

// KernelRelease returns the release of the running kernel, as uname -r.
func KernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}
