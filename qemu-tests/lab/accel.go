package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"reimager/vm"
)

// Accelerator is vm.Accelerator, which probes once per boot of the host.
func Accelerator(ctx context.Context) (string, error) {
	return vm.Accelerator(func() (bool, error) { return kvmWorks(ctx) })
}

func kvmWorks(ctx context.Context) (bool, error) {
	cache, err := OpenCache()
	if err != nil {
		return false, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return false, fmt.Errorf("choose accelerator: %w", err)
	}
	dir, err := cache.Entry(ctx, "accel", KeyOf(string(boot)), func(dir string) error {
		kernel, err := StockKernel(ctx, cache)
		if err != nil {
			return err
		}
		accel := "tcg"
		if works, err := vm.KVMBoots(ctx, kernel.Image); err != nil {
			return err
		} else if works {
			accel = "kvm"
		}
		return os.WriteFile(filepath.Join(dir, "accel"), []byte(accel), 0o644)
	})
	if err != nil {
		return false, err
	}
	answer, err := os.ReadFile(filepath.Join(dir, "accel"))
	return strings.TrimSpace(string(answer)) == "kvm", err
}
