package qemutests

import (
	"strings"
	"testing"

	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/vm"
)

// A system without systemd and without a reimager of its own: the run leaves the
// program and its settings, and the boot script delivers the record, once.
func TestNewSystemDeliversItsRecord(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	k := build(t, scenario.Spec{
		Config: scenario.ClassicConfig + "[report]\nfile = \"/kiosk/report.json\"\ncommand = [\"/bin/sh\", \"-c\", \"cat >> /kiosk/commands\"]\n",
		New: func(n *lab.KioskSpec) {
			n.BootScript = "#!/bin/sh\nfor i in 1 2; do /usr/local/sbin/reimager report; echo report: ended with $?; done\n/usr/local/sbin/reimager status; echo status: ended with $?\n"
		},
	})
	guest := start(t, vm.Config{Drives: []vm.Drive{k.Drive()}})
	for _, text := range []string{"report: ended with 0", "has the record of run", "report: ended with 0", "state     done", "delivered to file /kiosk/report.json", "status: ended with 0", k.New.Done()} {
		wait(ctx, t, guest, text)
	}
	waitExit(ctx, t, guest)
	message := recordOf(t, k.Disk, lab.KioskLog, "/report.json")
	record := recordOf(t, k.Disk, lab.KioskLog, "/log/record.json")
	if message["state"] != "done" || message["host"] != "kiosk-0042" || message["run_id"] != record["run_id"] || record["run_id"] == nil {
		t.Errorf("delivered: state %v, host %v, run %v; want done, kiosk-0042, %v", message["state"], message["host"], message["run_id"], record["run_id"])
	}
	kept := message["record"].(map[string]any)["retained"].(map[string]any)
	if entries := record["retained"].(map[string]any)["entries"].([]any); kept["files"] != float64(len(entries)) || kept["entries"] != nil {
		t.Errorf("delivered of what was kept: %v; want the number %d alone", kept, len(entries))
	}
	commands, err := lab.ReadFile(ctx, k.Disk, lab.KioskLog, "/commands")
	if err != nil || strings.Count(string(commands), `"run_id"`) != 2 { // of message and record
		t.Errorf("the command has not read one record: %v\n%s", err, commands)
	}
	got := tree(t, k.Disk, lab.KioskRoot)
	for path, want := range map[string]bool{"etc/reimager/report.json": true, "usr/local/sbin/reimager": true, "etc/systemd": false} {
		if _, is := got[path]; is != want {
			t.Errorf("%s is there: %v; want %v", path, is, want)
		}
	}
}

// A run that failed is delivered from the old system that it came back to.
func TestOldSystemDeliversAFailedRun(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	k := build(t, scenario.Spec{
		Config: scenario.ClassicConfig + "[report]\nfile = \"/kiosk/report.json\"\n",
		Retain: "/no/such/file\n",
		Old: func(o *lab.KioskSpec) {
			o.BootScript = strings.Replace(o.BootScript, "BACK AFTER A FAILED RUN\"; exit", "BACK\"; reimager report; reimager status; echo status: ended with $?; exit", 1)
			o.After = lab.PowerOff
			o.BootScript = strings.Replace(o.BootScript, "reimager arm --reboot /data/release", "reimager arm --reboot --force retained /data/release && sleep 1000", 1)
		},
	})
	guest := start(t, vm.Config{Drives: []vm.Drive{k.Drive()}})
	for _, text := range []string{"armed; rebooting now", "old: BACK", "delivered the record", "state     failed", "status: ended with 5", k.Old.Done()} {
		wait(ctx, t, guest, text)
	}
	waitExit(ctx, t, guest)
	message := recordOf(t, k.Disk, lab.KioskLog, "/report.json")
	record := message["record"].(map[string]any)
	if message["state"] != "failed" || message["machine_id"] != k.Old.MachineID() || !strings.Contains(record["error"].(string), "/no/such/file") {
		t.Errorf("delivered: state %v of %v: %v", message["state"], message["machine_id"], record["error"])
	}
}
