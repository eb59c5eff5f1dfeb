package qemutests

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/config"
	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/vm"
)

// checked is what `reimager check --json` writes.
type checked struct {
	Failed, Warned, Passed int
	Results                []struct{ Name, Verdict, Found, Hint string }
}

// Started by kexec, the run is the same, and GRUB's files stay as they were.
func TestKexecStartsTheRun(t *testing.T) {
	t.Parallel()
	k := build(t, scenario.Spec{
		Config: scenario.DefaultConfig, Pack: "zst",
		Old: func(o *lab.KioskSpec) {
			o.BootScript = "#!/bin/sh\nreimager arm --kexec /data/release\n" +
				"[ -e /boot/grub/custom.cfg ] || echo 'GRUB knows nothing'\nreimager status\nreimager arm --kexec --reboot /data/release\n"
		},
	})
	ctx := withTimeout(t)
	guest := start(t, vm.Config{Drives: []vm.Drive{k.Drive()}, NoReboot: true}) // kexec is no reset
	for _, text := range []string{"the run that replaces the operating system starts at the next `systemctl kexec`", "GRUB knows nothing", "state     armed", "armed; rebooting now", "release  kiosk 2.0", "boot the new system"} {
		wait(ctx, t, guest, text)
	}
	waitExit(ctx, t, guest)
	checkRecord(t, recordOf(t, k.Disk, lab.KioskRoot, "/var/log/reimager/record.json"))
	if got := tree(t, k.Disk, lab.KioskRoot)["etc/kiosk/keys/client.key"]; got.UID != 880 || got.Mode != 0o600 {
		t.Errorf("client.key: owner %d, %v; want 880, -rw-------", got.UID, got.Mode)
	}
}

// The machine itself says what it knows before a reboot: all of it passes for a signed
// release that fits; a rehearsal that is required but was not run refuses to arm, and
// nothing on the disk is changed but where the answers are kept.
func TestCheckOnTheMachine(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	k := build(t, scenario.Spec{
		Config: "[machine]\ncompatible = [\"kiosk-g3\"]\n[arm]\nrehearsal = \"require\"\n",
		Pack:   "zst", PackFlags: []string{"--compatible", "kiosk-g3", "--counter", "7"},
		Old: func(o *lab.KioskSpec) {
			o.After = lab.PowerOff
			o.BootScript = `#!/bin/sh
reimager check; echo "machine: $?"
reimager check /data/release; echo "release: $?"
reimager check /data/release --json > /kiosk/check.json; echo "json: $?"
reimager arm /data/release; echo "unrehearsed: $?"
reimager arm --force signature /data/release; echo "forced: $?"
reimager hardware -o /kiosk/hardware.json; echo "hardware: $?"
reimager arm --rehearse /data/release; echo "armed: $?"
cp /boot/reimager/job.json /boot/reimager/gate /kiosk; reimager disarm; echo "disarmed: $?"
mv /boot/grub/grubenv /boot/grub/good
dd if=/dev/zero of=/boot/grub/grubenv bs=1 count=0 seek=1024
reimager check --json > /kiosk/sparse.json; rm /boot/grub/grubenv
reimager check --json > /kiosk/missing.json
ln -s good /boot/grub/grubenv
reimager check --json > /kiosk/link.json; mv /boot/grub/good /boot/grub/grubenv
`
		},
	})
	before := map[int]map[string]lab.Entry{}
	for _, p := range []int{lab.KioskBoot, lab.KioskRoot} {
		before[p] = tree(t, k.Disk, p)
	}
	guest := start(t, vm.Config{Drives: []vm.Drive{k.Drive()}})
	for _, text := range []string{"machine: 0", "release: 1", "json: 1", "unrehearsed: 1", "this check cannot be forced", "forced: 1", "hardware: 0",
		"armed: the next boot rehearses", "armed: 0", "disarmed: 0"} {
		wait(ctx, t, guest, text)
	}
	waitExit(ctx, t, guest)

	verdicts := verdictsOf(t, k, "/check.json")
	want := map[string]string{"lifeboat": "warn", "rehearsal": "fail"}
	for _, name := range []string{"release", "signature", "digests", "compatible", "downgrade", "kernel", "target", "contents", "disk-size", "old-root",
		"source", "drivers", "filesystems", "memory", "retained", "space", "owners", "conflicts", "firmware", "boot-loader", "grubenv",
		"next-entry", "boot-space", "report", "power"} {
		want[name] = "pass"
	}
	if diff := cmp.Diff(want, verdicts); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}

	for name, want := range map[string]string{"/sparse.json": "fail", "/missing.json": "fail", "/link.json": "pass"} {
		if got := verdictsOf(t, k, name)["grubenv"]; got != want {
			t.Errorf("%s: grubenv %q, want %q", name, got, want)
		}
	}

	job, err := config.ParseJob("job.json", logFile(t, k, "/job.json"))
	must(t, err)
	release := k.Kernel.Version
	boot, root := "UUID="+k.Old.FSUUID(lab.KioskBoot), "UUID="+k.Old.FSUUID(lab.KioskRoot)
	if !job.Rehearse || job.Release.Counter != 7 || job.Machine.Firmware != "bios" || job.Gate.String() != boot+":/reimager/gate" || job.WayBack == nil ||
		job.WayBack.Kernel.String() != boot+":/vmlinuz-"+release || job.WayBack.Initrd.String() != boot+":/initrd.img-"+release ||
		!strings.Contains(job.WayBack.Cmdline, "root="+root) || strings.Contains(job.WayBack.Cmdline, "BOOT_IMAGE") {
		t.Errorf("job: %+v, way back %+v", job, job.WayBack)
	}
	if job.Boot == nil || job.Boot.Kernel.String() != boot+":/reimager/kernel" || job.Boot.Initrd.String() != boot+":/reimager/initrd" ||
		!strings.Contains(job.Boot.Cmdline, "panic=10") || strings.Contains(job.Boot.Cmdline, "reimager.job") {
		t.Errorf("job: boot %+v", job.Boot)
	}
	if gate := string(logFile(t, k, "/gate")); len(gate) != 1024 || !strings.Contains(gate, "reimager_gate=armed\nreimager_berth=0x0000000000000000\nreimager_run="+job.RunID+"\n") {
		t.Errorf("gate: %q", gate)
	}
	for p, was := range before {
		for path := range tree(t, k.Disk, p) {
			if _, ok := was[path]; !ok && path != "var/lib/reimager" {
				t.Errorf("partition %d: %s is left behind", p, path)
			}
		}
	}
}

func verdictsOf(t *testing.T, k *scenario.Kiosk, name string) map[string]string {
	t.Helper()
	var got checked
	must(t, json.Unmarshal(logFile(t, k, name), &got))
	verdicts := map[string]string{}
	for _, r := range got.Results {
		verdicts[r.Name] = r.Verdict
	}
	return verdicts
}

func logFile(t *testing.T, k *scenario.Kiosk, name string) []byte {
	t.Helper()
	text, err := lab.ReadFile(t.Context(), k.Disk, lab.KioskLog, name)
	must(t, err)
	return text
}
