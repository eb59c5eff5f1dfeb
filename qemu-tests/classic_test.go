package qemutests

import (
	"bytes"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/vm"
)

const keptDecoded = "kept in memory decoded, too"

// The published case, end to end: the old kiosk boots through its own GRUB and is
// armed, GRUB boots the reimager once, the new kiosk boots through its own GRUB.
func TestClassicMachineIsReplaced(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	k := build(t, scenario.Spec{New: func(n *lab.KioskSpec) { n.BootScript = scenario.ShowScript }})
	old := map[int]map[string]lab.Entry{lab.KioskRoot: tree(t, k.Disk, lab.KioskRoot), lab.KioskLog: tree(t, k.Disk, lab.KioskLog)}
	guest := start(t, vm.Config{Drives: []vm.Drive{k.Drive()}, CPUs: 2})
	for _, text := range []string{k.Old.Banner(), "armed; rebooting now",
		"stage gather", saysNoBerth, "stage write", "cast off /dev/sda", "stage read back", "stage restore", "stage land", "boot the new system",
		k.New.Banner(), "new: kiosk-0042 " + k.Old.MachineID(), "atm(880) atm(880) /etc/kiosk/keys/client.key", k.New.Done()} {
		wait(ctx, t, guest, text)
	}
	if err := guest.WaitExit(ctx); err != nil { // it powers off
		t.Fatal(err)
	}

	if !guest.Console.Contains(keptDecoded) {
		t.Error("the image was not kept decoded, although there is memory for it")
	}
	if guest.Console.Contains("diagnosis shell") {
		t.Error("a shell was opened that nobody asked for")
	}
	for _, partition := range []int{lab.KioskBoot, lab.KioskRoot, lab.KioskData, lab.KioskLog} {
		want, got := tree(t, k.NewRaw, partition), tree(t, k.Disk, partition)
		expectRetained(k, want, old[partition], partition)
		forget(want, got, partition)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("partition %d (-want +got):\n%s", partition, diff)
		}
	}
	checkRecord(t, recordOf(t, k.Disk, lab.KioskLog, "/log/record.json"))
	log, err := lab.ReadFile(ctx, k.Disk, lab.KioskLog, "/log/reimager.log")
	must(t, err)
	for _, want := range []string{"reimager ", "stage gather", "stage write", "stage restore", "every one was read back"} {
		if !strings.Contains(string(log), want) {
			t.Errorf("reimager.log lacks %q", want)
		}
	}
	if n := strings.Count(string(log), "warning: no lifeboat"); n != 1 {
		t.Errorf("reimager.log says %d times that there is no lifeboat; want once", n)
	}
	if bytes.Contains(log, []byte("the till's own")) || bytes.Contains(log, []byte(k.Old.HostKey("ssh_host_rsa_key"))) {
		t.Error("reimager.log holds the content of a retained file")
	}
}

// expectRetained puts into want what the list keeps of the old tree, owned by
// name as the new system numbers it.
func expectRetained(k *scenario.Kiosk, want, old map[string]lab.Entry, partition int) {
	uids := map[int]int{}
	for i, u := range k.Old.Users {
		uids[u.ID] = k.New.Users[i].ID
	}
	keep := func(path string) {
		e, ok := old[path]
		if !ok {
			return
		}
		if id, ok := uids[e.UID]; ok {
			e.UID = id
		}
		if id, ok := uids[e.GID]; ok {
			e.GID = id
		}
		want[path] = e
	}
	if partition == lab.KioskLog {
		keep("till state.db")
		return
	}
	for _, f := range scenario.Kept() {
		keep(f.Path)
	}
	for path := range old {
		if path == "etc/machine-id" || path == "etc/hostname" || path == scenario.VaultFile || strings.HasPrefix(path, "etc/ssh/ssh_host_") {
			keep(path)
		}
	}
}

// forget drops what a boot of the new system and our log change by themselves: the
// times of folders that something was put into, and the log.
func forget(want, got map[string]lab.Entry, partition int) {
	if partition == lab.KioskRoot {
		delete(got, "var/lib/reimager/log") // leads to the log
		for _, made := range []string{"srv", "srv/one", "srv/two", "srv/names", "var/lib/reimager", "var/lib"} {
			if e, ok := got[made]; ok && want[made].Path == "" && e.Mode == fs.ModeDir|0o755 && e.UID == 0 && e.GID == 0 {
				delete(got, made) // parents that the new system did not have
			}
		}
	}
	if partition == lab.KioskLog {
		for _, p := range []string{"log", "log/reimager.log", "log/record.json"} {
			delete(got, p)
		}
	}
	for path, e := range got {
		w, ok := want[path]
		if ok && e.Mode.IsDir() && !strings.HasPrefix(path, "etc/kiosk/keys") {
			e.ModTime = w.ModTime
			got[path] = e
		}
	}
}

func checkRecord(t *testing.T, r map[string]any) {
	t.Helper()
	machine := r["machine"].(map[string]any)
	t.Logf("wake %v s, peak memory %.1f MiB", machine["wake_seconds"], machine["peak_bytes"].(float64)/(1<<20))
	if r["outcome"] != "restored" || r["error"] != nil || r["attempts"] != 1.0 {
		t.Errorf("record: outcome %v, error %v, attempts %v; want restored, none, 1", r["outcome"], r["error"], r["attempts"])
	}
	if peak := machine["peak_bytes"].(float64); peak == 0 || peak > 128<<20 {
		t.Errorf("record: peak memory %.0f bytes; want at most 128 MiB", peak)
	}
	retained := r["retained"].(map[string]any)
	if n := len(retained["entries"].([]any)); n != 17 {
		t.Errorf("record: %d retained entries; want 17", n)
	}
}

// With an empty list and no log every block of the disk is the image's, and what
// lies behind the image is as it was.
func TestEmptyListLeavesTheImage(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	k := build(t, scenario.Spec{NoRetain: true, Config: strings.ReplaceAll(scenario.ClassicConfig, "/kiosk/log", "off") + "[power_cut]\nlifeboat = \"off\"\n"})
	before := k.Disk + ".before"
	guest := start(t, vm.Config{Drives: []vm.Drive{k.Drive()}, NoReboot: true})
	wait(ctx, t, guest, "armed; rebooting now")
	waitExit(ctx, t, guest)
	must(t, lab.CopySparse(before, k.Disk))
	// With little memory the image is decoded again for the write.
	guest = start(t, vm.Config{Drives: []vm.Drive{k.Drive()}, NoReboot: true, MemoryMiB: 320})
	wait(ctx, t, guest, "boot the new system")
	waitExit(ctx, t, guest)
	if guest.Console.Contains(keptDecoded) {
		t.Error("the image was kept decoded, although memory is short")
	}
	if guest.Console.Contains("lifeboat") {
		t.Error("the run speaks of a lifeboat, which nobody wants")
	}

	image, err := os.Stat(k.NewRaw)
	must(t, err)
	if d := changed(t, k.NewRaw, k.Disk); len(d) > 0 {
		t.Errorf("%d blocks differ from the image, first at byte %d", len(d), d[0])
	}
	for _, off := range changed(t, before, k.Disk) {
		if off >= image.Size() {
			t.Errorf("block at byte %d behind the image was changed", off)
			break
		}
	}
	guest = start(t, vm.Config{Drives: []vm.Drive{k.Drive()}})
	wait(ctx, t, guest, k.New.Banner())
}

// The defaults do where fstabs are plain: old and new root and their filesystems
// are found, the disk that holds the root is the target, and the image is signed.
func TestDefaultsAndSignature(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	k := build(t, scenario.Spec{Config: scenario.DefaultConfig, Signed: true})
	guest := start(t, vm.Config{Drives: []vm.Drive{k.Drive()}})
	wait(ctx, t, guest, "old root /dev/sda2")
	wait(ctx, t, guest, "new root /dev/sda2")
	wait(ctx, t, guest, k.New.Done())
	waitExit(ctx, t, guest)
	record := recordOf(t, k.Disk, lab.KioskRoot, "/var/log/reimager/record.json")
	checkRecord(t, record)
	if by := record["image"].(map[string]any)["signed_by"]; by == nil {
		t.Error("record: the image was signed by nobody")
	}
	got := tree(t, k.Disk, lab.KioskRoot)["etc/kiosk/keys/client.key"]
	if got.UID != 880 || got.GID != 880 || got.Mode != 0o600 {
		t.Errorf("client.key: %d:%d %v; want 880:880 -rw-------", got.UID, got.GID, got.Mode)
	}
}
