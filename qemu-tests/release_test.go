package qemutests

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/vm"
)

// A signed release of imagebuild pack, armed by `reimager arm`: what the block map
// leaves out is not written, and with unmapped = "zero" nothing of the old system is
// left where it was.
func TestReleaseIsWritten(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	secret := strings.Repeat("a secret of the old system that is not retained ", 100)
	k := build(t, scenario.Spec{
		Config: "[machine]\ncompatible = [\"till\", \"kiosk-g3\"]\n[target]\nunmapped = \"zero\"\n[new]\nlog_dir = \"/kiosk/log\"\n",
		Pack:   "zst", PackFlags: []string{"--compatible", "kiosk-g3", "--counter", "7"},
		Old: func(o *lab.KioskSpec) {
			// Large enough to lie where the new system, whose kiosk has less, has nothing.
			o.Log = append(o.Log, lab.Text("secrets", 0o600, strings.Repeat(secret, 400)))
		},
	})
	if !holds(t, k.Disk, secret) {
		t.Fatal("the secret is not on the old disk")
	}
	old := map[int]map[string]lab.Entry{lab.KioskRoot: tree(t, k.Disk, lab.KioskRoot), lab.KioskLog: tree(t, k.Disk, lab.KioskLog)}
	guest := start(t, vm.Config{Drives: []vm.Drive{k.Drive()}})
	for _, text := range []string{"release kiosk 2.0, counter 7, signed by", "armed; rebooting now", "release  kiosk 2.0, counter 7", "cast off /dev/sda", k.New.Banner(), k.New.Done()} {
		wait(ctx, t, guest, text)
	}
	waitExit(ctx, t, guest)
	if holds(t, k.Disk, secret) {
		t.Error("the old system's secret is still on the disk")
	}
	for _, partition := range []int{lab.KioskBoot, lab.KioskRoot, lab.KioskData, lab.KioskLog} {
		want, got := tree(t, k.NewRaw, partition), tree(t, k.Disk, partition)
		expectRetained(k, want, old[partition], partition)
		forget(want, got, partition)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("partition %d (-want +got):\n%s", partition, diff)
		}
	}
	record := recordOf(t, k.Disk, lab.KioskLog, "/log/record.json")
	checkRecord(t, record)
	image := record["image"].(map[string]any)
	if image["name"] != "kiosk" || image["version"] != "2.0" || image["counter"] != 7.0 || image["signed_by"] == nil {
		t.Errorf("record: image %v; want the release kiosk 2.0, counter 7, signed", image)
	}
	if mapped, all := image["mapped_bytes"].(float64), image["bytes"].(float64); mapped <= 0 || mapped > all/2 {
		t.Errorf("record: %.0f of %.0f bytes are mapped; want less than half", mapped, all)
	}
}

// holds tells whether a text is anywhere on a disk.
func holds(t *testing.T, disk, text string) bool {
	t.Helper()
	f, err := os.Open(disk)
	must(t, err)
	defer f.Close()
	buf, kept := make([]byte, 1<<20), 0
	for {
		n, err := io.ReadFull(f, buf[kept:])
		if bytes.Contains(buf[:kept+n], []byte(text)) {
			return true
		}
		if err != nil {
			return false
		}
		kept = copy(buf, buf[kept+n-len(text):kept+n])
	}
}
