package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// probeTime is how long a probe guest has to boot under KVM; where KVM works
// it needs less than two seconds.
const probeTime = 8 * time.Second

// Accelerator returns "kvm" where a guest really boots under it, else "tcg". A
// /dev/kvm that opens may still hang a stock kernel (nested virtualisation), so
// probe is asked whether it works: by KVMBoots, or from memory.
// $REIMAGER_ACCEL overrides.
func Accelerator(probe func() (works bool, err error)) (string, error) {
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
	works, err := probe()
	if err != nil || !works {
		return "tcg", err
	}
	return "kvm", nil
}

// KVMBoots starts a kernel without a root filesystem under KVM: the panic about
// it is the proof that it came up.
func KVMBoots(ctx context.Context, kernel string) (bool, error) {
	limited, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	guest, err := Start(limited, Config{
		Accel: "kvm", MemoryMiB: 256, Kernel: kernel, NoReboot: true,
		Append: "console=ttyS0 panic=-1",
	})
	if err == nil {
		err = guest.WaitFor(limited, "Unable to mount root fs")
		err = errors.Join(err, guest.Kill())
	}
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	// Whatever else went wrong under KVM is the answer to the question.
	return err == nil, nil
}
