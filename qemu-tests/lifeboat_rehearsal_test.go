package qemutests

import (
	"testing"

	"reimager/boot"
	"reimager/config"
	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/vm"
)

// A rehearsal proves the lifeboat too, and comes back to the old system, of which
// nothing outside of the berth has changed.
func TestRehearsalProvesLifeboat(t *testing.T) {
	t.Parallel()
	p := sailed(t)
	ctx := withTimeout(t)
	disk := t.TempDir() + "/disk.raw"
	must(t, lab.CopySparse(disk, p.armed))
	editJob(t, disk, func(j *config.Job) { j.Rehearse = true })
	guest := start(t, vm.Config{Drives: []vm.Drive{{Path: disk, Serial: scenario.Serial}}})
	for _, text := range []string{saysBoard, saysProve, "lifeboat proven", "rehearse passed; nothing was written", "outcome boot the old system", p.Old.Banner()} {
		wait(ctx, t, guest, text)
	}
	must(t, guest.Kill())
	if guest.Console.Contains("stage write") {
		t.Error("the console speaks of a write")
	}
	p.checkUntouched(t, disk)
	checkGate(t, disk, boot.GateTried)
	r := reportOn(t, disk).Record
	if r.Outcome != "rehearsed" || r.Error != "" || r.Rehearsal == nil || r.Lifeboat == nil || !r.Lifeboat.Proven || r.Lifeboat.Starts != 1 {
		t.Fatalf("report: outcome %q, error %q, rehearsal %v, lifeboat %+v; want one that passed, with a lifeboat that was proven", r.Outcome, r.Error, r.Rehearsal, r.Lifeboat)
	}
	if spent := r.Spent("gather", "board", "prove").Seconds(); r.Rehearsal.DowntimeSeconds <= spent {
		t.Errorf("report: downtime %.1f s; want more than the %.1f s of gather, board and prove", r.Rehearsal.DowntimeSeconds, spent)
	}
}
