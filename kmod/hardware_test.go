package kmod

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func someHardware() *Hardware {
	return &Hardware{
		Format: HardwareFormat, About: HardwareAbout, Vendor: "Kiosk Corp.", Kernel: "6.1.0-1",
		Disks: []HardwareDisk{
			{Name: "sda", Way: []Step{
				{Device: "pci0000:00/0000:00:1f.2", Modalias: "pci:v1bc01sc06i01", Driver: "ahci", Module: "ahci"},
				{Device: "0:0:0:0", Modalias: "scsi:t-0x00", Driver: "sd"},
			}},
			{Name: "sdb", Removable: true, Way: []Step{{Device: "usb1/1-1", Modalias: "usb:v1ic08isc06", Driver: "usb-storage", Module: "usb-storage"}}},
		},
		Filesystems: []string{"ext4"},
		Modaliases:  []string{"pci:v1bc01sc06i01", "pci:v2bc02sc00i00", "pci:v3bc0Csc03i30", "usb:v1ic08isc06", "usb:v2ic03isc01"},
	}
}

func TestHardwareRoundTrip(t *testing.T) {
	var out bytes.Buffer
	if err := someHardware().Encode(&out); err != nil {
		t.Fatal(err)
	}
	got, err := ParseHardware("kiosk.json", out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(someHardware(), got); diff != "" {
		t.Errorf("ParseHardware (-want +got):\n%s", diff)
	}
}

// What drives the fixed disk has to be there, the rest is taken along; a network card
// and a keyboard are not.
func TestHardwareWants(t *testing.T) {
	demand := func(name string) Want { return Want{Name: name, Optional: true, OnDemand: true} }
	want := []Want{{Name: "ahci"}, {Name: "usb_storage", Optional: true}, {Name: "ext4"},
		demand("pci:v1bc01sc06i01"), demand("scsi:t-0x00"), demand("usb:v1ic08isc06"), demand("pci:v3bc0Csc03i30"),
		demand("sd_mod"), demand("uas"), demand("xfs"), demand("btrfs"), demand("vfat"),
		demand("nls_cp437"), demand("nls_iso8859_1"), demand("nls_ascii"), demand("nls_utf8")}
	if diff := cmp.Diff(want, someHardware().Wants()); diff != "" {
		t.Errorf("Wants (-want +got):\n%s", diff)
	}
}

func TestParseHardwareRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", "EOF"},
		{"other format", `{"format":2}`, "format 2, expected 1"},
		{"unknown field", `{"format":1,"modules":[]}`, "unknown field"},
		{"two", `{"format":1}{}`, "something follows"},
		{"module with a path", `{"format":1,"disks":[{"way":[{"module":"../ahci"}]}]}`, "no module's name"},
		{"modalias with a newline", `{"format":1,"modaliases":["pci:\nmodule x"]}`, "has spaces"},
		{"empty modalias", `{"format":1,"modaliases":[""]}`, "is empty"},
		{"modalias on the way with a space", `{"format":1,"disks":[{"way":[{"modalias":"a b"}]}]}`, "has spaces"},
		{"filesystem", `{"format":1,"filesystems":["ext4 x"]}`, "is none"},
		{"too large", `{"format":1,"about":"` + strings.Repeat("x", maxHardware) + `"}`, "expected at most"},
	} {
		if _, err := ParseHardware("f.json", []byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "read hardware f.json: ") {
			t.Errorf("%s: ParseHardware = %v; want %q", tt.name, err, tt.want)
		}
	}
}

func TestProvides(t *testing.T) {
	x := &Index{Kernel: "6.1", Modules: []IndexModule{{Name: "usb_storage", File: "a.ko", Aliases: []string{"usb:v*ic08*"}}},
		BuiltIns: []BuiltIn{{Name: "sd_mod", Aliases: []string{"scsi:t-0x00*"}}}}
	for name, want := range map[string]bool{
		"usb-storage": true, "usb_storage": true, "usb:v1ic08x": true, "sd_mod": true, "scsi:t-0x00": true,
		"ahci": false, "usb:v1ic03x": false, "scsi:t-0x05": false, "": false,
	} {
		if got := x.Provides(name); got != want {
			t.Errorf("Provides(%q) = %t, want %t", name, got, want)
		}
	}
}

// Whatever is accepted is written as it is read, and wants what can be looked up.
func FuzzParseHardware(f *testing.F) {
	var out bytes.Buffer
	if err := someHardware().Encode(&out); err != nil {
		f.Fatal(err)
	}
	f.Add(out.Bytes())
	f.Add([]byte(`{"format":1,"disks":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ParseHardware("f", data)
		if err != nil {
			return
		}
		for _, w := range h.Wants() {
			if !validAlias(w.Name) {
				t.Errorf("wants %q", w.Name)
			}
		}
		var out bytes.Buffer
		if err := h.Encode(&out); err != nil {
			t.Fatal(err)
		}
		again, err := ParseHardware("f", out.Bytes())
		if err != nil {
			t.Fatalf("what was written is not read: %v", err)
		}
		if diff := cmp.Diff(h, again); diff != "" {
			t.Errorf("round trip (-first +again):\n%s", diff)
		}
	})
}
