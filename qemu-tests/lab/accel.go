package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// probeTime is how long a probe guest has to boot under KVM; where KVM works
// it needs less than two seconds.
const probeTime = 8 * time.Second

// Accelerator returns "kvm" where a guest really boots under it, else "tcg".
// A /dev/kvm that opens may still hang a stock kernel (nested virtualisation),
// so a probe guest is started, once per boot of the host.
// $REIMAGER_ACCEL overrides.
func Accelerator(ctx context.Context) (string, error) {
	switch forced := os.Getenv("REIMAGER_ACCEL"); forced {
	case "kvm", "tcg":
		return forced, nil
	case "":
	default:
		return "", fmt.Errorf("choose accelerator: REIMAGER_ACCEL is %q, want kvm or tcg", forced)
	}
	device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "tcg", nil
	}
	if err := device.Close(); err != nil {
		return "", err
	}
	cache, err := OpenCache()
	if err != nil {
		return "", err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("choose accelerator: %w", err)
	}
	dir, err := cache.Entry(ctx, "accel", KeyOf(string(boot)), func(dir string) error {
		kernel, err := StockKernel(ctx, cache)
		if err != nil {
			return err
		}
		accel := "tcg"
		if works, err := kvmBoots(ctx, kernel); err != nil {
			return err
		} else if works {
			accel = "kvm"
		}
		return os.WriteFile(filepath.Join(dir, "accel"), []byte(accel), 0o644)
	})
	if err != nil {
		return "", err
	}
	answer, err := os.ReadFile(filepath.Join(dir, "accel"))
	return strings.TrimSpace(string(answer)), err
}

// kvmBoots starts the kernel without a root filesystem: the panic about it is
// the proof that it came up.
func kvmBoots(ctx context.Context, kernel Kernel) (bool, error) {
	limited, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	vm, err := Start(limited, Config{
		Accel: "kvm", MemoryMiB: 256, Kernel: kernel.Image, NoReboot: true,
		Append: "console=ttyS0 panic=-1",
	})
	if err == nil {
		err = vm.WaitFor(limited, "Unable to mount root fs")
		err = errors.Join(err, vm.Kill())
	}
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	// Whatever else went wrong under KVM is the answer to the question.
	return err == nil, nil
}
