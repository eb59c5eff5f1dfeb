package stages

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"reimager/config"
	"reimager/image"
)

func TestThisMachine(t *testing.T) {
	sys := t.TempDir()
	dir := filepath.Join(sys, "class/dmi/id")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"sys_vendor": "Till Corp\n", "product_name": "G3 \n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := config.MachineIdentity{Vendor: "Till Corp", Product: "G3", Firmware: "bios"}
	if diff := cmp.Diff(want, ThisMachine(sys)); diff != "" {
		t.Errorf("ThisMachine (-want +got):\n%s", diff)
	}
	if err := os.MkdirAll(filepath.Join(sys, "firmware/efi"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := ThisMachine(sys).Firmware; got != "uefi" {
		t.Errorf("firmware %q; want uefi", got)
	}
}

func TestMachineDiffers(t *testing.T) {
	found := config.MachineIdentity{Vendor: "Till Corp", Product: "G3", Board: "B1", Firmware: "bios"}
	if got := (config.MachineIdentity{Firmware: "bios"}).Differs(config.MachineIdentity{Firmware: "uefi"}); got != `firmware "uefi", expected "bios"` {
		t.Errorf("armed under BIOS, found under UEFI: Differs = %q", got)
	}
	for _, tt := range []struct {
		armed config.MachineIdentity
		want  string
	}{
		{config.MachineIdentity{}, ""},
		{found, ""},
		{config.MachineIdentity{Product: "G3"}, ""},
		{config.MachineIdentity{Vendor: "Other"}, `vendor "Till Corp", expected "Other"`},
		{config.MachineIdentity{Vendor: "Till Corp", Product: "G4"}, `product "G3", expected "G4"`},
		{config.MachineIdentity{Board: "B2"}, `board "B1", expected "B2"`},
		{config.MachineIdentity{Firmware: "uefi"}, ""}, // kexec may have lost it
	} {
		if got := tt.armed.Differs(found); got != tt.want {
			t.Errorf("%+v.Differs = %q; want %q", tt.armed, got, tt.want)
		}
	}
}

func TestCheckManifest(t *testing.T) {
	for _, tt := range []struct{ armed, found, want string }{
		{"", "", ""}, {"", "ab", ""}, {"ab", "ab", ""},
		{"ab", "cd", "its manifest has the SHA-256 cd, expected a manifest with ab"},
		{"ab", "", "it is a bare image, expected a manifest with ab"},
	} {
		r := &Run{Job: &config.Job{Release: config.JobRelease{Manifest: tt.armed}}}
		err := r.checkManifest(tt.found)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("armed with %q, found %q: %v; want %q", tt.armed, tt.found, err, tt.want)
		}
	}
	if err := (&Run{}).checkManifest("ab"); err != nil {
		t.Errorf("without a job: %v", err)
	}
}

func TestDowntime(t *testing.T) {
	if got, want := downtime(10*time.Second, 90<<20, 10<<20, 100<<20), 12*time.Second; got != want {
		t.Errorf("downtime = %s; want %s", got, want)
	}
}

func TestSpread(t *testing.T) {
	var all []image.MapRange
	for i := range int64(10) {
		all = append(all, image.MapRange{Extent: image.Extent{Off: i}})
	}
	for _, tt := range []struct {
		n    int
		want []int64
	}{{1, []int64{0}}, {3, []int64{0, 3, 6}}, {10, []int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}}, {16, []int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}}} {
		var got []int64
		for _, r := range spread(all, tt.n) {
			got = append(got, r.Off)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("spread(10, %d) (-want +got):\n%s", tt.n, diff)
		}
	}
	if got := spread(nil, 3); len(got) != 0 {
		t.Errorf("spread of nothing = %v", got)
	}
}
