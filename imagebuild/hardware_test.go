package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/cli"
	"reimager/initrd"
)

const hardware = `{"format":1,"about":"","kernel":"6.1.0-old","filesystems":["ext4"],"modaliases":["pci:v0d0sv0sd0bc01sc06i01"],
"disks":[{"name":"sda","way":[{"device":"x","modalias":"pci:v0d0sv0sd0bc01sc06i01","driver":"ahci","module":"ahci"},{"device":"y","modalias":"scsi:t-0x00","driver":"sd"}]}]}`

// A file of reimager hardware names the modules, from the folder of the configuration.
func TestInitrdForHardware(t *testing.T) {
	s := newSite(t)
	write(t, s.config, "[machine]\nmodules = \"kiosk.json\"\n[trust]\nsignature = \"if-present\"\n")
	write(t, filepath.Join(s.dir, "kiosk.json"), hardware)
	if status, out, errs := try(s.args()...); status != cli.Done {
		t.Fatalf("imagebuild = %d\n%s%s", status, out, errs)
	}
	in, err := initrd.Read(s.out)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ahci", "ext4"}, in.Index.First); diff != "" {
		t.Errorf("loaded at start (-want +got):\n%s", diff)
	}
	for _, name := range []string{"libata", "sd_mod"} {
		if !in.Index.Provides(name) {
			t.Errorf("the initrd lacks %s", name)
		}
	}
	for _, tt := range []struct{ name, text, want string }{
		{"module that the tree lacks", strings.ReplaceAll(hardware, `"module":"ahci"`, `"module":"megaraid_sas"`), "megaraid_sas"},
		{"damaged", hardware[:40], "read hardware"},
	} {
		write(t, filepath.Join(s.dir, "kiosk.json"), tt.text)
		if status, _, errs := try(s.args()...); status != cli.Failed || !strings.Contains(errs, tt.want) || !strings.Contains(errs, "hint:") {
			t.Errorf("%s: imagebuild = %d, %s; want %q", tt.name, status, errs, tt.want)
		}
	}
	write(t, s.config, "[machine]\nmodules = \"./missing\"\n[trust]\nsignature = \"if-present\"\n")
	if status, _, errs := try(s.args()...); status != cli.Failed || !strings.Contains(errs, "reimager hardware -o FILE") {
		t.Errorf("missing file: imagebuild = %d, %s; want a hint", status, errs)
	}
}
