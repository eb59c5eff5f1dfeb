package kmod

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParamsFromCmdline(t *testing.T) {
	for _, test := range []struct {
		cmdline string
		want    map[string]string
	}{
		{"", map[string]string{}},
		{"BOOT_IMAGE=/vmlinuz.img root=/dev/sda1 quiet ro\n", map[string]string{}},
		{"ahci.mobile_lpm_policy=1", map[string]string{"ahci": "mobile_lpm_policy=1"}},
		{"usb-storage.delay_use=0 usb_storage.quirks=1:2:u", map[string]string{"usb_storage": "delay_use=0 quirks=1:2:u"}},
		{"nvme.flag", map[string]string{"nvme": "flag"}},
		{`a.x="b c" d.e=1`, map[string]string{"a": `x="b c"`, "d": "e=1"}},
		{`"a.x=b c" d.e=1`, map[string]string{"a": `x="b c"`, "d": "e=1"}},
		{`a.x="b c`, map[string]string{"a": `x="b c"`}},
		{`a".x=1 b."y=2" =1 .x=1 a.=1`, map[string]string{}},
		{"reimager.stage=1 reimager.x.y=2", map[string]string{}},
		{"modprobe.blacklist=ahci", map[string]string{}},
		{"a.b.c=1", map[string]string{}},
		{"a.b=1.5=2\ta.c=3", map[string]string{"a": "b=1.5=2 c=3"}},
		{"../x.y=1 x/y.z=2", map[string]string{}},
	} {
		if diff := cmp.Diff(test.want, ParamsFromCmdline(test.cmdline)); diff != "" {
			t.Errorf("ParamsFromCmdline(%q) (-want +got):\n%s", test.cmdline, diff)
		}
	}
}

func TestBlacklistFromCmdline(t *testing.T) {
	got := BlacklistFromCmdline(`quiet modprobe.blacklist=usb-storage,,nouveau module_blacklist="ahci" modprobe.blacklist=ahci x.blacklist=y`)
	if diff := cmp.Diff([]string{"usb_storage", "nouveau", "ahci"}, got); diff != "" {
		t.Errorf("BlacklistFromCmdline (-want +got):\n%s", diff)
	}
}

func FuzzParamsFromCmdline(f *testing.F) {
	f.Add(`quiet "a.x=b c" d.e="f g" h-i.j=k modprobe.blacklist=l,m`)
	f.Add(`a.x="`)
	f.Fuzz(func(t *testing.T, cmdline string) {
		for name, params := range ParamsFromCmdline(cmdline) {
			if !validName(name) || name != normalize(name) || name == "reimager" {
				t.Errorf("name %q", name)
			}
			if params == "" || strings.Count(params, `"`)%2 != 0 {
				t.Errorf("params %q", params)
			}
		}
		BlacklistFromCmdline(cmdline)
	})
}
