package qemutests

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/boot"
	"reimager/config"
	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/vm"
)

// A machine whose disk was lost is replaced from a stick, with what was captured of it
// before, and the stick that stays in does no more harm: not when its gate is closed, and
// not when a power cut has kept it open.
func TestStickReplacesALostDisk(t *testing.T) {
	t.Parallel()
	for _, uefi := range []bool{false, true} {
		t.Run(map[bool]string{false: "bios", true: "uefi"}[uefi], func(t *testing.T) {
			t.Parallel()
			k := stickKiosk(t, uefi)
			old := map[int]map[string]lab.Entry{lab.KioskRoot: tree(t, k.Disk, lab.KioskRoot), lab.KioskLog: tree(t, k.Disk, lab.KioskLog)}
			stick := makeStick(t, k, "--unattended", "--keep", capture(t, k))
			armed := stick + ".armed"
			must(t, lab.CopySparse(armed, stick))
			wipe(t, k.Disk, 0)

			ctx := withTimeout(t)
			guest := start(t, withStick(k, stick))
			for _, text := range []string{"old root none", "come from the archive on the stick", "cast off /dev/sd", "stage land", "gate     closed", "outcome boot the new system",
				k.New.Banner(), "new: kiosk-0042 " + k.Old.MachineID(), k.New.Done()} {
				wait(ctx, t, guest, text)
			}
			waitExit(ctx, t, guest) // it powers off

			for _, partition := range []int{lab.KioskBoot, lab.KioskRoot, lab.KioskData, lab.KioskLog} {
				want, got := tree(t, k.NewRaw, partition), tree(t, k.Disk, partition)
				expectRetained(k, want, old[partition], partition)
				forget(want, got, partition)
				for path := range got { // of log and record
					if partition == lab.KioskRoot && strings.HasPrefix(path, "var/log") || path == "var" {
						delete(got, path)
						delete(want, path)
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("partition %d (-want +got):\n%s", partition, diff)
				}
			}
			checkStickGate(t, stick, boot.GateTried)
			checkStickGate(t, armed, boot.GateArmed)

			record := rootFile(t, k, "/var/log/reimager/record.json")
			for name, use := range map[string]string{"closed": stick, "open": armed} {
				ctx := withTimeout(t)
				again := start(t, withStick(k, use))
				if name == "open" {
					wait(ctx, t, again, "its new system is on /dev/sd")
				}
				wait(ctx, t, again, k.New.Done())
				waitExit(ctx, t, again)
				if name == "closed" && again.Console.Contains("stage ") {
					t.Error("a stick whose gate is closed has started a run")
				}
				if again.Console.Contains("cast off") {
					t.Errorf("gate %s: the disk was written again", name)
				}
				if !bytes.Equal(record, rootFile(t, k, "/var/log/reimager/record.json")) {
					t.Errorf("gate %s: there is another record", name)
				}
				checkStickGate(t, use, boot.GateTried)
			}
		})
	}
}

// stickKiosk is a kiosk with a signed release and the defaults.
func stickKiosk(t *testing.T, uefi bool) *scenario.Kiosk {
	t.Helper()
	return build(t, scenario.Spec{UEFI: uefi, Config: scenario.DefaultConfig, Pack: "zst",
		New: func(n *lab.KioskSpec) { n.BootScript = scenario.ShowScript }})
}

// makeStick makes a stick as an operator does.
func makeStick(t *testing.T, k *scenario.Kiosk, flags ...string) string {
	t.Helper()
	stick := filepath.Join(t.TempDir(), "stick.img")
	program, err := scenario.Program("imagebuild")
	must(t, err)
	args := append([]string{"media", k.Release, "-o", stick, "--append", stickConsoles}, flags...)
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("imagebuild media: %v\n%s", err, out)
	}
	t.Logf("%s", out)
	return stick
}

// withStick is a machine with its disk, and a stick that its firmware starts first.
func withStick(k *scenario.Kiosk, stick string) vm.Config {
	own := k.Drive()
	own.Device = ",bootindex=1"
	return vm.Config{UEFI: k.Firmware, Drives: []vm.Drive{{Path: stick, Bus: vm.USB, Serial: "STICK", Device: ",bootindex=0"}, own}}
}

// capture keeps on the host what the usual list keeps of the old system.
func capture(t *testing.T, k *scenario.Kiosk) string {
	t.Helper()
	kept, root, list := filepath.Join(t.TempDir(), "kept.tar"), t.TempDir(), filepath.Join(k.Dir, "retentionlist.txt")
	table, err := lab.ReadTable(t.Context(), k.Disk)
	must(t, err)
	program, err := scenario.Program("reimager")
	must(t, err)
	for _, m := range []struct {
		number int
		at     string
	}{{lab.KioskRoot, root}, {lab.KioskLog, filepath.Join(root, "kiosk")}} {
		e, err := table.Entry(m.number)
		must(t, err)
		if out, err := exec.Command("mount", "-t", "ext4", "-o", fmt.Sprintf("ro,noload,loop,offset=%d,sizelimit=%d", e.Offset, e.Size), k.Disk, m.at).CombinedOutput(); err != nil {
			t.Fatalf("mount: %v\n%s", err, out)
		}
		defer func() { must(t, lab.Unmount(context.WithoutCancel(t.Context()), m.at)) }()
	}
	if out, err := exec.Command(program, "capture", "--root", root, "--list", list, "-o", kept).CombinedOutput(); err != nil {
		t.Fatalf("reimager capture: %v\n%s", err, out)
	}
	return kept
}

// wipe replaces all of a disk behind a byte by zeros.
func wipe(t *testing.T, disk string, from int64) {
	t.Helper()
	info, err := os.Stat(disk)
	must(t, err)
	must(t, os.Truncate(disk, from))
	must(t, os.Truncate(disk, info.Size()))
}

func rootFile(t *testing.T, k *scenario.Kiosk, path string) []byte {
	t.Helper()
	text, err := lab.ReadFile(t.Context(), k.Disk, lab.KioskRoot, path)
	must(t, err)
	return text
}

// stickFile reads a file of a stick.
func stickFile(t *testing.T, stick, path string) []byte {
	t.Helper()
	text, err := exec.Command("mtype", "-i", stick+"@@1M", "::"+path).Output()
	must(t, err)
	return text
}

func stickJob(t *testing.T, stick string) *config.Job {
	t.Helper()
	job, err := config.ParseJob("job.json", stickFile(t, stick, "/reimager/job.json"))
	must(t, err)
	return job
}

func checkStickGate(t *testing.T, stick string, want boot.GateState) {
	t.Helper()
	if got, _, err := boot.ReadGate(stickJob(t, stick).RunID, stickFile(t, stick, "/reimager/gate")); got != want || err != nil {
		t.Errorf("gate of %s: %q, %v; want %q", filepath.Base(stick), got, err, want)
	}
}

// What a run from a stick makes of other disks, started without the stick's menu.
func TestStickFindsOrRefuses(t *testing.T) {
	t.Parallel()
	base := stickKiosk(t, false)
	kept := capture(t, base)
	stick := makeStick(t, base, "--keep", kept)
	bare := makeStick(t, base)
	short := makeStick(t, base, "--keep", kept)
	// The archive on it is damaged where its digest alone tells.
	damage(t, short, "the till's own", "the till's oWn")
	for _, tt := range []struct {
		name   string
		stick  string
		change func(t *testing.T, k *scenario.Kiosk)
		drives []vm.Drive
		texts  []string
		id     string // the machine-id afterwards; "": the disk is untouched
	}{
		{"the old system is still there", stick, func(*testing.T, *scenario.Kiosk) {}, nil,
			[]string{"old root /dev/sd", "cast off"}, base.Old.MachineID()},
		{"half written, and nothing to keep", bare, func(t *testing.T, k *scenario.Kiosk) { hold(t, k.Disk) }, nil,
			[]string{"old root none", "NOTHING IS KEPT", "cast off"}, base.New.MachineID()},
		{"half written, with an archive", stick, func(t *testing.T, k *scenario.Kiosk) { hold(t, k.Disk) }, nil,
			[]string{"was left half written", "come from the archive", "cast off"}, base.Old.MachineID()},
		{"several disks", stick, func(t *testing.T, k *scenario.Kiosk) { wipe(t, k.Disk, 0) }, []vm.Drive{{Path: blank(t), Serial: "OTHER"}},
			[]string{"no old system tells which of these disks is meant", "OTHER", "THE MACHINE HOLDS: it was started from a stick"}, ""},
		{"no disk", stick, nil, nil, []string{"beside the stick there is no fixed disk", "THE MACHINE HOLDS: it was started from a stick"}, ""},
		{"damaged archive", short, func(t *testing.T, k *scenario.Kiosk) { hold(t, k.Disk) }, nil,
			[]string{"copy archive UUID=", "as when the stick was made", "THE MACHINE HOLDS: it was started from a stick"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k := *base
			k.Disk = filepath.Join(t.TempDir(), "disk.raw")
			must(t, lab.CopySparse(k.Disk, base.Disk))
			used := filepath.Join(t.TempDir(), "stick.img")
			must(t, lab.CopySparse(used, tt.stick))
			guest := withStick(&k, used)
			guest.Drives = append(guest.Drives, tt.drives...)
			for i := range guest.Drives {
				guest.Drives[i].Device = "" // QEMU starts the kernel first
			}
			if tt.change == nil { // no disk
				guest.Drives = guest.Drives[:1]
			} else {
				tt.change(t, &k)
			}
			before := k.Disk + ".before"
			must(t, lab.CopySparse(before, k.Disk))
			guest.NoReboot, guest.Kernel, guest.Initrd = true, k.Kernel.Image, k.Initrd
			job := stickJob(t, used)
			guest.Append = fmt.Sprintf("%s reimager.job=%s:/reimager/job.json reimager.media", stickConsoles, job.Image.Source.Device)
			ctx := withTimeout(t)
			run := start(t, guest)
			for _, text := range tt.texts {
				wait(ctx, t, run, text)
			}
			if tt.id == "" {
				run.Kill()
				if at := changed(t, before, k.Disk); len(at) > 0 {
					t.Errorf("the disk was changed at %d", at)
				}
				return
			}
			waitExit(ctx, t, run)
			if got := strings.TrimSpace(string(rootFile(t, &k, "/etc/machine-id"))); got != tt.id {
				t.Errorf("machine-id %s; want %s", got, tt.id)
			}
		})
	}
}

// hold makes a disk look as if a run had been cut off while it wrote.
func hold(t *testing.T, disk string) {
	t.Helper()
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	code, err := boot.HoldingCode()
	must(t, err)
	_, err = f.WriteAt(code, 0)
	must(t, err)
}

func blank(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "blank.raw")
	must(t, os.WriteFile(name, nil, 0o600))
	must(t, os.Truncate(name, 256<<20))
	return name
}

// damage replaces a text in the files of a stick.
func damage(t *testing.T, stick, from, to string) {
	t.Helper()
	all, err := os.ReadFile(stick)
	must(t, err)
	if bytes.Count(all, []byte(from)) != 1 {
		t.Fatalf("the stick has %q %d times; want it once", from, bytes.Count(all, []byte(from)))
	}
	must(t, os.WriteFile(stick, bytes.Replace(all, []byte(from), []byte(to), 1), 0o600))
}

// stickConsoles are the parameters of a run from a stick. A loaded host lets the kernel
// think that an emulated timer stands still: no_timer_check.
const stickConsoles = lab.KioskConsoles + " no_timer_check"
