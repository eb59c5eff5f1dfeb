package qemutests

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/config"
	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/report"
	"reimager/vm"
)

const releaseImage = "release/new.img.bz2" // on the data partition

// Whatever goes wrong before the first write, the machine comes back in its old
// system, with its disk as it was and a report that says why.
func TestFailureBeforeWriteGoesBack(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, k *scenario.Kiosk, guest *vm.Config)
		want  string // in the error
		mute  bool   // nothing can be reported where no disk is found
	}{
		{"image missing", func(t *testing.T, k *scenario.Kiosk, _ *vm.Config) {
			edit(t, k.Disk, lab.KioskData, func(dir string) { must(t, os.Remove(filepath.Join(dir, releaseImage))) })
		}, "there is no /release/new.img.bz2", false},
		{"image truncated", func(t *testing.T, k *scenario.Kiosk, _ *vm.Config) {
			changeImage(t, k, func(f string) {
				info, err := os.Stat(f)
				must(t, err)
				must(t, os.Truncate(f, info.Size()*2/3))
			})
		}, "truncated", false},
		{"image cut short since it was armed", func(t *testing.T, k *scenario.Kiosk, _ *vm.Config) {
			edit(t, k.Disk, lab.KioskData, func(dir string) { must(t, os.Truncate(filepath.Join(dir, releaseImage), 1000)) })
		}, "1000 bytes, expected", false},
		{"one bit of the image flipped", func(t *testing.T, k *scenario.Kiosk, _ *vm.Config) {
			changeImage(t, k, func(f string) { flipBit(t, f) })
		}, "decode bzip2 at byte", false},
		{"image larger than the disk", func(t *testing.T, k *scenario.Kiosk, _ *vm.Config) {
			changeImage(t, k, func(f string) {
				large := filepath.Join(t.TempDir(), "large.raw")
				must(t, lab.CopySparse(large, k.NewRaw))
				must(t, os.Truncate(large, 200<<20))
				must(t, os.Remove(f))
				must(t, lab.CompressBzip2(t.Context(), large, f))
			})
		}, "larger than", false},
		{"retained path missing", func(t *testing.T, k *scenario.Kiosk, _ *vm.Config) {
			edit(t, k.Disk, lab.KioskRoot, func(dir string) { must(t, os.Remove(filepath.Join(dir, "srv/two/same"))) })
		}, "find retained path /srv/two/same (retentionlist:9)", false},
		{"not enough memory", func(_ *testing.T, _ *scenario.Kiosk, guest *vm.Config) { guest.MemoryMiB = 208 },
			"check memory", false},
		{"another disk", func(_ *testing.T, _ *scenario.Kiosk, guest *vm.Config) { guest.Drives[0].Serial = "ANOTHER" },
			`serial "ANOTHER", expected "KIOSK0042"`, false},
		{"another model", func(t *testing.T, k *scenario.Kiosk, _ *vm.Config) {
			editJob(t, k.Disk, func(j *config.Job) { j.Machine = config.MachineIdentity{Vendor: "QEMU", Product: "Kiosk G3"} })
		}, `expected "Kiosk G3"`, false},
		{"release armed, bare image found", func(t *testing.T, k *scenario.Kiosk, _ *vm.Config) {
			editJob(t, k.Disk, func(j *config.Job) { j.Release.Manifest = strings.Repeat("00", 32) })
		}, "it is a bare image, expected a manifest with", false},
		{"image not signed", func(t *testing.T, k *scenario.Kiosk, _ *vm.Config) {
			_, key, err := scenario.Sign(t.TempDir(), k.NewImage)
			must(t, err)
			rebake(t, k, strings.ReplaceAll(scenario.ClassicConfig, "if-present", "require"), "--key", key)
		}, "there is no signature", false},
		{"signed by somebody else", func(t *testing.T, k *scenario.Kiosk, _ *vm.Config) {
			dir := t.TempDir()
			signature, _, err := scenario.Sign(dir, k.NewImage)
			must(t, err)
			edit(t, k.Disk, lab.KioskData, func(dir string) {
				text, err := os.ReadFile(signature)
				must(t, err)
				must(t, os.WriteFile(filepath.Join(dir, releaseImage+".minisig"), text, 0o644))
			})
			_, key, err := scenario.Sign(t.TempDir(), k.NewImage)
			must(t, err)
			rebake(t, k, strings.ReplaceAll(scenario.ClassicConfig, "if-present", "require"), "--key", key)
		}, "expected one of the trusted keys", false},
		{"module missing", func(t *testing.T, k *scenario.Kiosk, _ *vm.Config) {
			without(t, k, `modules = ["sd_mod", "ext4"]`)
		}, "shows no disk at all; is the driver of its controller in the initrd?", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx := withTimeout(t)
			k := armed(t)
			guest := vm.Config{Drives: []vm.Drive{k.Drive()}, NoReboot: true}
			tt.spoil(t, k, &guest)
			replayJournals(t, k.Disk)
			before := k.Disk + ".before"
			must(t, lab.CopySparse(before, k.Disk))
			oldTree := tree(t, k.Disk, lab.KioskRoot)

			run := start(t, guest)
			wait(ctx, t, run, "FAILED")
			wait(ctx, t, run, "boot the old system")
			waitExit(ctx, t, run)
			if !run.Console.Contains(tt.want) {
				t.Errorf("console lacks %q", tt.want)
			}
			onlyAllowedChanges(t, before, k.Disk, oldTree)
			checkReport(t, k, tt.want, tt.mute)

			guest.NoReboot = false
			again := start(t, guest)
			wait(ctx, t, again, k.Old.Banner())
			if !tt.mute {
				wait(ctx, t, again, "old: BACK AFTER A FAILED RUN")
			}
		})
	}
}

// replayJournals does what the power cut behind an armed kiosk has left to the next
// mount, so that it does not count as a change of ours.
func replayJournals(t *testing.T, disk string) {
	t.Helper()
	for _, partition := range []int{lab.KioskBoot, lab.KioskRoot, lab.KioskData, lab.KioskLog} {
		edit(t, disk, partition, func(string) {})
	}
}

// changeImage changes the release's image and lets the job agree with it, so that
// the image itself has to be found faulty.
func changeImage(t *testing.T, k *scenario.Kiosk, change func(file string)) {
	t.Helper()
	var digest string
	var size int64
	edit(t, k.Disk, lab.KioskData, func(dir string) {
		name := filepath.Join(dir, releaseImage)
		change(name)
		f, err := os.Open(name)
		must(t, err)
		defer f.Close()
		sum := sha256.New()
		size, err = io.Copy(sum, f)
		must(t, err)
		digest = hex.EncodeToString(sum.Sum(nil))
	})
	editJob(t, k.Disk, func(j *config.Job) { j.Image.Bytes, j.Image.SHA256 = size, digest })
}

// flipBit flips one bit of a bzip2 file that changes what it decodes to.
func flipBit(t *testing.T, name string) {
	t.Helper()
	was, err := os.ReadFile(name)
	must(t, err)
	want, _ := exec.Command("bzip2", "-dc", name).Output()
	for off := len(was) / 2; off < len(was); off++ {
		now := append([]byte(nil), was...)
		now[off] ^= 0x10
		must(t, os.WriteFile(name, now, 0o644))
		if got, err := exec.Command("bzip2", "-dc", name).Output(); err != nil || string(got) != string(want) {
			return
		}
	}
	t.Fatal("no bit of the image changes what it decodes to")
}

// without bakes the initrd with other modules, and little patience.
func without(t *testing.T, k *scenario.Kiosk, modules string) {
	t.Helper()
	text := strings.ReplaceAll(scenario.ClassicConfig, `modules = "classic"`, modules)
	rebake(t, k, strings.ReplaceAll(text, `"20s"`, `"3s"`))
}

// onlyAllowedChanges compares a disk byte by byte with what it was: GRUB has
// cleared next_entry, and init has overwritten gate and report file in place.
func onlyAllowedChanges(t *testing.T, before, after string, oldTree map[string]lab.Entry) {
	t.Helper()
	const reportFile = "var/lib/reimager/report"
	newTree := tree(t, after, lab.KioskRoot)
	for _, all := range []map[string]lab.Entry{oldTree, newTree} {
		e := all[reportFile]
		e.SHA256 = ""
		all[reportFile] = e
	}
	if diff := cmp.Diff(oldTree, newTree); diff != "" {
		t.Errorf("the old system was changed (-was +is):\n%s", diff)
	}
	// grubenv and gate are one block each, the report as many as it has.
	if n, most := len(changed(t, before, after)), 2+report.FileBytes/report.FileBlockBytes; n > most {
		t.Errorf("%d blocks of the disk were changed; grubenv, gate and the report are %d", n, most)
	}
}

func checkReport(t *testing.T, k *scenario.Kiosk, want string, mute bool) {
	t.Helper()
	text, err := lab.ReadFile(t.Context(), k.Disk, lab.KioskRoot, "/var/lib/reimager/report")
	must(t, err)
	last, err := report.ParseFile("report", text)
	if mute {
		if err != report.ErrNoReport {
			t.Errorf("report: %v, %v; want none", last, err)
		}
		return
	}
	must(t, err)
	if last.Record.Outcome != "failed" || !strings.Contains(last.Record.Error, want) || !strings.Contains(last.Log, want) {
		t.Errorf("report: %s: %s; want failed with %q, in the log too", last.Record.Outcome, last.Record.Error, want)
	}
}
