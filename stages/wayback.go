package stages

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"reimager/boot"
	"reimager/config"
	"reimager/disk"
	"reimager/wake"
)

// LoadOld loads the old system's kernel for kexec, as arm has noted it.
func (r *Run) LoadOld(ctx context.Context) error {
	way := r.Job.WayBack
	if way == nil {
		return errors.New("find the way back: the job names none")
	}
	// A kernel without its root would stand still where nobody can see why.
	root := config.Device{Kind: config.ByUUID, Value: r.Job.OldRoot}
	if _, err := r.await(ctx, root, nil); err != nil {
		return fmt.Errorf("find the way back: the old root is gone: %w", err)
	}
	if way.Initrd.IsZero() {
		return r.loadKexec(ctx, way.Kernel, nil, way.Cmdline)
	}
	return r.loadKexec(ctx, way.Kernel, []config.Source{way.Initrd}, way.Cmdline)
}

// grubConfigs is where a system's grub.cfg lies: on its root, or on a filesystem of
// its own that it mounts on /boot.
func grubConfigs() []string {
	return []string{"/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/grub/grub.cfg", "/grub2/grub.cfg"}
}

// LoadNew loads for kexec what the new system's own first menu entry boots.
func (r *Run) LoadNew(ctx context.Context) error {
	all, err := r.places()
	if err != nil {
		return err
	}
	var why []error
	for _, target := range r.targets() {
		for _, p := range all {
			if p.disk.Name != target.Name || !p.fs.Mountable() {
				continue
			}
			entry, err := r.firstEntry(ctx, p)
			if err == nil {
				return r.loadEntry(ctx, p, entry, &target)
			}
			why = append(why, fmt.Errorf("%s: %w", p, err))
		}
	}
	return fmt.Errorf("find the new system's own menu: %w", errors.Join(why...))
}

// firstEntry reads the menu that lies on a filesystem.
func (r *Run) firstEntry(ctx context.Context, p place) (entry *boot.FirstEntry, err error) {
	if err := r.mount(ctx, p, sourceDir, unix.MS_RDONLY); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, wake.UnmountBelow(sourceDir)) }()
	root, err := os.OpenRoot(sourceDir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for _, name := range grubConfigs() {
		f, err := root.Open(strings.TrimPrefix(name, "/"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		text, err := readAtMost(f, 1<<20)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		return boot.ParseFirstEntry(string(text))
	}
	return nil, errors.New("no grub.cfg")
}

func (r *Run) loadEntry(ctx context.Context, menu place, entry *boot.FirstEntry, target *disk.Disk) error {
	device := config.Device{Kind: config.ByUUID, Value: entry.FSUUID}
	if entry.FSUUID == "" {
		device.Value = menu.fs.UUID
	}
	// Nothing but the new system: an old one may have the same UUIDs on another disk.
	p, err := r.find(device, target)
	if err != nil {
		return err
	}
	if p.disk.Name != target.Name {
		return fmt.Errorf("find %s: it is %s, which is not on %s", device, p, target.Path)
	}
	var initrds []config.Source
	for _, name := range entry.Initrds {
		initrds = append(initrds, config.Source{Device: device, Path: path.Clean(name)})
	}
	return r.loadKexec(ctx, config.Source{Device: device, Path: entry.Kernel}, initrds, entry.Cmdline)
}

// loadKexec copies kernel and initrds into memory, where the kernel takes them from: they
// may lie on several filesystems, which are not mounted any more when they are loaded.
func (r *Run) loadKexec(ctx context.Context, kernel config.Source, initrds []config.Source, cmdline string) (err error) {
	k, err := r.inMemory(ctx, "kernel", kernel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	var all *os.File
	if len(initrds) > 0 {
		// Several are one behind the other, as a boot loader puts them:
		// Documentation/driver-api/early-userspace/buffer-format.rst.
		if all, err = r.inMemory(ctx, "initrd", initrds...); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, all.Close()) }()
	}
	if err := boot.LoadKexec(k, all, cmdline); err != nil {
		return err
	}
	r.Report.Printf("kexec    %s is loaded", kernel)
	return nil
}

// inMemory returns a copy of files, one behind the other. It is opened anew for reading
// alone: the kernel takes none that somebody may write to (ETXTBSY, fs/kernel_read_file.c).
func (r *Run) inMemory(ctx context.Context, what string, sources ...config.Source) (_ *os.File, err error) {
	fd, err := unix.MemfdCreate(what, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make room for %s: %w", what, err)
	}
	to := os.NewFile(uintptr(fd), what)
	defer func() { err = errors.Join(err, to.Close()) }()
	for _, source := range sources {
		err := r.withFile(ctx, source, func(from *os.File) error {
			n, err := io.Copy(to, from)
			if err != nil {
				return fmt.Errorf("read %s: %w", source, err)
			}
			// An archive begins at a multiple of four bytes.
			_, err = to.Write(make([]byte, -n&3))
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
}
