package check

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/config"
	"reimager/image"
)

func TestPower(t *testing.T) {
	const dir = "sys/class/power_supply/"
	battery := func(status, capacity string) map[string]string {
		return map[string]string{dir + "BAT0/type": "Battery\n", dir + "BAT0/status": status + "\n", dir + "BAT0/capacity": capacity + "\n", dir + "BAT0/present": "1\n"}
	}
	with := func(files map[string]string, more ...string) map[string]string {
		for i := 0; i < len(more); i += 2 {
			files[dir+more[i]] = more[i+1]
		}
		return files
	}
	for _, tt := range []struct {
		name    string
		files   map[string]string
		verdict Verdict
		found   string
	}{
		{"nothing known", nil, Pass, "tells of no battery"},
		{"mains", with(map[string]string{}, "AC/type", "Mains\n", "AC/online", "1\n"), Pass, "on mains (AC)"},
		{"battery beside mains", with(battery("Charging", "5"), "AC/type", "Mains", "AC/online", "1"), Pass, "on mains (AC)"},
		{"battery", with(battery("Discharging", "80"), "AC/type", "Mains", "AC/online", "0"), Warn, "on battery (BAT0) at 80%"},
		{"at the limit", battery("Discharging", "20"), Warn, "at 20%"},
		{"low", battery("Discharging", "19"), Fail, "at 19%, expected at least 20%"},
		{"silent about its charge", battery("Discharging", "?"), Warn, "does not say"},
		{"the fuller of two", with(battery("Discharging", "3"), "BAT1/type", "UPS", "BAT1/status", "Discharging", "BAT1/capacity", "80"), Warn, "on battery (BAT1) at 80%"},
		{"both low", with(battery("Discharging", "3"), "BAT1/type", "UPS", "BAT1/status", "Discharging", "BAT1/capacity", "4"), Fail, "on battery (BAT1) at 4%"},
		{"drained beside mains", with(battery("Discharging", "5"), "AC/type", "Mains", "AC/online", "1"), Warn, "on mains (AC), but the battery (BAT0, at 5%)"},
		{"a mouse's", with(battery("Discharging", "3"), "BAT0/scope", "Device\n"), Pass, "tells of no battery"},
		{"taken out", with(battery("Discharging", "3"), "BAT0/present", "0\n"), Pass, "tells of no battery"},
	} {
		expect(t, tt.name, judgePower(fixture(t, tt.files, nil).supplies()), tt.verdict, tt.found)
	}
}

func TestSecureBoot(t *testing.T) {
	for _, tt := range []struct {
		name           string
		files          map[string]string
		kernel, signed bool
		signedErr      error
		verdict        Verdict
		found          string
	}{
		{"off", map[string]string{"sys/" + secureBootFile: "\x06\x00\x00\x00\x00"}, true, false, nil, Pass, "off"},
		{"firmware without it", map[string]string{"sys/firmware/efi/efivars/x": ""}, true, false, nil, Pass, "off"},
		{"on, signed", map[string]string{"sys/" + secureBootFile: "\x06\x00\x00\x00\x01"}, true, true, nil, Pass, "is signed"},
		{"on, not signed", map[string]string{"sys/" + secureBootFile: "\x06\x00\x00\x00\x01"}, true, false, nil, Fail, "is not signed"},
		{"on, no release", map[string]string{"sys/" + secureBootFile: "\x06\x00\x00\x00\x01"}, false, false, nil, Pass, "has to be signed"},
		{"on, damaged kernel", map[string]string{"sys/" + secureBootFile: "\x06\x00\x00\x00\x01"}, true, false, errors.New("no PE32+"), Fail, "no PE32+"},
		{"cut short", map[string]string{"sys/" + secureBootFile: "\x06"}, true, true, nil, Warn, "1 bytes, expected 5"},
		{"not mounted", nil, true, true, nil, Warn, "shows no EFI variables"},
	} {
		on, err := fixture(t, tt.files, nil).secureBoot()
		expect(t, tt.name, judgeSecureBoot(on, err, tt.kernel, tt.signed, tt.signedErr), tt.verdict, tt.found)
	}
}

func TestFirmware(t *testing.T) {
	unread := &image.SystemFacts{Missing: []string{"partition 1: " + image.ESPNotRead + "its boot sector makes no sense"}}
	boots := func(kinds ...string) *image.Manifest { return &image.Manifest{Disk: image.Disk{Firmware: kinds}} }
	for _, tt := range []struct {
		machine string
		m       *image.Manifest
		verdict Verdict
		found   string
	}{
		{bios, boots("bios"), Pass, "BIOS"},
		{uefi, boots("bios", "uefi"), Pass, "UEFI"},
		{uefi, boots("bios"), Fail, "this machine boots by UEFI, the image by bios"},
		{bios, boots("uefi"), Fail, "this machine boots by BIOS, the image by uefi"},
		{bios, nil, Pass, "BIOS"},
		{uefi, nil, Warn, "does not say"},
		{uefi, boots(), Warn, "does not say"},
		{bios, &image.Manifest{Disk: image.Disk{Firmware: []string{}}}, Fail, "nothing that any firmware boots"},
		{uefi, &image.Manifest{Disk: image.Disk{Firmware: []string{}}}, Fail, "nothing that any firmware boots"},
		{uefi, &image.Manifest{Disk: image.Disk{Firmware: []string{"bios"}}, System: unread}, Warn, "could not read"},
		{bios, &image.Manifest{Disk: image.Disk{Firmware: []string{}}, System: unread}, Fail, "nothing that any firmware boots"},
	} {
		expect(t, tt.machine, judgeFirmware(tt.machine, tt.m), tt.verdict, tt.found)
	}
	if r, err := (Results{judgeFirmware(uefi, &image.Manifest{Disk: image.Disk{Firmware: []string{}}})}).Force([]string{string(Firmware)}); !errors.Is(err, ErrForce) {
		t.Errorf("Force of an image that nothing boots = %v, %v", r, err)
	}
	if r, err := (Results{judgeFirmware(uefi, boots("bios"))}).Force([]string{string(Firmware)}); err != nil || r[0].Verdict != Warn {
		t.Errorf("Force of an image for the other firmware = %v, %v", r, err)
	}
	if got := fixture(t, map[string]string{"sys/firmware/efi/": ""}, nil).firmware(); got != uefi {
		t.Errorf("firmware = %s, want %s", got, uefi)
	}
	if got := fixture(t, map[string]string{"sys/firmware/acpi/": ""}, nil).firmware(); got != bios {
		t.Errorf("firmware = %s, want %s", got, bios)
	}
}

func TestUEFILoader(t *testing.T) {
	for _, tt := range []struct {
		loaders []string
		verdict Verdict
		found   string
	}{
		{[]string{"/EFI/debian/grubx64.efi", "/EFI/BOOT/BOOTX64.EFI"}, Pass, `brings \EFI\BOOT\BOOTX64.EFI`},
		{[]string{"efi/boot/bootx64.efi"}, Pass, ""},
		{[]string{`\EFI\Boot\bootx64.efi`}, Pass, ""},
		{[]string{"/EFI/debian/grubx64.efi"}, Fail, "/EFI/debian/grubx64.efi"},
		{[]string{"/EFI/BOOT/BOOTIA32.EFI"}, Fail, "lacks"},
		{nil, Fail, "no loader at all"},
	} {
		expect(t, "", judgeUEFILoader(&image.SystemFacts{UEFILoader: tt.loaders}), tt.verdict, tt.found)
	}
	unread := []string{"partition 1: " + image.ESPNotRead + "its boot sector makes no sense"}
	expect(t, "not read", judgeUEFILoader(&image.SystemFacts{Missing: unread}), Warn, "could not read")
	expect(t, "another one not read", judgeUEFILoader(&image.SystemFacts{UEFILoader: []string{"/EFI/BOOT/BOOTX64.EFI"}, Missing: unread}), Pass, "brings")
	expect(t, "nothing known", judgeUEFILoader(nil), Warn, "does not say")
}

func TestLoaderSigned(t *testing.T) {
	loaders := []string{"/EFI/BOOT/BOOTX64.EFI", "/EFI/DEBIAN/SHIMX64.EFI"}
	kernel := pass(SecureBoot, "on; the kernel of the release is signed")
	for _, tt := range []struct {
		name    string
		s       *image.SystemFacts
		verdict Verdict
		found   string
	}{
		{"signed", &image.SystemFacts{UEFILoader: loaders, UEFISigned: loaders}, Pass, "kernel of the release is signed"},
		{"another one is", &image.SystemFacts{UEFILoader: loaders, UEFISigned: loaders[1:]}, Fail, `BOOTX64.EFI is not signed`},
		{"none is", &image.SystemFacts{UEFILoader: loaders, UEFISigned: []string{}}, Fail, "not signed"},
		{"packed before", &image.SystemFacts{UEFILoader: loaders}, Warn, "does not say"},
		{"bare", nil, Warn, "does not say"},
		{"no such loader", &image.SystemFacts{UEFISigned: []string{}}, Pass, ""},
	} {
		expect(t, tt.name, judgeLoaderSigned(tt.s, kernel), tt.verdict, tt.found)
	}
}

func TestMachine(t *testing.T) {
	h := fixture(t, map[string]string{"sys/class/dmi/id/sys_vendor": "Kiosk Corp.\n", "sys/class/dmi/id/product_name": "K 300 \n"}, nil)
	want := config.MachineIdentity{Vendor: "Kiosk Corp.", Product: "K 300", Firmware: bios}
	if diff := cmp.Diff(want, h.Machine()); diff != "" {
		t.Errorf("Machine (-want +got):\n%s", diff)
	}
}

func TestStack(t *testing.T) {
	h := fixture(t, map[string]string{
		"sys/class/block/dm-0/dm/uuid": "LVM-abc\n", "sys/class/block/dm-0/dm/name": "vg-root\n",
		"sys/class/block/dm-1/dm/uuid": "CRYPT-LUKS2-0123-luks-1\n", "sys/class/block/dm-1/dm/name": "luks-1\n",
		"sys/class/block/dm-2/dm/uuid": "mpath-36\n", "sys/class/block/dm-2/dm/name": "mpatha\n",
		"sys/class/block/dm-3/dm/name": "own\n", "sys/class/block/md127/md/level": "raid1\n", "sys/class/block/bcache0/bcache/": "",
		"sys/class/block/sda2/partition": "2\n", "sys/class/block/cciss!c0d0p1/partition": "1\n",
	}, nil)
	for device, want := range map[string]string{
		"dm-0": "the LVM volume vg-root", "dm-1": "the encrypted volume luks-1 (LUKS2)", "dm-2": "the multipath device mpatha",
		"dm-3": "the device-mapper volume own", "md127": "an MD RAID array, raid1", "bcache0": "bcache", "sda2": "", "cciss/c0d0p1": "",
	} {
		if got := h.stack(h.dev(device)); got != want {
			t.Errorf("stack(%s) = %q, want %q", device, got, want)
		}
	}
}

func TestKexec(t *testing.T) {
	for _, tt := range []struct {
		loaded, disabled, lockdown string
		verdict                    Verdict
		found                      string
	}{
		{"0", "0", "[none] integrity confidentiality", Pass, "starts another one"},
		{"0", "", "", Pass, "starts another one"},
		{"", "", "", Fail, "knows no kexec"},
		{"0", "1", "", Fail, "kernel.kexec_load_disabled is 1"},
		{"0", "0", "none [integrity] confidentiality", Warn, "locked down"},
	} {
		expect(t, tt.loaded, judgeKexec(tt.loaded, tt.disabled, tt.lockdown), tt.verdict, tt.found)
	}
}
