package check

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/initramfs"
	"reimager/initrd"
	"reimager/lifeboat"
	"reimager/report"
	"reimager/retain"
	"reimager/stages"
)

const mib = 1 << 20

// swapped is a disk of 402 MiB with a root and a swap partition of 200 MiB each, for both systems.
func swapped(need int64) *lifeboat.Search {
	s := lifeboat.System{
		Table:       &disk.Table{Kind: "mbr", Entries: []disk.Entry{{Number: 1, Start: mib, Bytes: 200 * mib}, {Number: 3, Start: 201 * mib, Bytes: 200 * mib}}},
		Filesystems: map[int]disk.Filesystem{1: {Type: "ext4"}, 3: {Type: "swap"}},
	}
	return &lifeboat.Search{DiskBytes: 402 * mib, Old: s, New: s, Need: need}
}

func TestLifeboat(t *testing.T) {
	const harm = "a power cut while the disk is written leaves a machine that does not boot"
	uefi := lifeboat.Supported(true, 512)
	for _, tt := range []struct {
		name    string
		p       berthProbe
		verdict Verdict
		found   string
		hint    string
		firm    bool
		berth   bool
	}{
		{name: "off", p: berthProbe{rule: "off", search: swapped(mib)}, verdict: Pass, found: `power_cut.lifeboat = "off": ` + harm},
		{name: "there is one", p: berthProbe{rule: "prefer", search: swapped(120 * mib)}, verdict: Pass, berth: true,
			found: "a power cut is survived: berth of 199 MiB in the inside of swap partition 3, needs 120 MiB"},
		{name: "required, and there is one", p: berthProbe{rule: "require", search: swapped(120 * mib)}, verdict: Pass, berth: true,
			found: "a power cut is survived: berth of 199 MiB in the inside of swap partition 3, needs 120 MiB"},
		{name: "rehearsal", p: berthProbe{rule: "prefer", search: swapped(120 * mib), rehearse: true}, verdict: Pass, berth: true,
			found: "a power cut is survived: berth of 199 MiB in the inside of swap partition 3, needs 120 MiB; the rehearsal proves that the machine starts from it"},
		{name: "no room", p: berthProbe{rule: "prefer", search: swapped(240 * mib)}, verdict: Warn,
			found: "no lifeboat: find berth of 240 MiB: the inside of swap partition 3 has 199 MiB: " + harm,
			hint:  "give both systems a swap partition of 243 MiB at the same place, or leave as much unpartitioned"},
		{name: "required, and no room", p: berthProbe{rule: "require", search: swapped(240 * mib)}, verdict: Fail, firm: true,
			found: `power_cut.lifeboat = "require", but no lifeboat: find berth of 240 MiB: the inside of swap partition 3 has 199 MiB`,
			hint:  "give both systems a swap partition of 243 MiB at the same place, or leave as much unpartitioned"},
		{name: "UEFI", p: berthProbe{rule: "prefer", without: []error{uefi}, search: swapped(mib)}, verdict: Warn,
			found: "no lifeboat: there is no lifeboat yet for a machine that UEFI boots: " + harm},
		{name: "required, and UEFI", p: berthProbe{rule: "require", without: []error{uefi}}, verdict: Fail, firm: true,
			found: `power_cut.lifeboat = "require", but no lifeboat: there is no lifeboat yet for a machine that UEFI boots`,
			hint:  `"prefer" in the initrd goes without one`},
		{name: "two reasons", p: berthProbe{rule: "prefer", without: []error{uefi, report.Hint(errors.New("no core"), "bake it")}}, verdict: Warn,
			found: "no lifeboat: there is no lifeboat yet for a machine that UEFI boots; no core: " + harm, hint: "bake it"},
		{name: "bare image", p: berthProbe{rule: "prefer", unknown: "a bare image does not say"}, verdict: Warn,
			found: "a bare image does not say; the run looks for a berth, and where there is none " + harm,
			hint:  "pack it with imagebuild pack, and it is known beforehand"},
		{name: "required, and a bare image", p: berthProbe{rule: "require", unknown: "a bare image does not say"}, verdict: Warn,
			found: "a bare image does not say; the run looks for a berth, and ends before it writes where there is none",
			hint:  "pack it with imagebuild pack, and it is known beforehand"},
	} {
		got, berth := judgeLifeboat(tt.p)
		want := Result{Name: Lifeboat, Verdict: tt.verdict, Found: tt.found, Hint: tt.hint, Firm: tt.firm}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: judgeLifeboat (-want +got):\n%s", tt.name, diff)
		}
		if (berth != nil) != tt.berth {
			t.Errorf("%s: berth %v; want one: %t", tt.name, berth, tt.berth)
		}
	}
	if r, err := (Results{{Name: Lifeboat, Verdict: Fail, Firm: true}}).Force([]string{string(Lifeboat)}); !errors.Is(err, ErrForce) {
		t.Errorf("Force of a lifeboat that is required = %v, %v", r, err)
	}
}

func TestRoom(t *testing.T) {
	expect(t, "none", judgeRoom(nil), Warn, "no room for a lifeboat: a power cut while")
	expect(t, "two places", judgeRoom([]lifeboat.Berth{{Bytes: 199 * mib, Where: "the inside of swap partition 3"}, {Bytes: 2 << 30, Where: "the end of the disk"}}), Pass,
		"199 MiB in the inside of swap partition 3, 2 GiB in the end of the disk")
	h, d := swapDisk(t, strings.Repeat("\x00", disk.ProbeBytes))
	expect(t, "no GRUB", (&Examination{Target: d}).judgeRoom(h, Options{}), Warn, "no lifeboat: there is no GRUB that could start one")
}

func TestGate(t *testing.T) {
	sda := &disk.Disk{Name: "sda", Path: "/dev/sda"}
	if err := judgeGate(&Location{Device: "/dev/sda1", Disk: "sda"}, sda); err != nil {
		t.Error(err)
	}
	want := "the gate would lie on /dev/sdb1, and not on /dev/sda, which is replaced"
	if err := judgeGate(&Location{Device: "/dev/sdb1", Disk: "sdb"}, sda); fmt.Sprint(err) != want {
		t.Errorf("judgeGate = %v; want %s", err, want)
	}
}

func TestCarriesLifeboat(t *testing.T) {
	a := initramfs.New()
	for _, want := range []bool{false, false} {
		if got := carriesLifeboat(&initrd.Initrd{Archive: a}); got != want {
			t.Errorf("carriesLifeboat with %q = %t", a.Names(), got)
		}
		if err := a.File(config.LifeboatBootPath, []byte("boot"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.File(config.LifeboatCorePath, []byte("core"), 0o644); err != nil {
		t.Fatal(err)
	}
	if !carriesLifeboat(&initrd.Initrd{Archive: a}) {
		t.Errorf("carriesLifeboat with %q = false", a.Names())
	}
}

// swapDisk is a machine whose disk has a root and a swap of 8 MiB each, and a third partition.
func swapDisk(t *testing.T, third string) (Host, *disk.Disk) {
	t.Helper()
	parts := []disk.Partition{{Name: "sda1", Number: 1, Start: mib, Bytes: 8 * mib}, {Name: "sda3", Number: 3, Start: 9 * mib, Bytes: 8 * mib},
		{Name: "sda4", Number: 4, Start: 17 * mib, Bytes: 4 * mib}}
	table := make([]byte, 512)
	table[510], table[511] = 0x55, 0xaa
	for i, p := range parts {
		at := table[446+16*(p.Number-1):]
		at[4] = []byte{0x83, 0x82, 0x83}[i]
		binary.LittleEndian.PutUint32(at[8:], uint32(p.Start/512))
		binary.LittleEndian.PutUint32(at[12:], uint32(p.Bytes/512))
	}
	signed := func(at int, signature string) string {
		b := make([]byte, disk.ProbeBytes)
		copy(b[at:], signature)
		return string(b)
	}
	h := fixture(t, map[string]string{
		"dev/sda": string(table), "dev/sda1": signed(1024+56, "\x53\xef"), "dev/sda3": signed(4086, "SWAPSPACE2"), "dev/sda4": third,
		"sys/block/sda/dev": "8:0\n", "sys/block/sda/sda1/dev": "8:1\n", "sys/block/sda/sda3/dev": "8:3\n", "sys/block/sda/sda4/dev": "8:4\n",
		"proc/self/mountinfo": "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n", "proc/swaps": "",
		"root/etc/fstab": "/dev/sda1 / ext4 rw 0 1\n/dev/sda3 none swap sw 0 0\n",
	}, nil)
	if err := os.WriteFile(h.proc("swaps"), []byte("Filename Type\n"+h.dev("sda3")+" partition\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := &disk.Disk{Name: "sda", Path: h.dev("sda"), Bytes: 24 * mib, SectorSize: 512}
	for _, p := range parts {
		p.Path = h.dev(p.Name)
		d.Partitions = append(d.Partitions, p)
	}
	return h, d
}

// sized is a release with a kernel and an initrd of 1 MiB each, whose image has the layout of swapDisk.
func sized(t *testing.T) *Release {
	t.Helper()
	dir := t.TempDir()
	r := baked(t, "6.1")
	r.Kernel, r.Initrd, r.ImageBytes = filepath.Join(dir, "kernel"), filepath.Join(dir, "initrd"), 2*mib
	for _, name := range []string{r.Kernel, r.Initrd} {
		if err := os.WriteFile(name, make([]byte, mib), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r.Manifest = &image.Manifest{
		Disk:   image.Disk{Table: "mbr", Partitions: []image.Partition{{Number: 1, Start: mib, Bytes: 8 * mib, Type: "83"}, {Number: 2, Start: 9 * mib, Bytes: 8 * mib, Type: "82"}}},
		System: &image.SystemFacts{Filesystems: []image.FilesystemFacts{{Partition: 1, Type: "ext4"}, {Partition: 2, Type: "swap"}}},
	}
	r.Map = &image.Map{Bytes: 17 * mib, Ranges: []image.MapRange{{Extent: image.Extent{Off: 0, Bytes: 2 * mib}}, {Extent: image.Extent{Off: 9 * mib, Bytes: 4096}}}}
	return r
}

func TestSearchBerth(t *testing.T) {
	nothing := strings.Repeat("\x00", disk.ProbeBytes)
	h, d := swapDisk(t, nothing)
	x := &Examination{Target: d, Release: sized(t), plan: &retain.Plan{ArchiveBytes: mib}}
	s, unknown, err := x.searchBerth(h)
	if err != nil || unknown != "" {
		t.Fatalf("searchBerth: %q, %v", unknown, err)
	}
	state := stages.NeededMemory(2*mib, x.plan, d.Bytes, x.Release.Map).State
	if want := lifeboat.Need(mib, mib, 2*mib, mib, state+mib); s.Need != want { // and its log
		t.Errorf("searchBerth: need %d; want %d", s.Need, want)
	}
	if diff := cmp.Diff(map[int]string{1: "it is mounted at /"}, s.InUse); diff != "" {
		t.Errorf("searchBerth: in use (-want +got):\n%s", diff)
	}
	s.Need = 7 * mib
	got, err := lifeboat.Choose(*s)
	if diff := cmp.Diff(lifeboat.Berth{Off: 10 * mib, Bytes: 7 * mib, Where: "the inside of swap partition 3"}, got); diff != "" || err != nil {
		t.Errorf("Choose, %v (-want +got):\n%s", err, diff)
	}
}

func TestSearchBerthNamed(t *testing.T) {
	nothing := strings.Repeat("\x00", disk.ProbeBytes)
	for _, tt := range []struct {
		name   string
		berth  string
		fstab  string
		mounts string
		want   string // where the berth is, or what the error says
	}{
		{name: "by number", berth: "partition 4", want: "partition 4"},
		{name: "by path", berth: "/dev/sda4", want: "partition 4"},
		{name: "on another disk", berth: "/dev/sdb4", want: "it is no partition of"},
		{name: "the disk itself", berth: "/dev/sda", want: "it is no partition of"},
		{name: "not there", berth: "LABEL=berth", want: "0 partitions of the disk are called so"},
		{name: "the fstab mounts it", berth: "partition 4", fstab: "/dev/sda4 /data xfs noauto 0 0\n", want: "partition 4: the old system mounts it on /data"},
		{name: "it is mounted", berth: "partition 4", mounts: "22 1 8:4 / /mnt rw - xfs /dev/sda4 rw\n", want: "partition 4: it is mounted at /mnt"},
		{name: "the root", berth: "partition 1", want: "partition 1: it is mounted at /"},
	} {
		h, d := swapDisk(t, nothing)
		for name, text := range map[string]string{h.root("etc/fstab"): tt.fstab, h.proc("self/mountinfo"): "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + tt.mounts} {
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		r := sized(t)
		device, err := config.ParseDevice(tt.berth)
		if err != nil {
			t.Fatal(err)
		}
		if device.Kind == config.ByPath {
			device.Value = h.dev(strings.TrimPrefix(device.Value, "/dev/"))
		}
		r.Baked.Config.PowerCut.Berth = device
		s, _, err := (&Examination{Target: d, Release: r}).searchBerth(h)
		got := fmt.Sprint(err)
		if err == nil {
			s.Need = mib
			berth, err := lifeboat.Choose(*s)
			if got = berth.Where; err != nil {
				got = err.Error()
			}
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%s: %s; want %s", tt.name, got, tt.want)
		}
	}
}

func TestUnknownBerth(t *testing.T) {
	h, d := swapDisk(t, strings.Repeat("\x00", disk.ProbeBytes))
	for want, change := range map[string]func(*Release){
		"a bare image does not say": func(r *Release) { r.Manifest, r.Map = nil, nil },
		"an older imagebuild":       func(r *Release) { r.Manifest.Disk.Partitions = nil },
	} {
		r := sized(t)
		change(r)
		s, unknown, err := (&Examination{Target: d, Release: r}).searchBerth(h)
		if s != nil || !strings.Contains(unknown, want) || err != nil {
			t.Errorf("searchBerth = %v, %q, %v; want %q", s, unknown, err, want)
		}
	}
	d.Partitions[1].Bytes += 512
	if _, _, err := (&Examination{Target: d, Release: sized(t)}).searchBerth(h); err == nil || !strings.Contains(err.Error(), "partition 3 is another one") {
		t.Errorf("searchBerth on a disk whose table was changed = %v", err)
	}
}
