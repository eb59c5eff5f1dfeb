package qemutests

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"reimager/qemu-tests/scenario"
	"reimager/vm"
)

// Real systems: Debian 12 with systemd is armed by its own service and replaced by
// Debian 13, each with its own kernel and the GRUB that Debian's tools set up.
func TestDebianIsReplaced(t *testing.T) {
	t.Parallel()
	d, err := scenario.BuildDebian(t.Context(), t.TempDir())
	must(t, err)
	old := tree(t, d.Disk, d.OldRoot)
	brought := tree(t, d.Release.Disk.Path, d.NewRoot)
	ctx := withTimeout(t)
	guest := start(t, vm.Config{Drives: []vm.Drive{d.Drive()}, MemoryMiB: d.MemoryMiB()})
	for _, text := range []string{"old: Debian GNU/Linux 12", "armed; rebooting now", "stage gather", "stage write",
		"stage restore", "boot the new system", "Debian GNU/Linux 13"} {
		wait(ctx, t, guest, text)
	}
	// The login prompt and the unit come in any order.
	login, told := regexp.QuoteMeta(d.Old.LoginPrompt()), regexp.QuoteMeta(scenario.Delivered)
	_, err = guest.WaitForMatch(ctx, regexp.MustCompile(fmt.Sprintf("(?s)%s.*%s|%s.*%s", login, told, told, login)))
	must(t, err)
	guest.Kill()

	got := tree(t, d.Disk, d.NewRoot)
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

func checkDebianRecord(t *testing.T, r map[string]any) {
	t.Helper()
	peak := r["machine"].(map[string]any)["peak_bytes"].(float64)
	t.Logf("peak memory %.1f MiB, stages %v", peak/(1<<20), r["stages"])
	if r["outcome"] != "restored" || peak > 128<<20 {
		t.Errorf("record: outcome %v, peak memory %.0f bytes; want restored with at most 128 MiB", r["outcome"], peak)
	}
}
