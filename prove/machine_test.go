package prove

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"reimager/config"
	"reimager/stages"
	"reimager/vm"
)

// parse reads a configuration of which some parts are given.
func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("reimager.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const someUUID = "5f1c4e9a-6f8e-4c43-8d0f-0d5b7e2a9c11"

func TestPlanMachine(t *testing.T) {
	all := func(string) bool { return true }
	for _, tc := range []struct {
		name, config string
		needs        needs
		want         machine
	}{
		{"nothing named", "", needs{has: all, diskBytes: 1 << 30, releaseBytes: 160 * mib},
			machine{bus: vm.AHCI, label: "dos", bytes: 1 << 30, parts: []partition{
				{number: 1, start: mib, size: 97 * mib, root: true},
				{number: 2, start: 98 * mib, size: 235 * mib, release: true},
			}}},
		{"the first fleets", `
[image]
source = "/dev/sda5:/release/new.img.bz2"
[target]
disk = "/dev/sda"
[old]
root = "/dev/sda2"
mounts = { "/data" = "/dev/sda5", "/kiosk" = "/dev/sda6" }`, needs{has: all, diskBytes: 8 * mib, retainedBytes: mib},
			machine{bus: vm.AHCI, label: "dos", bytes: 299 * mib, parts: []partition{
				{number: 2, start: mib, size: 99 * mib, root: true},
				{number: 4, start: 100 * mib, size: 198 * mib, extended: true},
				{number: 5, start: 101 * mib, size: 130 * mib, mounts: []string{"/data"}, release: true},
				{number: 6, start: 232 * mib, size: 66 * mib, mounts: []string{"/kiosk"}},
			}}},
		{"logical partitions before the named one", `
[target]
disk = "/dev/nvme0n1"
[old]
root = "/dev/nvme0n1p4"
mounts = { "/srv" = "partition 7" }`, needs{has: all},
			machine{bus: vm.NVMe, label: "dos", bytes: 0, parts: []partition{
				{number: 1, start: mib, size: 65 * mib, release: true},
				{number: 3, extended: true},
				{number: 4, root: true},
				{number: 5}, {number: 6}, {number: 7, mounts: []string{"/srv"}},
			}}},
		{"by what lies on it", `
[target]
disk = "serial=KIOSK0042"
[old]
root = "UUID=` + strings.ToUpper(someUUID) + `"
mounts = { "/a" = "LABEL=data", "/b" = "PARTUUID=1234abcd-06", "/c" = "LABEL=data" }`, needs{has: func(m string) bool { return m == "virtio_blk" }},
			machine{bus: vm.VirtIO, serial: "KIOSK0042", label: "dos", id: "0x1234abcd", parts: []partition{
				{number: 1, root: true, uuid: someUUID},
				{number: 2, mounts: []string{"/a", "/c"}, label: "data"},
				{number: 3, release: true},
				{number: 4, extended: true},
				{number: 5}, {number: 6, mounts: []string{"/b"}},
			}}},
		{"GPT", `
[image]
source = "/dev/sdq1:/somewhere/else"
[target]
disk = "wwn=0x5000c500a1b2c3d4"
[old]
root = "PARTLABEL=old root"
mounts = { "/b" = "PARTUUID=` + someUUID + `", "/c" = "partition 9" }`, needs{has: all},
			machine{bus: vm.AHCI, wwn: "0x5000c500a1b2c3d4", label: "gpt", parts: []partition{
				{number: 1, root: true, name: "old root"},
				{number: 2, mounts: []string{"/b"}, partUUID: someUUID},
				{number: 3, release: true},
				{number: 9, mounts: []string{"/c"}},
			}}},
	} {
		got, err := planMachine(parse(t, tc.config), tc.needs)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		checkLayout(t, tc.name, got, tc.needs)
		forget(got, &tc.want)
		if diff := cmp.Diff(tc.want, *got, cmp.AllowUnexported(machine{}, partition{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

// forget takes out what is random, and sizes where none are wanted.
func forget(got, want *machine) {
	if want.serial == "" {
		got.serial = ""
	}
	if want.id == "" {
		got.id = ""
	}
	if want.bytes == 0 {
		got.bytes = 0
	}
	for i := range got.parts {
		if i < len(want.parts) && want.parts[i].uuid == "" {
			got.parts[i].uuid = ""
		}
		if want.bytes == 0 {
			got.parts[i].start, got.parts[i].size = 0, 0
			if i < len(want.parts) {
				want.parts[i].start, want.parts[i].size = 0, 0
			}
		}
	}
}

// checkLayout: everything fits, and nothing overlaps but the extended partition and
// what is in it.
func checkLayout(t *testing.T, name string, m *machine, n needs) {
	t.Helper()
	if m.bytes < n.diskBytes {
		t.Errorf("%s: the disk has %d bytes; want at least %d", name, m.bytes, n.diskBytes)
	}
	if m.release().size < n.releaseBytes {
		t.Errorf("%s: %d bytes for a release of %d", name, m.release().size, n.releaseBytes)
	}
	for i, p := range m.parts {
		if p.start < mib || p.size <= 0 || p.start+p.size > m.bytes-mib {
			t.Errorf("%s: partition %d at %d with %d bytes does not fit a disk of %d", name, p.number, p.start, p.size, m.bytes)
		}
		for _, q := range m.parts[i+1:] {
			inside := p.extended && q.number > 4 && q.start > p.start && q.start+q.size <= p.start+p.size
			if p.start < q.start+q.size && q.start < p.start+p.size && !inside {
				t.Errorf("%s: partitions %d and %d overlap", name, p.number, q.number)
			}
		}
		if needs := p.root || p.release || len(p.mounts) > 0; needs != (p.uuid != "") {
			t.Errorf("%s: partition %d has the UUID %q", name, p.number, p.uuid)
		}
	}
}

func TestPlanMachineRefuses(t *testing.T) {
	for _, tc := range []struct{ config, want string }{
		{"[target]\ndisk = \"/dev/sdb\"", `target.disk = "/dev/sdb": no such device in the machine`},
		{"[target]\ndisk = \"/dev/mmcblk0\"", `target.disk = "/dev/mmcblk0": no such device`},
		{"[target]\ndisk = \"/dev/sda1\"", `target.disk = "/dev/sda1": it is a partition`},
		{"[target]\ndisk = \"serial=0123456789012345678901\"", "at most 20 characters"},
		{"[target]\ndisk = \"wwn=eui.0025385\"", `target.disk = "wwn=eui.0025385"`},
		{"[target]\ndisk = \"wwn=0x5000c500a1b2c3d4\"\n[old]\nroot = \"/dev/vda1\"", "only the stand-in's SATA disk has a WWN"},
		{"[old]\nroot = \"/dev/sdb2\"", `old.root = "/dev/sdb2"`},
		{"[old]\nroot = \"/dev/mapper/vg-root\"", `old.root = "/dev/mapper/vg-root"`},
		{"[old]\nroot = \"/dev/sda\"", `old.root = "/dev/sda": it is no partition`},
		{"[old]\nroot = \"/dev/sda2\"\nmounts = { \"/x\" = \"/dev/vda1\" }", `old.mounts: /x = "/dev/vda1": another disk than /dev/sda`},
		{"[old]\nmounts = { \"/x\" = \"UUID=1234-ABCD\" }", `old.mounts: /x = "UUID=1234-ABCD": the stand-in's filesystems are ext4`},
		{"[old]\nmounts = { \"/x\" = \"LABEL=seventeen-letters\" }", "at most 16 bytes"},
		{"[old]\nmounts = { \"/x\" = \"PARTUUID=nonsense\" }", "neither a GPT's UUID nor an MBR's"},
		{"[old]\nmounts = { \"/x\" = \"PARTUUID=12345678-01\", \"/y\" = \"PARTUUID=22345678-02\" }", "another disk than that of PARTUUID=12345678"},
		{"[old]\nroot = \"PARTLABEL=x\"\nmounts = { \"/x\" = \"PARTUUID=12345678-01\" }", "is that of an MBR disk"},
		{"[old]\nroot = \"/dev/sda1\"\nmounts = { \"/x\" = \"PARTUUID=12345678-01\", \"/y\" = \"/dev/sda200\" }", "partition 200"},
		{"[target]\ndisk = \"/dev/sda\"\n[old]\nroot = \"partition 1\"\nmounts = { \"/2\" = \"partition 2\", \"/3\" = \"partition 3\", \"/4\" = \"partition 4\" }", "an MBR disk needs one of these four"},
	} {
		m, err := planMachine(parse(t, tc.config), needs{has: func(string) bool { return true }})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %+v, %v; want an error with %q", tc.config, m, err, tc.want)
		}
	}
}

func TestPlace(t *testing.T) {
	m := &machine{parts: []partition{
		{number: 1, root: true}, {number: 2, mounts: []string{"/srv"}}, {number: 3, mounts: []string{"/srv/data"}},
	}}
	for _, tc := range []struct {
		path   string
		around bool
		number int
		want   string
	}{
		{"/etc/x", false, 1, "/etc/x"}, {"/srvx", false, 1, "/srvx"}, {"/srv/x", false, 2, "/x"}, {"/srv", false, 2, "/"},
		{"/srv/data/x y", false, 3, "/x y"}, {"/srv/data", true, 2, "/data"}, {"/srv", true, 1, "/srv"},
	} {
		if p, got := m.place(tc.path, tc.around); got != tc.want || p.number != tc.number {
			t.Errorf("place(%s, %v) = %d, %s; want %d, %s", tc.path, tc.around, p.number, got, tc.number, tc.want)
		}
	}
}

func TestJobParameter(t *testing.T) {
	if jobParameter != stages.JobParameter {
		t.Errorf("jobParameter = %q; want %q, which init reads", jobParameter, stages.JobParameter)
	}
}
