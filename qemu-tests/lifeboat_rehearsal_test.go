package qemutests

import (
	"testing"

	"reimager/boot"
	"reimager/config"
	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/report"
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
	replayJournals(t, disk)
	before := disk + ".before"
	must(t, lab.CopySparse(before, disk))

	machine := vm.Config{Drives: []vm.Drive{{Path: disk, Serial: scenario.Serial}}, NoReboot: true}
	for _, texts := range [][]string{
		{saysBoard, "outcome start the lifeboat"},
		{saysProve, "lifeboat proven", "rehearse passed; nothing was written", "outcome boot the old system"},
	} {
		guest := start(t, machine)
		for _, text := range texts {
			wait(ctx, t, guest, text)
		}
		waitExit(ctx, t, guest)
		if guest.Console.Contains("FAILED") || guest.Console.Contains("stage write") {
			t.Error("the console speaks of a failure or a write")
		}
	}
	var outside []int64
	for _, off := range changed(t, before, disk) {
		if off < p.boat.berth || off >= p.boat.berth+p.boat.bytes {
			outside = append(outside, off)
		}
	}
	if most := 2 + report.FileBytes/report.FileBlockBytes; len(outside) > most {
		t.Errorf("%d blocks outside of the berth were changed, first at byte %d; grubenv, gate and the report are %d", len(outside), outside[0], most)
	}
	checkGate(t, disk, boot.GateTried)
	r := reportOn(t, disk).Record
	if r.Outcome != "rehearsed" || r.Error != "" || r.Rehearsal == nil || r.Lifeboat == nil || !r.Lifeboat.Proven || r.Lifeboat.Starts != 1 {
		t.Fatalf("report: outcome %q, error %q, rehearsal %v, lifeboat %+v; want one that passed, with a lifeboat that was proven", r.Outcome, r.Error, r.Rehearsal, r.Lifeboat)
	}
	if spent := r.Spent("gather", "board", "prove").Seconds(); r.Rehearsal.DowntimeSeconds <= spent {
		t.Errorf("report: downtime %.1f s; want more than the %.1f s of gather, board and prove", r.Rehearsal.DowntimeSeconds, spent)
	}

	machine.NoReboot = false
	again := start(t, machine)
	wait(ctx, t, again, p.Old.Banner())
}
