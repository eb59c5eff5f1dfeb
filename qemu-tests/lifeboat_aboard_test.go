package qemutests

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/qemu-tests/writelog"
	"reimager/vm"
)

var damageLimit = flag.Int("damages", 7, "how many damages TestDamagedAboard tries, of those in its table")

// damaged is a lifeboat of which something cannot be used.
type damaged struct {
	name  string
	phase string // in which the power was cut
	spoil func(t *testing.T, p *passage, disk string)
	bad   []string // sections of which a sector cannot be read
	want  string
	says  string // the console, before the end
}

func damages() []damaged {
	return []damaged{
		{"image", stateBoarded, spoilSection("image"), nil, endsOld, "check image in the berth"},
		{"second kernel", stateBoarded, spoilSection("kernel.2"), nil, endsOld, "section kernel.2"},
		{"one slot of the journal", stateBoarded, spoilBerth(berthJournal + 100), nil, endsNew, ""},
		{"kernel unreadable", stateWriting, nil, []string{"kernel"}, endsNew, ""},
		{"the newer slot of the journal", stateWriting, spoilNewerSlot, nil, endsNew, ""},
		{"image", stateWriting, spoilSection("image"), nil, endsHold, "hold (after cast off, attempt 3)"},
		{"archive", stateRestoring, spoilSection("archive"), nil, endsHold, "section archive"},

		{"archive", stateBoarded, spoilSection("archive"), nil, endsOld, "section archive"},
		{"header", stateBoarded, spoilBerth(berthHeader + 100), nil, endsOld, "header of the lifeboat"},
		{"initrd unreadable", stateWriting, nil, []string{"initrd"}, endsNew, ""},
		{"kernel and initrd unreadable", stateRestoring, nil, []string{"kernel", "initrd"}, endsNew, ""},
		{"image, when it is written", stateRestoring, spoilSection("image"), nil, endsNew, ""},
		{"header", stateWriting, spoilBerth(berthHeader + 100), nil, endsHold, "hold (after cast off, attempt 3)"},
	}
}

// What has boarded may be damaged. Before casting off the machine goes back; behind it
// whatever is there twice helps, and without it the machine holds.
func TestDamagedAboard(t *testing.T) {
	t.Parallel()
	p := sailed(t)
	for _, tt := range damages()[:min(*damageLimit, len(damages()))] {
		t.Run(tt.phase+"/"+tt.name, func(t *testing.T) {
			t.Parallel()
			disk := p.at(t, tt.phase)
			if tt.spoil != nil {
				tt.spoil(t, p, disk)
			}
			drive := vm.Drive{Path: disk, Serial: scenario.Serial}
			var faults []vm.Fault
			for _, name := range tt.bad {
				faults = append(faults, vm.Fault{Sector: p.boat.sections[name].Off/writelog.SectorSize + 8, IOType: "read"})
			}
			if len(faults) > 0 {
				blockdev, err := vm.FaultyBlockdev(0, disk, faults...)
				must(t, err)
				drive.Blockdev = blockdev
			}
			ctx := withTimeout(t)
			guest := start(t, vm.Config{Drives: []vm.Drive{drive}})
			if got := p.end(ctx, t, guest); got != tt.want {
				t.Fatalf("it ended in %s; want %s", got, tt.want)
			}
			if !guest.Console.Contains(tt.says) {
				t.Errorf("the console lacks %q", tt.says)
			}
			switch tt.want {
			case endsNew:
				waitExit(ctx, t, guest) // it powers off
				p.checkNew(t, disk, true)
			case endsOld:
				must(t, guest.Kill())
				if last := reportOn(t, disk).Record; last.Outcome != "failed" || !strings.Contains(last.Error, tt.says) {
					t.Errorf("report: %s: %s; want failed with %q", last.Outcome, last.Error, tt.says)
				}
			}
		})
	}
}

// A sector of the berth cannot be written. A machine that needs a lifeboat goes back, one
// that only prefers to have it goes on, and says that it has none.
func TestBoardingFails(t *testing.T) {
	t.Parallel()
	p := sailed(t)
	for _, tt := range []struct {
		name string
		from *strings.Replacer // what its configuration says instead
		want string
	}{
		{"require", nil, endsOld},
		{"prefer", strings.NewReplacer(`"require"`, `"prefer"`, `"zero"`, `"leave"`), endsNew},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx, k := withTimeout(t), *p.Kiosk
			k.Disk = filepath.Join(t.TempDir(), "disk.raw")
			must(t, lab.CopySparse(k.Disk, p.armed))
			if tt.from != nil {
				rebake(t, &k, tt.from.Replace(scenario.LifeboatConfig), "--key", filepath.Join(p.Dir, "fleet.pub"))
			}
			bad := p.boat.sections["archive"].Off/writelog.SectorSize + 3
			blockdev, err := vm.FaultyBlockdev(0, k.Disk, vm.Fault{Sector: bad, IOType: "write"})
			must(t, err)
			guest := start(t, vm.Config{Drives: []vm.Drive{{Blockdev: blockdev, Serial: scenario.Serial}}})
			if got := p.end(ctx, t, guest); got != tt.want {
				t.Fatalf("it ended in %s; want %s", got, tt.want)
			}
			says := fmt.Sprintf("write /dev/sda: sector %d", bad)
			if tt.want == endsOld {
				must(t, guest.Kill())
				if last := reportOn(t, k.Disk).Record; last.Outcome != "failed" || !strings.Contains(last.Error, says) {
					t.Errorf("report: %s: %s; want failed with %q", last.Outcome, last.Error, says)
				}
				return
			}
			waitExit(ctx, t, guest) // it powers off
			record := recordOf(t, k.Disk, lab.KioskLog, "/log/record.json")
			if warnings := fmt.Sprint(record["warnings"]); !strings.Contains(warnings, says) || record["lifeboat"] != nil || record["outcome"] != "restored" {
				t.Errorf("record: %v, lifeboat %v, warnings %s; want restored, none, and %q", record["outcome"], record["lifeboat"], warnings, says)
			}
			if s, err := look(ctx, k.Disk); err != nil || s.berth >= 0 {
				t.Errorf("%s, %v; want a disk without a lifeboat", s, err)
			}
		})
	}
}

// A worker that dies aboard is followed by another one, which takes up what it left: in
// the middle of the write, and when the disk boots the new system already but nobody
// knows.
func TestWorkerDiesAboard(t *testing.T) {
	t.Parallel()
	p := sailed(t)
	initrd := bake(t, p.Kiosk, scenario.LifeboatConfig, "--key", filepath.Join(p.Dir, "fleet.pub"), "--init", faultyInit(t))
	for _, tt := range []struct{ fault, phase string }{
		{"nil@write-range", stateWriting},
		{"kill@landed", stateRestored},
	} {
		t.Run(tt.fault, func(t *testing.T) {
			t.Parallel()
			ctx, disk := withTimeout(t), p.at(t, tt.phase)
			drive := vm.Drive{Path: disk, Serial: scenario.Serial}
			guest := start(t, vm.Config{Drives: []vm.Drive{drive}, NoReboot: true, Kernel: p.Kernel.Image, Initrd: initrd,
				Append: fmt.Sprintf("%s no_timer_check reimager.lifeboat=%s@%d reimager.fault=%s", lab.KioskConsoles, p.boat.runID, p.boat.berth/512, tt.fault)})
			wait(ctx, t, guest, "== outcome write again (after cast off")
			wait(ctx, t, guest, saysLanded)
			waitExit(ctx, t, guest)
			guest = start(t, vm.Config{Drives: []vm.Drive{drive}})
			wait(ctx, t, guest, p.New.Done())
			waitExit(ctx, t, guest) // it powers off
			p.checkNew(t, disk, true)
		})
	}
}

// spoilSection changes bytes in the middle of a section.
func spoilSection(name string) func(*testing.T, *passage, string) {
	return func(t *testing.T, p *passage, disk string) {
		t.Helper()
		s := p.boat.sections[name]
		if s.Bytes == 0 {
			t.Fatalf("there is no section %s", name)
		}
		flipAt(t, disk, s.Off+s.Bytes/2)
	}
}

// spoilNewerSlot takes the record that counts, so that the journal is a step behind.
func spoilNewerSlot(t *testing.T, p *passage, disk string) {
	t.Helper()
	off := p.boat.berth + berthJournal
	if first, second := sequence(t, disk, off), sequence(t, disk, off+sealedBytes); second > first {
		off += sealedBytes
	}
	flipAt(t, disk, off+100)
}

func sequence(t *testing.T, disk string, off int64) int64 {
	t.Helper()
	var record struct{ Sequence int64 }
	must(t, json.Unmarshal(sealed(open(t, disk), off, journalMagic), &record))
	return record.Sequence
}

// spoilBerth changes bytes of the fixed part of the berth.
func spoilBerth(off int64) func(*testing.T, *passage, string) {
	return func(t *testing.T, p *passage, disk string) {
		t.Helper()
		flipAt(t, disk, p.boat.berth+off)
	}
}

func flipAt(t *testing.T, disk string, off int64) {
	t.Helper()
	b := readRange(t, disk, off, 16)
	for i := range b {
		b[i] ^= 0x5a
	}
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(b, off)
	must(t, err)
	must(t, f.Close())
}

// at makes a disk of a machine whose power was cut in the middle of a phase, when it has
// boarded as the old system's GRUB finds it, and when it writes at the very beginning.
func (p *passage) at(t *testing.T, phase string) (disk string) {
	t.Helper()
	from, to, ok := p.interval(phase)
	if !ok {
		t.Fatalf("the disk was never seen %s", phase)
	}
	entry := (from + to) / 2
	switch phase {
	case stateBoarded:
		entry = p.resets[1]
	case stateWriting:
		entry = from + 1
	}
	disk = filepath.Join(t.TempDir(), "disk.raw")
	must(t, p.cut(t.TempDir(), []writelog.Cut{{At: entry, Loss: writelog.Nothing}}, func(_ writelog.Cut, made string) error {
		return os.Rename(made, disk)
	}))
	return disk
}
