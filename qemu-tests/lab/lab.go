// Package lab is the disks of virtual machines and the systems on them, for
// tests, the demo and benchmarks. Kiosks are built without root and without
// loop devices; ReadTree, InjectFiles and BuildDebian need root. The machines
// themselves are those of package vm.
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"reimager/vm"
)

// Packages are the Debian packages (Ubuntu has the same names) whose tools the
// lab runs.
const Packages = "qemu-system-x86 grub-pc-bin grub-common fdisk e2fsprogs busybox-static kmod xz-utils fakeroot bzip2"

// Start starts a VM with the accelerator that works here.
func Start(ctx context.Context, config vm.Config) (*vm.VM, error) {
	if config.Accel == "" {
		var err error
		if config.Accel, err = Accelerator(ctx); err != nil {
			return nil, err
		}
	}
	return vm.Start(ctx, config)
}

// writeAtomically gives path its content by rename, so that an interrupted
// run leaves no half file that a later one would believe.
func writeAtomically(path string, mode os.FileMode, write func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("create file for %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(write(f), f.Chmod(mode), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}
