package check

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/boot"
	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/initrd"
	"reimager/kmod"
)

// baked is a release whose initrd has these modules, for a kernel.
func baked(t *testing.T, kernel string, modules ...kmod.IndexModule) *Release {
	t.Helper()
	c := config.Default()
	return &Release{KernelVersion: kernel, Baked: &initrd.Initrd{Config: &c, Index: &kmod.Index{Kernel: kernel, Modules: modules}}}
}

// sata is a /sys with a disk behind AHCI, whose sd driver is built in.
func sata() (files, links map[string]string) {
	const pci = "sys/devices/pci0000:00/0000:00:1f.2/"
	const scsi = pci + "ata1/host0/target0:0:0/0:0:0:0/"
	return map[string]string{
			pci + "modalias": "pci:v00008086d00002922sv0sd0bc01sc06i01\n", scsi + "modalias": "scsi:t-0x00\n", scsi + "block/sda/size": "2048\n",
			"sys/bus/pci/drivers/ahci/x": "", "sys/bus/scsi/drivers/sd/x": "", "sys/module/ahci/initstate": "live\n", "sys/module/sd_mod/parameters/x": "",
		}, map[string]string{
			"sys/block/sda":                   "../devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda",
			pci + "driver":                    "../../../bus/pci/drivers/ahci",
			scsi + "driver":                   "../../../../../../../bus/scsi/drivers/sd",
			"sys/bus/pci/drivers/ahci/module": "../../../../module/ahci", "sys/bus/scsi/drivers/sd/module": "../../../../module/sd_mod",
		}
}

func TestWayTo(t *testing.T) {
	files, links := sata()
	got, err := fixture(t, files, links).WayTo("sda")
	if err != nil {
		t.Fatal(err)
	}
	want := []kmod.Step{
		{Device: "pci0000:00/0000:00:1f.2", Modalias: "pci:v00008086d00002922sv0sd0bc01sc06i01", Driver: "ahci", Module: "ahci"},
		{Device: "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0", Modalias: "scsi:t-0x00", Driver: "sd"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("WayTo (-want +got):\n%s", diff)
	}
}

// With multipath an NVMe disk lies below virtual, its controllers elsewhere.
func TestWayToNVMe(t *testing.T) {
	const pci = "sys/devices/pci0000:00/0000:00:04.0/"
	h := fixture(t, map[string]string{
		"sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1/size": "2048\n",
		pci + "modalias": "pci:v0d0sv0sd0bc01sc08i02\n", pci + "nvme/nvme0/model": "x", "sys/bus/pci/drivers/nvme/x": "", "sys/module/nvme/initstate": "live",
	}, map[string]string{
		"sys/block/nvme0n1": "../devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1",
		"sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0": "../../../pci0000:00/0000:00:04.0/nvme/nvme0",
		pci + "driver": "../../../bus/pci/drivers/nvme", "sys/bus/pci/drivers/nvme/module": "../../../../module/nvme",
	})
	got, err := h.WayTo("nvme0n1")
	if err != nil {
		t.Fatal(err)
	}
	want := []kmod.Step{{Device: "pci0000:00/0000:00:04.0", Modalias: "pci:v0d0sv0sd0bc01sc08i02", Driver: "nvme", Module: "nvme"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("WayTo (-want +got):\n%s", diff)
	}
	if _, err := h.WayTo("sdz"); err == nil {
		t.Error("WayTo of no disk succeeded")
	}
}

func TestDrivers(t *testing.T) {
	ahci := kmod.Step{Modalias: "pci:v8086bc01sc06i01", Driver: "ahci", Module: "ahci"}
	sd := kmod.Step{Modalias: "scsi:t-0x00", Driver: "sd"}
	module := kmod.IndexModule{Name: "ahci", File: "ahci.ko"}
	renamed := kmod.IndexModule{Name: "ahci2", File: "ahci2.ko", Aliases: []string{"pci:v*bc01sc06i01*"}}
	for _, tt := range []struct {
		name    string
		way     []kmod.Step
		r       *Release
		verdict Verdict
		found   string
	}{
		{"all there", []kmod.Step{ahci, sd}, baked(t, "6.1", module), Pass, "ahci, sd"},
		{"by its alias", []kmod.Step{ahci}, baked(t, "6.1", renamed), Pass, "ahci"},
		{"missing", []kmod.Step{ahci, sd}, baked(t, "6.1"), Fail, "no module for ahci pci:v8086bc01sc06i01"},
		{"built in, other kernel", []kmod.Step{ahci, sd}, baked(t, "6.12", module), Warn, "sd: built into the running kernel 6.1, and perhaps into 6.12"},
		{"behind bridges, other kernel", []kmod.Step{{Driver: "pcieport", Modalias: "pci:v8086bc06sc04i00"}, ahci}, baked(t, "6.12", module), Pass, "disk: ahci"},
		{"bridge of a module", []kmod.Step{{Driver: "vmd", Module: "vmd", Modalias: "pci:v8086bc06sc04i00"}, ahci}, baked(t, "6.12", module), Fail, "vmd"},
		{"machine alone", []kmod.Step{ahci, sd}, nil, Pass, "on the way to the disk: ahci, sd"},
		{"nothing shown", nil, baked(t, "6.1", module), Warn, "does not show"},
	} {
		expect(t, tt.name, judgeDrivers(tt.way, tt.r, "6.1"), tt.verdict, tt.found)
	}
	r := baked(t, "6.12")
	r.Baked.Index.BuiltIns = []kmod.BuiltIn{{Name: "sd_mod", Aliases: []string{"scsi:t-0x00*"}}}
	expect(t, "built in and wanted", judgeDrivers([]kmod.Step{sd}, r, "6.1"), Pass, "sd")
}

func TestFilesystems(t *testing.T) {
	ext4 := kmod.IndexModule{Name: "ext4", File: "ext4.ko", Aliases: []string{"fs-ext4"}}
	for _, tt := range []struct {
		name    string
		need    []string
		r       *Release
		native  string
		verdict Verdict
		found   string
	}{
		{"there", []string{"ext4"}, baked(t, "6.1", ext4), "", Pass, "mounts ext4"},
		{"missing", []string{"ext4", "xfs"}, baked(t, "6.1", ext4), "", Fail, "no module for xfs"},
		{"built in", []string{"xfs"}, baked(t, "6.1"), "xfs", Pass, "mounts xfs"},
		{"built in, other kernel", []string{"xfs"}, baked(t, "6.12"), "xfs", Warn, "perhaps into 6.12"},
		{"nothing", nil, nil, "", Pass, "no filesystem"},
		{"nothing, with a release", nil, baked(t, "6.1"), "", Pass, "no filesystem"},
		{"machine alone", []string{"ext4"}, nil, "", Pass, "a run mounts ext4"},
	} {
		expect(t, tt.name, judgeFilesystems(tt.need, tt.r, "6.1", map[string]bool{tt.native: true}), tt.verdict, tt.found)
	}
	h := fixture(t, map[string]string{"proc/filesystems": "nodev\tsysfs\n\text4\n\txfs\n", "sys/module/ext4/initstate": "live"}, nil)
	if diff := cmp.Diff(map[string]bool{"sysfs": true, "xfs": true}, h.nativeFilesystems()); diff != "" {
		t.Errorf("nativeFilesystems (-want +got):\n%s", diff)
	}
}

func TestTarget(t *testing.T) {
	known := config.DiskIdentity{Serial: "S1"}
	for _, tt := range []struct {
		name    string
		d       disk.Disk
		id      config.DiskIdentity
		byName  bool
		verdict Verdict
		found   string
	}{
		{"plain", disk.Disk{Path: "/dev/sda", Bytes: 1 << 30}, known, false, Pass, "/dev/sda (1 GiB)"},
		{"write-protected", disk.Disk{Path: "/dev/sda", ReadOnly: true}, known, false, Fail, "write-protected"},
		{"removable", disk.Disk{Path: "/dev/sda", Removable: true}, known, false, Fail, "removable"},
		{"removable, named", disk.Disk{Path: "/dev/sda", Removable: true}, known, true, Pass, ""},
		{"nameless", disk.Disk{Path: "/dev/vda"}, config.DiskIdentity{Bytes: 5}, false, Warn, "nothing but its size"},
	} {
		expect(t, tt.name, judgeTarget(&tt.d, tt.id, tt.byName), tt.verdict, tt.found)
	}
}

func TestTargetDisk(t *testing.T) {
	h := fixture(t, map[string]string{
		"sys/block/sda/size": "2048\n", "sys/block/sda/queue/logical_block_size": "512\n", "sys/block/sda/device/serial": "ONE\n",
		"sys/block/sdb/size": "4096\n", "sys/block/sdb/queue/logical_block_size": "512\n", "sys/block/sdb/device/serial": "ONE\n",
	}, nil)
	if d, err := h.targetDisk(config.Disk{Kind: config.HoldsOldRoot}, "sdb"); err != nil || d.Name != "sdb" {
		t.Errorf("targetDisk(holds-old-root) = %v, %v", d, err)
	}
	for want, kind := range map[string]config.Disk{
		"2 disks are serial=ONE": {Kind: config.DiskBySerial, Value: "ONE"}, "no disk serial=TWO; it has": {Kind: config.DiskBySerial, Value: "TWO"},
	} {
		if _, err := h.targetDisk(kind, "sda"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("targetDisk(%s) = %v; want %q", kind, err, want)
		}
	}
	if _, err := h.targetDisk(config.Disk{Kind: config.HoldsOldRoot}, ""); err == nil {
		t.Error("targetDisk without a root succeeded")
	}
}

func TestDiskSize(t *testing.T) {
	d := &disk.Disk{Path: "/dev/sda", Bytes: 1 << 30, SectorSize: 512}
	release := func(least int64, sector int) *Release {
		return &Release{Manifest: &image.Manifest{Disk: image.Disk{MinBytes: least, SectorSize: sector}}}
	}
	expect(t, "fits", judgeDiskSize(d, release(1<<30, 512)), Pass, "the image needs 1 GiB")
	expect(t, "too small", judgeDiskSize(d, release(1<<30+512, 512)), Fail, "needs 1073742336")
	expect(t, "other sectors", judgeDiskSize(d, release(1<<20, 4096)), Fail, "sectors of 4096")
	expect(t, "bare", judgeDiskSize(d, &Release{}), Warn, "bare image")
	expect(t, "machine alone", judgeDiskSize(d, nil), Pass, "1 GiB in sectors of 512 bytes")
}

func TestContents(t *testing.T) {
	root := content{partition: "sda2", filesystem: "ext4", uses: []string{"/"}, listed: true}
	for _, tt := range []struct {
		name    string
		all     []content
		verdict Verdict
		found   string
	}{
		{"plain", []content{root, {partition: "sda3", filesystem: "swap"}, {partition: "sda4"}}, Pass, "sda2 ext4 (/); sda3 swap; sda4 nothing known"},
		{"listed, not mounted", []content{root, {partition: "sda3", filesystem: "ext4", listed: true}}, Pass, "sda3 ext4"},
		{"another system", []content{root, {partition: "sda1", filesystem: "ntfs"}}, Warn, "this system does not use sda1 ntfs"},
		{"LVM in use", []content{root, {partition: "sda3", filesystem: "LVM2_member", uses: []string{"part of dm-0 (vg-data)"}}}, Pass, "part of dm-0"},
		{"LVM at rest", []content{root, {partition: "sda3", filesystem: "LVM2_member"}}, Warn, "sda3 LVM2_member"},
		{"empty", nil, Pass, "no partitions"},
	} {
		expect(t, tt.name, judgeContents(tt.all), tt.verdict, tt.found)
	}
}

func TestContentsOfDisk(t *testing.T) {
	ntfs := make([]byte, 128<<10)
	copy(ntfs[3:], "NTFS    ")
	swap := make([]byte, 128<<10)
	copy(swap[4086:], "SWAPSPACE2")
	h := fixture(t, map[string]string{
		"dev/sda1": string(ntfs), "dev/sda5": string(swap), "dev/sda6": strings.Repeat("x", 128<<10),
		"sys/block/sda/dev": "8:0\n", "sys/block/sda/sda1/dev": "8:1\n", "sys/block/sda/sda5/dev": "8:5\n", "sys/block/sda/sda6/dev": "8:6\n",
		"dev/sda4":            strings.Repeat("\x00", 1024),
		"proc/self/mountinfo": "21 1 8:6 / /kiosk rw - ext4 /dev/sda6 rw\n", "proc/swaps": "", "root/etc/fstab": "/dev/sda6 /kiosk ext4 rw 0 0\n",
	}, nil)
	d := &disk.Disk{Name: "sda", Path: h.dev("sda")}
	for i, name := range map[int]string{1: "sda1", 4: "sda4", 5: "sda5", 6: "sda6"} {
		size := int64(128 << 10)
		if i == 4 {
			size = 1024 // extended
		}
		d.Partitions = append(d.Partitions, disk.Partition{Name: name, Path: h.dev(name), Number: i, Bytes: size})
	}
	all, err := h.contents(d)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]content{}
	for _, c := range all {
		got[c.partition] = c
	}
	want := map[string]content{
		"sda1": {partition: "sda1", filesystem: "ntfs"}, "sda5": {partition: "sda5", filesystem: "swap"},
		"sda6": {partition: "sda6", uses: []string{"/kiosk"}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(content{})); diff != "" {
		t.Errorf("contents (-want +got):\n%s", diff)
	}
}

func TestEnvironment(t *testing.T) {
	good := environment{file: "/boot/grub/grubenv", filesystem: "ext4", size: boot.EnvSize}
	with := func(change func(*environment)) *environment {
		e := good
		change(&e)
		return &e
	}
	for _, tt := range []struct {
		name    string
		e       *environment
		verdict Verdict
		found   string
	}{
		{"good", &good, Pass, "where GRUB can write"},
		{"on the ESP", with(func(e *environment) { e.filesystem = "vfat" }), Pass, "vfat"},
		{"LVM", with(func(e *environment) { e.stack = "the LVM volume vg-boot" }), Fail, "the LVM volume vg-boot, where GRUB cannot write"},
		{"RAID", with(func(e *environment) { e.stack = "an MD RAID array, raid1" }), Fail, "RAID"},
		{"btrfs", with(func(e *environment) { e.filesystem = "btrfs" }), Fail, "on btrfs, where GRUB cannot write"},
		{"short", with(func(e *environment) { e.size = 1000 }), Fail, "1000 bytes, expected 1024"},
		{"empty", with(func(e *environment) { e.size = 0 }), Fail, "0 bytes, expected 1024"},
		{"sparse", with(func(e *environment) { e.scattered = errors.New("it is not wholly there") }), Fail, "not wholly there"},
		{"not cleared", with(func(e *environment) { e.next, e.started = EntryID, "RUN" }), Fail, "GRUB did not clear next_entry at the last run: RUN"},
		{"no environment", with(func(e *environment) { e.parse = errors.New("block does not start with") }), Fail, "does not start"},
	} {
		expect(t, tt.name, judgeEnvironment(tt.e, nil), tt.verdict, tt.found)
	}
	expect(t, "missing", judgeEnvironment(nil, syscall.ENOENT), Fail, "no such file")
	expect(t, "ZFS", judgeEnvironment(nil, errors.New("zfs on /boot has no block device")), Fail, "no block device")

	expect(t, "custom.cfg", judgeBootLoader("GRUB in /boot/grub", false), Pass, "GRUB in /boot/grub")
	expect(t, "entries", judgeBootLoader("GRUB in /boot/grub2", true), Warn, "without a gate")
	expect(t, "nothing next", judgeNextEntry(&good, EntryID), Pass, "ordinary")
	expect(t, "armed", judgeNextEntry(with(func(e *environment) { e.next = EntryID }), EntryID), Pass, "armed already")
	expect(t, "somebody else's", judgeNextEntry(with(func(e *environment) { e.next = "memtest" }), EntryID), Fail, "memtest")
}

func TestBootSpace(t *testing.T) {
	expect(t, "room", judgeBootSpace(bootSpace{dir: "/boot", need: 10, free: 10}), Pass, "10 B needed in /boot, 10 B free")
	expect(t, "by making way", judgeBootSpace(bootSpace{dir: "/boot", need: 10, free: 4, held: 6}), Pass, "")
	expect(t, "none", judgeBootSpace(bootSpace{dir: "/boot", need: 10, free: 4, held: 5}), Fail, "10 B needed")
	expect(t, "btrfs", judgeBootSpace(bootSpace{dir: "/boot", on: &Location{Type: "btrfs"}}), Fail, "btrfs")
	expect(t, "LVM", judgeBootSpace(bootSpace{err: errors.New("/boot lies on the LVM volume vg-boot")}), Fail, "LVM")
}

func TestOldRoot(t *testing.T) {
	root := func(kind, path string) *Location {
		return &Location{Device: "/dev/sda2", UUID: "AA-1", Type: kind, Path: path}
	}
	device := func(s string) (d config.Device) {
		if err := d.UnmarshalText([]byte(s)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, tt := range []struct {
		root        *Location
		named, node string
		verdict     Verdict
		found       string
	}{
		{root("ext4", "/"), "", "", Pass, "/dev/sda2 (ext4)"},
		{root("btrfs", "/"), "", "", Pass, "btrfs"},
		{root("btrfs", "/@"), "", "", Fail, "btrfs subvolume /@"},
		{root("ext4", "/deploy/1"), "", "", Fail, "folder /deploy/1"},
		{root("ext4", "/"), "UUID=aa-1", "", Pass, ""},
		{root("ext4", "/"), "LABEL=root", "/dev/sda2", Pass, ""},
		{root("ext4", "/"), "LABEL=root", "/dev/sda3", Fail, "LABEL=root (/dev/sda3), but the running root is /dev/sda2"},
		{root("ext4", "/"), "UUID=BB-2", "", Fail, "does not have"},
		{root("ext4", "/"), "partition 2", "", Pass, "partition 2"},
	} {
		expect(t, tt.named, judgeOldRoot(tt.root, device(tt.named), tt.node), tt.verdict, tt.found)
	}
	h := fixture(t, map[string]string{"dev/sda2": ""}, map[string]string{"dev/disk/by-label/root": "../../sda2"})
	if got := h.nodeOf(device("LABEL=root")); got != h.dev("sda2") {
		t.Errorf("nodeOf = %q, want %q", got, h.dev("sda2"))
	}
	if got := h.nodeOf(device("/dev/sdz")) + h.nodeOf(device("")); got != "" {
		t.Errorf("nodeOf of none = %q", got)
	}
}
