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
	if got, want := stateBytes(4<<40, nil), int64(4<<40/(4<<20)*120); got < want {
		t.Errorf("stateBytes(4 TiB) = %d; want at least %d", got, want)
	}
}

// imagePlace is a partition of an image as gather sees it before the write.
func imagePlace(number int, kind, label string) place {
	return place{disk: disk.Disk{Name: "sdb"}, part: disk.Partition{Path: "partition", Number: number}, fs: disk.Filesystem{Type: kind, UUID: "u" + label, Label: label}}
}

func TestNewSystemIsProvenBeforeTheWrite(t *testing.T) {
	plain := []place{imagePlace(1, "vfat", "EFI"), imagePlace(2, "ext4", "root"), imagePlace(3, "swap", "swap"), imagePlace(6, "ext4", "kiosk")}
	for _, tt := range []struct {
		name string
		all  []place
		want bool
	}{
		{"plain", plain, true},
		{"only vfat", plain[:1], false},
		{"nothing", nil, false},
		{"root on LVM beside /boot", append([]place{imagePlace(5, "LVM2_member", "")}, plain...), false},
		{"encrypted root", append([]place{imagePlace(5, "crypto_LUKS", "")}, plain...), false},
	} {
		if err := rootPossible(tt.all); (err == nil) != tt.want {
			t.Errorf("%s: rootPossible = %v; want %v", tt.name, err, tt.want)
		}
	}
	twins := append([]place{imagePlace(7, "ext4", "root")}, plain...)
	for _, tt := range []struct {
		device string
		all    []place
		want   bool
	}{
		{"partition 2", plain, true}, {"partition 5", plain, false}, {"partition 3", plain, false}, // swap
		{"/dev/sda6", plain, true}, {"/dev/nvme0n1p6", plain, true}, {"/dev/sda7", plain, false}, {"/dev/sda", plain, false},
		{"LABEL=root", plain, true}, {"LABEL=other", plain, false}, {"LABEL=root", twins, false},
		{"UUID=uroot", plain, true}, {"UUID=none", plain, false},
	} {
		device, err := config.ParseDevice(tt.device)
		if err != nil {
			t.Fatal(err)
		}
		if err := mountableAs(tt.all, device); (err == nil) != tt.want {
			t.Errorf("mountableAs(%s) = %v; want %v", tt.device, err, tt.want)
		}
	}
}

func TestOnlyLostFilesAreWrittenAgain(t *testing.T) {
	for what, want := range map[string]bool{
		"existence": true, "content": true, "type": true, "link target": true, "hard link": true, "device": true,
		"mtime": false, "mode": false, "uid": false, "gid": false, "extended attribute user.x": false,
	} {
		if got := decisive(what); got != want {
			t.Errorf("decisive(%q) = %v; want %v", what, got, want)
		}
	}
}
