package stages

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/config"
	"reimager/disk"
	"reimager/lifeboat"
)

func TestBerthPartition(t *testing.T) {
	old := lifeboat.System{
		Table: &disk.Table{Entries: []disk.Entry{{Number: 1, PartUUID: "0badcafe-01"}, {Number: 3, PartUUID: "0badcafe-03"}, {Number: 4, Name: "berth"}, {Number: 14}}},
		Filesystems: map[int]disk.Filesystem{1: {Type: "ext4", UUID: "11AA", Label: "data"}, 3: {Type: "swap", UUID: "33cc", Label: "twice"},
			14: {Type: "ext4", Label: "twice"}},
	}
	for _, tt := range []struct {
		berth string
		want  int
		err   string
	}{
		{"", 0, ""},
		{"/dev/sda4", 4, ""},
		{"/dev/nvme0n1p14", 14, ""},
		{"partition 3", 3, ""},
		{"UUID=11aa", 1, ""},
		{"LABEL=data", 1, ""},
		{"PARTUUID=0BADCAFE-03", 3, ""},
		{"PARTLABEL=berth", 4, ""},
		{"/dev/sda", 0, "0 partitions of the disk"},
		{"/dev/nvme0n1", 0, "0 partitions of the disk"},
		{"/dev/sda2", 0, "0 partitions of the disk"},
		{"LABEL=twice", 0, "2 partitions of the disk"},
	} {
		var device config.Device
		if err := device.UnmarshalText([]byte(tt.berth)); err != nil {
			t.Fatal(err)
		}
		got, err := BerthPartition(device, old)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("BerthPartition(%q) = %d, %v; want %d, %q", tt.berth, got, err, tt.want, tt.err)
		}
	}
	fstab, err := disk.ParseFstab(strings.NewReader("UUID=11aa / ext4 defaults 0 1\n/dev/sda4 /srv xfs noauto 0 0\nUUID=33cc none swap sw 0 0\n" +
		"/dev/sdb3 /mnt ext4 defaults 0 0\nserver:/x /net nfs defaults 0 0\n/srv/a /srv/b none bind 0 0\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[int]string{1: "the old system mounts it on /", 4: "the old system mounts it on /srv"}
	if diff := cmp.Diff(want, Mounted(MountsOf(fstab), old)); diff != "" {
		t.Errorf("Mounted (-want +got):\n%s", diff)
	}
}
