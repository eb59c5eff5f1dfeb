package qemutests

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/vm"
)

// debianPatience is for two real systems, and an image of the size of real ones.
const debianPatience = 3 * patience

var debians = flag.Bool("debians", false, "replace each old Debian, on BIOS and UEFI; otherwise only Debian 12 on a BIOS")

// Real systems: an old Debian with systemd is armed by its own service and replaced by
// Debian 13, each with its own kernel and the GRUB that Debian's tools set up.
func TestDebians(t *testing.T) {
	t.Parallel()
	var left []string
	for _, tc := range []struct {
		name, release string
		spec          scenario.DebianSpec
		always        bool
	}{
		{name: "12-BIOS", release: "12", spec: scenario.DebianSpec{Suite: "bookworm"}, always: true},
		{name: "12-UEFI", release: "12", spec: scenario.DebianSpec{Suite: "bookworm", UEFI: true}},
		{name: "11-BIOS", release: "11", spec: scenario.DebianSpec{Suite: "bullseye"}},
		{name: "11-UEFI", release: "11", spec: scenario.DebianSpec{Suite: "bullseye", UEFI: true}},
		{name: "13-BIOS", release: "13", spec: scenario.DebianSpec{Suite: "trixie"}},
		{name: "13-UEFI", release: "13", spec: scenario.DebianSpec{Suite: "trixie", UEFI: true}},
	} {
		if !tc.always && !*debians {
			left = append(left, tc.name)
			continue
		}
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			replaceDebian(t, tc.spec, tc.release)
		})
	}
	if len(left) > 0 {
		t.Logf("left to `just soak`, or -debians: %s", strings.Join(left, ", "))
	}
}

func replaceDebian(t *testing.T, spec scenario.DebianSpec, release string) {
	d, err := scenario.BuildDebian(t.Context(), t.TempDir(), spec)
	must(t, err)
	old := tree(t, d.Disk, d.OldRoot)
	brought := tree(t, d.Release.Disk.Path, d.NewRoot)
	ctx, cancel := context.WithTimeout(t.Context(), debianPatience)
	defer cancel()
	guest := start(t, vm.Config{Drives: []vm.Drive{d.Drive()}, MemoryMiB: d.MemoryMiB(), UEFI: d.Firmware, CPUs: 2})
	for _, text := range []string{"old: Debian GNU/Linux " + release, "armed; rebooting now", "stage gather", "stage write",
		"stage restore", "boot the new system", "Debian GNU/Linux 13"} {
		wait(ctx, t, guest, text)
	}
	// The login prompt and the unit come in any order.
	login, told := regexp.QuoteMeta(d.Old.LoginPrompt()), regexp.QuoteMeta(scenario.Delivered)
	_, err = guest.WaitForMatch(ctx, regexp.MustCompile(fmt.Sprintf("(?s)%s.*%s|%s.*%s", login, told, told, login)))
	must(t, err)
	guest.Kill()

	checkVerdicts(t, guest.Console.Lines())
	if spec.UEFI {
		checkTable(t, d.Release.Disk.Path, d.Disk)
		checkESP(t, partition(t, d.Release.Disk.Path, lab.DebianESP), partition(t, d.Disk, lab.DebianESP))
	}
	got := tree(t, d.Disk, d.NewRoot)
	checkIdentity(t, old, brought, got)
	if got["etc/debian_version"].SHA256 != brought["etc/debian_version"].SHA256 {
		t.Error("etc/debian_version is not the new system's")
	}
	for _, path := range []string{"/root/report.json", "/root/by-command.json"} {
		message := recordOf(t, d.Disk, d.NewRoot, path)
		if message["state"] != "done" || message["host"] != d.Old.Hostname || message["machine_id"] != d.Old.MachineID {
			t.Errorf("%s: state %v of %v, %v; want done of %s, %s", path, message["state"], message["host"], message["machine_id"], d.Old.Hostname, d.Old.MachineID)
		}
	}
	checkDebianRecord(t, recordOf(t, d.Disk, d.NewRoot, "/var/log/reimager/record.json"))
}

// checkVerdicts reads what the checks before arming said about a stock system.
func checkVerdicts(t *testing.T, lines []vm.Line) {
	t.Helper()
	passed := 0
	for _, line := range lines {
		// systemd puts the program's name before what it says.
		if strings.Contains(line.Text, "pass  ") {
			passed++
		}
		if _, found, ok := strings.Cut(line.Text, "warn  "); ok {
			t.Logf("a check warns: %s", found)
		}
		if _, found, ok := strings.Cut(line.Text, "fail  "); ok {
			t.Errorf("a check fails: %s", found)
		}
	}
	if passed < 10 {
		t.Errorf("%d checks passed; want at least ten: the console lacks them", passed)
	}
}

// checkESP holds an EFI system partition to the image's, but for the mark of a FAT16
// that is mounted (byte 37): the new system has mounted it.
func checkESP(t *testing.T, want, got []byte) {
	t.Helper()
	const state, dirty = 37, 1 // FAT_STATE_DIRTY: linux/msdos_fs.h
	want[state] &^= dirty
	got[state] &^= dirty
	if !bytes.Equal(want, got) {
		t.Error("the EFI system partition is not the image's")
	}
}

// checkIdentity holds what makes the machine itself to the old system's.
func checkIdentity(t *testing.T, old, brought, got map[string]lab.Entry) {
	t.Helper()
	var keys int
	for path, e := range old {
		if path == "etc/machine-id" || strings.HasPrefix(path, "etc/ssh/ssh_host_") {
			keys++
			if g := got[path]; g.SHA256 != e.SHA256 || g.Mode != e.Mode || g.UID != e.UID || g.GID != e.GID || !g.ModTime.Equal(e.ModTime) {
				t.Errorf("%s: %+v; want that of the old system %+v", path, g, e)
			}
			if brought[path].SHA256 == e.SHA256 {
				t.Errorf("%s: the image brings the same; this proves nothing", path)
			}
		}
	}
	if keys < 5 {
		t.Errorf("the old system has %d files of identity; want machine-id and at least two key pairs", keys)
	}
	want := old["var/lib/atm/keys/client.key"]
	key := got["var/lib/atm/keys/client.key"]
	if want.UID != 990 || key.UID != 880 || key.GID != 880 || key.Mode != 0o600 || key.SHA256 != want.SHA256 || !key.ModTime.Equal(want.ModTime) {
		t.Errorf("service key: %+v; want that of the old system %+v, owned by 880:880", key, want)
	}
}

func checkDebianRecord(t *testing.T, r map[string]any) {
	t.Helper()
	peak := r["machine"].(map[string]any)["peak_bytes"].(float64)
	t.Logf("peak memory %.1f MiB, stages %v", peak/(1<<20), r["stages"])
	if r["outcome"] != "restored" || peak > 128<<20 {
		t.Errorf("record: outcome %v, peak memory %.0f bytes; want restored with at most 128 MiB", r["outcome"], peak)
	}
}
