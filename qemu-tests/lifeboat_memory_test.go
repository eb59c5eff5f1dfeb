package qemutests

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/vm"
)

var lowMemoryData = flag.Int64("lowmemory", 144, "MiB in the image of TestLowMemory that cannot be compressed")

// A machine with 256 MiB takes an image of 4 GiB which does not fit its memory: it is
// streamed from the berth.
func TestLowMemory(t *testing.T) {
	t.Parallel()
	const memoryMiB = 256
	filler := filepath.Join(t.TempDir(), "filler")
	digest := writeNoise(t, filler, *lowMemoryData*mebibyte)
	spec := scenario.Lifeboat()
	spec.New = func(n *lab.KioskSpec) {
		scenario.SmallKiosk(n)
		n.SizeMiB = 4096
		n.Data = append(n.Data, lab.File{Path: "filler", Source: filler})
	}
	spec.Old = func(o *lab.KioskSpec) {
		// The swap partition is behind all that the image maps.
		o.RootMiB, o.SwapMiB = 4096, *lowMemoryData+80
		o.SizeMiB = o.RootMiB + o.SwapMiB + *lowMemoryData + 160
	}
	k := build(t, spec)
	old := map[int]map[string]lab.Entry{lab.KioskRoot: tree(t, k.Disk, lab.KioskRoot), lab.KioskLog: tree(t, k.Disk, lab.KioskLog)}
	// Each byte passes six times through an emulated machine.
	ctx, cancel := context.WithTimeout(t.Context(), patience+time.Duration(*lowMemoryData)*time.Second)
	defer cancel()
	guest := start(t, vm.Config{Drives: []vm.Drive{k.Drive()}, MemoryMiB: memoryMiB, CPUs: 2})
	for _, text := range []string{"armed; rebooting now", saysBoard, saysProve, saysCast, k.New.Done()} {
		wait(ctx, t, guest, text)
	}
	waitExit(ctx, t, guest)
	for _, partition := range []int{lab.KioskBoot, lab.KioskRoot, lab.KioskData, lab.KioskLog} {
		want, got := tree(t, k.NewRaw, partition), tree(t, k.Disk, partition)
		expectRetained(k, want, old[partition], partition)
		forget(want, got, partition)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("partition %d (-want +got):\n%s", partition, diff)
		}
	}
	if got := tree(t, k.Disk, lab.KioskData)["filler"].SHA256; got != digest {
		t.Errorf("filler: SHA-256 %s; want %s", got, digest)
	}
	record := recordOf(t, k.Disk, lab.KioskLog, "/log/record.json")
	machine, image := record["machine"].(map[string]any), record["image"].(map[string]any)
	memory, peak, compressed := machine["memory_bytes"].(float64), machine["peak_bytes"].(float64), image["compressed_bytes"].(float64)
	t.Logf("%.0f MiB of memory, a peak of %.1f MiB; image of %.0f MiB, compressed %.1f MiB", memory/mebibyte, peak/mebibyte, image["bytes"].(float64)/mebibyte, compressed/mebibyte)
	if memory > memoryMiB*mebibyte || compressed < memory/2 || peak == 0 || peak > 128*mebibyte {
		t.Errorf("peak of %.1f MiB with an image of %.1f MiB; want at most 128, with more than half of %d", peak/mebibyte, compressed/mebibyte, memoryMiB)
	}
}

// writeNoise makes a file that nothing compresses, and returns its digest.
func writeNoise(t *testing.T, name string, size int64) string {
	t.Helper()
	f, err := os.Create(name)
	must(t, err)
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], *seed)
	sum := sha256.New()
	_, err = io.CopyN(io.MultiWriter(f, sum), rand.NewChaCha8(key), size)
	must(t, err)
	must(t, f.Close())
	return hex.EncodeToString(sum.Sum(nil))
}
