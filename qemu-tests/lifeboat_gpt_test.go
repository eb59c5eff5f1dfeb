package qemutests

import (
	"bytes"
	"path/filepath"
	"slices"
	"testing"

	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/qemu-tests/writelog"
)

// gptHook looks for partitions, and ruins the one with the lifeboat if it can.
const gptHook = `
[[hook]]
run = ["/bin/sh", "-c", "for d in /dev/sda*; do echo $d is there; done; [ ! -e /dev/sda3 ] || dd if=/dev/zero of=/dev/sda3 bs=1M"]
`

// A BIOS, and an image with a GPT: its headers, which the kernel would find partitions by,
// are held back until all else is there. The power is cut before, between and after them.
func TestLifeboatWithGPT(t *testing.T) {
	t.Parallel()
	spec := scenario.Lifeboat()
	spec.New = func(n *lab.KioskSpec) {
		scenario.SmallKiosk(n)
		n.GPT = true
		// So large that the berth lies in it.
		n.SwapMiB, n.SizeMiB = n.SwapMiB+100, n.SizeMiB+100
	}
	spec.Config += gptHook
	p, err := sail(withTimeout(t), filepath.Join(t.TempDir(), "passage"), spec)
	must(t, err)
	p.checkNew(t, p.Disk, true)
	log, err := lab.ReadFile(t.Context(), p.Disk, lab.KioskLog, "/log/reimager.log")
	must(t, err)
	if own := bytes.Contains(log, []byte("/dev/sda2 is there")); !own || bytes.Contains(log, []byte("/dev/sda3 is there")) {
		t.Errorf("the hook sees the new root: %v; it must, and must not see the partition with the lifeboat:\n%s", own, log)
	}

	writing, _, _ := p.interval(stateWriting)
	restoring, restored, _ := p.interval(stateRestoring)
	landed, _, ok := p.interval(phaseLanded)
	between := slices.IndexFunc(p.log.Entries()[restoring:restored], func(e writelog.Entry) bool { return e.Writes() && e.Overlaps(512, 512) })
	if !ok || between < 0 {
		t.Fatal("the primary header was not written between restoring and landing")
	}
	cuts := []writelog.Cut{
		{At: (writing + restoring) / 2, Loss: writelog.Torn, Seed: *seed},
		{At: restoring + between, Loss: writelog.Nothing},
		{At: landed, Loss: writelog.Torn, Seed: *seed},
	}
	must(t, p.cut(t.TempDir(), cuts, func(c writelog.Cut, disk string) error {
		t.Run(p.phaseAt(c.At), func(t *testing.T) {
			t.Parallel()
			const signature = "EFI PART"
			size := p.Old.SizeMiB << 20
			primary, backup := string(readRange(t, disk, 512, 8)) == signature, string(readRange(t, disk, size-512, 8)) == signature
			t.Logf("%s; GPT header: %v, its backup: %v", c, primary, backup)
			if late := c.At > restoring; backup != late || primary != (late && c.Loss != writelog.Nothing) {
				t.Error("the headers come before all else is there, or the primary before its backup")
			}
			complete(t, p, disk)
		})
		return nil
	}))
}
