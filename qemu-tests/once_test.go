package qemutests

import (
	"context"
	"encoding/binary"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"reimager/boot"
	"reimager/config"
	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/report"
	"reimager/vm"
)

// A rehearsal does everything but write: the old system boots, its disk is as it was
// but for grubenv, gate and report, and the report says what was measured.
func TestRehearsal(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	k := armed(t)
	editJob(t, k.Disk, func(j *config.Job) { j.Rehearse = true })
	replayJournals(t, k.Disk)
	before := k.Disk + ".before"
	must(t, lab.CopySparse(before, k.Disk))
	oldTree := tree(t, k.Disk, lab.KioskRoot)

	guest := vm.Config{Drives: []vm.Drive{k.Drive()}, NoReboot: true}
	run := start(t, guest)
	wait(ctx, t, run, "rehearse passed; nothing was written")
	wait(ctx, t, run, "outcome boot the old system")
	waitExit(ctx, t, run)
	if run.Console.Contains("FAILED") || run.Console.Contains("stage write") {
		t.Error("the console speaks of a failure or a write")
	}
	onlyAllowedChanges(t, before, k.Disk, oldTree)
	checkGate(t, k.Disk, boot.GateTried)
	checkRehearsed(t, k.Disk)

	guest.NoReboot = false
	again := start(t, guest)
	wait(ctx, t, again, k.Old.Banner())
}

// checkGate reads the gate of an armed kiosk.
func checkGate(t *testing.T, disk string, want boot.GateState) {
	t.Helper()
	text, err := lab.ReadFile(t.Context(), disk, lab.KioskBoot, "/reimager/job.json")
	must(t, err)
	job, err := config.ParseJob("job.json", text)
	must(t, err)
	block, err := lab.ReadFile(t.Context(), disk, lab.KioskBoot, "/reimager/gate")
	must(t, err)
	if got, _, err := boot.ReadGate(job.RunID, block); got != want || err != nil {
		t.Errorf("gate: %q, %v; want %q", got, err, want)
	}
}

func checkRehearsed(t *testing.T, disk string) {
	t.Helper()
	r := reportOn(t, disk).Record
	m := r.Rehearsal
	if r.Outcome != "rehearsed" || r.Error != "" || r.Did != "boot the old system" || m == nil {
		t.Fatalf("report: outcome %q, error %q, did %q, rehearsal %v; want one that passed", r.Outcome, r.Error, r.Did, m)
	}
	if m.RetainedFiles != 17 || m.RetainedBytes == 0 || m.FreeBytes == 0 || m.GatherSeconds <= 0 || m.DowntimeSeconds <= m.GatherSeconds ||
		!strings.Contains(strings.Join(m.Devices, " "), scenario.Serial) || !strings.Contains(strings.Join(m.Drivers, " "), "ext4") {
		t.Errorf("report: rehearsal %+v; want what this machine has", m)
	}
}

func reportOn(t *testing.T, disk string) *report.LastRun {
	t.Helper()
	last, err := report.ParseFile("report", reportBytes(t, disk))
	must(t, err)
	return last
}

func reportBytes(t *testing.T, disk string) []byte {
	t.Helper()
	text, err := lab.ReadFile(t.Context(), disk, lab.KioskRoot, "/var/lib/reimager/report")
	must(t, err)
	return text
}

// starts is how often a machine is started again whose boot loader cannot know that
// its run is over.
var starts = flag.Int("starts", 5, "how often a run that is over is started again")

// A machine boots from a disk that nobody can write: GRUB cannot clear next_entry, the
// run cannot close its gate. It recognises itself at each start all the same, and
// starts the system that is there.
func TestOverIsRecognised(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		change  func(t *testing.T, k *scenario.Kiosk)
		first   string // on the console of the run
		state   string // what the machine says when it is started again
		outcome string // in the report; "": there is none
	}{
		{"rehearsed", func(t *testing.T, k *scenario.Kiosk) { editJob(t, k.Disk, func(j *config.Job) { j.Rehearse = true }) },
			"rehearse passed", `its report in the old system says "filled"`, "rehearsed"},
		{"failed", func(t *testing.T, k *scenario.Kiosk) {
			edit(t, k.Disk, lab.KioskData, func(dir string) { must(t, os.Remove(filepath.Join(dir, releaseImage))) })
		}, "outcome boot the old system", `its report in the old system says "filled"`, "failed"},
		{"done", func(*testing.T, *scenario.Kiosk) {}, "outcome boot the new system", "its new system is on the disk", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k := armed(t)
			editJob(t, k.Disk, func(j *config.Job) { j.WayBack = wayBack(k) })
			tt.change(t, k)
			rebake(t, k, strings.ReplaceAll(scenario.ClassicConfig, `modules = "classic"`, `modules = ["ahci", "sd_mod", "ext4", "virtio_pci", "virtio_blk"]`))
			replayJournals(t, k.Disk)
			guest := vm.Config{NoReboot: true, Drives: []vm.Drive{
				{Path: bootDisk(t, k), Bus: vm.VirtIO, ReadOnly: true, Device: ",bootindex=0"}, k.Drive()}}
			run := start(t, guest)
			ctx := withTimeout(t)
			wait(ctx, t, run, "the gate cannot be closed")
			wait(ctx, t, run, tt.first)
			waitExit(ctx, t, run)
			var was []byte
			if tt.outcome != "" {
				was = reportBytes(t, k.Disk)
				if got := reportOn(t, k.Disk).Record.Outcome; got != tt.outcome {
					t.Errorf("report: outcome %q; want %q", got, tt.outcome)
				}
			}
			for range *starts {
				startAgain(withTimeout(t), t, k, guest, tt.state, tt.outcome != "")
				if tt.outcome != "" && string(reportBytes(t, k.Disk)) != string(was) {
					t.Error("the report was changed")
				}
			}
		})
	}
}

// startAgain starts a machine whose run is over.
func startAgain(ctx context.Context, t *testing.T, k *scenario.Kiosk, guest vm.Config, state string, old bool) {
	t.Helper()
	again := start(t, guest)
	wait(ctx, t, again, state+"; nothing was done")
	banner := k.New.Banner()
	if old {
		banner = k.Old.Banner()
	}
	wait(ctx, t, again, banner)
	if again.Console.Contains("stage gather") {
		t.Error("the run was begun again")
	}
	if old {
		wait(ctx, t, again, "old: BACK AFTER A FAILED RUN")
		must(t, again.Kill())
		return
	}
	waitExit(ctx, t, again) // it powers off
}

// wayBack is how an old kiosk boots.
func wayBack(k *scenario.Kiosk) *config.JobKernel {
	at := func(path string) config.Source {
		return config.Source{Device: config.Device{Kind: config.ByUUID, Value: k.Old.FSUUID(lab.KioskBoot)}, Path: path}
	}
	return &config.JobKernel{Kernel: at("/vmlinuz-" + k.Kernel.Version), Initrd: at("/initrd.img-" + k.Kernel.Version),
		Cmdline: "root=UUID=" + k.Old.FSUUID(lab.KioskRoot) + " ro quiet " + lab.KioskConsoles}
}

// bootDisk moves the boot partition of a kiosk, and its GRUB, to a disk of their own.
func bootDisk(t *testing.T, k *scenario.Kiosk) string {
	t.Helper()
	table, err := lab.ReadTable(t.Context(), k.Disk)
	must(t, err)
	e, err := table.Entry(lab.KioskBoot)
	must(t, err)
	begin := make([]byte, e.Offset+e.Size)
	f, err := os.OpenFile(k.Disk, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	_, err = f.ReadAt(begin, 0)
	must(t, err)
	_, err = f.WriteAt(make([]byte, 1<<20), e.Offset) // with the superblock its UUID is gone
	must(t, err)
	binary.LittleEndian.PutUint32(begin[440:], 0x5eba5eba) // another disk signature
	clear(begin[446+16 : 446+4*16])                        // the other partitions
	name := filepath.Join(t.TempDir(), "boot.raw")
	must(t, os.WriteFile(name, begin, 0o644))
	return name
}

// The kernel command line can end a run, and name what is unknown.
func TestCancelled(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	k := armed(t)
	addParameters(t, k, "reimager.cancel", "reimager.force")
	replayJournals(t, k.Disk)
	before := k.Disk + ".before"
	must(t, lab.CopySparse(before, k.Disk))
	oldTree := tree(t, k.Disk, lab.KioskRoot)
	run := start(t, vm.Config{Drives: []vm.Drive{k.Drive()}, NoReboot: true})
	wait(ctx, t, run, "kernel parameter reimager.force is not known and was ignored")
	wait(ctx, t, run, "outcome boot the old system")
	waitExit(ctx, t, run)
	onlyAllowedChanges(t, before, k.Disk, oldTree)
	checkGate(t, k.Disk, boot.GateTried)
	checkReport(t, k, "cancelled on the kernel command line", false)
}

// addParameters puts parameters into the entry of an armed kiosk.
func addParameters(t *testing.T, k *scenario.Kiosk, parameters ...string) {
	t.Helper()
	edit(t, k.Disk, lab.KioskBoot, func(dir string) {
		name := filepath.Join(dir, "grub/custom.cfg")
		text, err := os.ReadFile(name)
		must(t, err)
		must(t, os.WriteFile(name, []byte(strings.Replace(string(text), "'quiet'", "'quiet' '"+strings.Join(parameters, "' '")+"'", 1)), 0o644))
	})
}

// faultyInit is an init that can be broken at a point.
func faultyInit(t *testing.T) string {
	t.Helper()
	root, err := scenario.Root()
	must(t, err)
	name := filepath.Join(t.TempDir(), "init")
	build := exec.Command("go", "build", "-trimpath", "-tags", "faults", "-o", name, "./init")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build init with faults: %v\n%s", err, out)
	}
	return name
}

// A worker that hangs is killed by PID 1; where PID 1 hangs too, the hardware resets
// the machine. Either way the old system boots.
func TestHangGoesBack(t *testing.T) {
	t.Parallel()
	init := faultyInit(t)
	for _, tt := range []struct {
		name       string
		parameters []string
		says       string
		back       string // in the old system
		want       string // in the report
	}{
		{"worker", []string{"reimager.fault=hang@verify", "reimager.patience=20s"}, "the worker made no progress for 20s", "old: BACK AFTER A FAILED RUN", "the worker made no progress for 20s"},
		{"PID 1", []string{"reimager.fault=hang@verify", "reimager.fault=hang@feed"}, "watchdog i6300ESB", "old: BACK AFTER A RUN WITHOUT A REPORT", "a run began at"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k := armed(t)
			rebake(t, k, scenario.ClassicConfig, "--init", init)
			addParameters(t, k, tt.parameters...)
			ctx, began := withTimeout(t), time.Now() // the watchdog alone takes a minute
			run := start(t, vm.Config{Drives: []vm.Drive{k.Drive()}, Extra: []string{"-device", "i6300esb", "-action", "watchdog=reset"}})
			wait(ctx, t, run, tt.says)
			wait(ctx, t, run, tt.back)
			t.Logf("back after %s", time.Since(began).Round(time.Second))
			must(t, run.Kill())
			if got := reportOn(t, k.Disk).Record.Error; !strings.Contains(got, tt.want) {
				t.Errorf("report: %q; want %q", got, tt.want)
			}
			checkGate(t, k.Disk, boot.GateTried)
		})
	}
}
