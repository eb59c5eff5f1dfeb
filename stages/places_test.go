package stages

import (
	"testing"

	"reimager/config"
	"reimager/disk"
)

func TestMatches(t *testing.T) {
	sda, sdb := disk.Disk{Name: "sda"}, disk.Disk{Name: "sdb"}
	p := place{
		disk: sda, part: disk.Partition{Path: "/dev/sda2", Number: 2},
		entry: disk.Entry{PartUUID: "01d05e5e-02", Name: "root"}, fs: disk.Filesystem{Type: "ext4", UUID: "ab-cd", Label: "kiosk"},
	}
	for _, tt := range []struct {
		device string
		target *disk.Disk
		want   bool
	}{
		{"/dev/sda2", nil, true}, {"/dev/sda", nil, false}, {"/dev/sda22", nil, false},
		{"UUID=AB-CD", nil, true}, {"UUID=ab", nil, false}, {"LABEL=kiosk", nil, true}, {"LABEL=Kiosk", nil, false},
		{"PARTUUID=01D05E5E-02", nil, true}, {"PARTLABEL=root", nil, true}, {"PARTLABEL=other", nil, false},
		{"partition 2", &sda, true}, {"partition 2", &sdb, false}, {"partition 2", nil, false}, {"partition 3", &sda, false},
	} {
		device, err := config.ParseDevice(tt.device)
		if err != nil {
			t.Fatal(err)
		}
		if got := matches(p, device, tt.target); got != tt.want {
			t.Errorf("matches(%s) = %v; want %v", tt.device, got, tt.want)
		}
	}
	// A place without a name must not be found by an empty one.
	if matches(place{}, config.Device{Kind: config.ByUUID}, nil) || matches(place{}, config.Device{Kind: config.ByPartLabel}, nil) {
		t.Error("a nameless place matches a nameless device")
	}
}

func TestStateFitsItsPlace(t *testing.T) {
	// A digest in JSON is 64 digits, two quotes and a comma.
	if got, want := stateBytes(4<<40), int64(4<<40/(4<<20)*67); got < want {
		t.Errorf("stateBytes(4 TiB) = %d; want at least %d", got, want)
	}
}
