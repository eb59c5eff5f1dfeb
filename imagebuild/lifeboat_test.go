package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"reimager/cli"
	"reimager/initrd"
)

// configure has the site's configuration say what is to be of a lifeboat.
func (s site) configure(t *testing.T, lifeboat string) {
	t.Helper()
	write(t, s.config, "[machine]\nmodules = [\"ahci\", \"ext4\"]\n[trust]\nsignature = \"if-present\"\n[power_cut]\nlifeboat = \""+lifeboat+"\"\n")
}

func needGRUB(t *testing.T) {
	t.Helper()
	_, err := exec.LookPath("grub-mkimage")
	if _, statErr := os.Stat(filepath.Join(defaultGRUB, "boot.img")); err == nil && statErr == nil {
		return
	}
	const sentence = "this test needs GRUB for BIOS (packages grub-common and grub-pc-bin)"
	if os.Getenv("CI") == "true" {
		t.Fatal(sentence)
	}
	t.Skip(sentence)
}

func TestInitrdHasLifeboat(t *testing.T) {
	needGRUB(t)
	for _, tt := range []struct {
		rule string
		has  bool
	}{{"prefer", true}, {"require", true}, {"off", false}} {
		s := newSite(t)
		s.configure(t, tt.rule)
		status, out, errs := try(s.args()...)
		if status != cli.Done || strings.Contains(out, "lifeboat: GRUB") != tt.has || strings.Contains(out, "warning") {
			t.Fatalf("%s: imagebuild = %d\n%s%s", tt.rule, status, out, errs)
		}
		in, err := initrd.Read(s.out)
		if err != nil || (in.Lifeboat != nil) != tt.has {
			t.Errorf("%s: %v, lifeboat %v; want %v", tt.rule, err, in.Lifeboat, tt.has)
		}
		var shown inside
		status, out, _ = try("inspect", "--json", s.out)
		if status != cli.Done || json.Unmarshal([]byte(out), &shown) != nil || shown.Lifeboat != tt.has {
			t.Errorf("%s: inspect --json = %d, lifeboat %v; want %v", tt.rule, status, shown.Lifeboat, tt.has)
		}
		want := map[bool]string{true: "lifeboat  GRUB for BIOS\n", false: "lifeboat  none\n"}[tt.has]
		if _, out, _ = try("inspect", s.out); !strings.Contains(out, want) {
			t.Errorf("%s: inspect lacks %q:\n%s", tt.rule, want, out)
		}
	}
}

// TestInitrdWithoutGRUB is a build host that has none, or not where it is said to be.
func TestInitrdWithoutGRUB(t *testing.T) {
	const hint = "grub-pc-bin"
	empty := t.TempDir()
	for _, tt := range []struct {
		name, rule string
		noTools    bool
		args       []string
		want       int
		says       []string
	}{
		{"preferred", "prefer", true, nil, cli.Done, []string{"warning: this initrd has no lifeboat", hint}},
		{"off", "off", true, []string{"--grub", empty}, cli.Done, nil},
		{"required", "require", true, nil, cli.Failed, []string{"make lifeboat", hint}},
		{"not in the named folder", "prefer", false, []string{"--grub", empty}, cli.Failed, []string{"make lifeboat", empty, hint}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			s.configure(t, tt.rule)
			if tt.noTools {
				t.Setenv("PATH", empty)
			}
			status, out, errs := try(s.args(tt.args...)...)
			if status != tt.want {
				t.Errorf("imagebuild = %d; want %d\n%s%s", status, tt.want, out, errs)
			}
			for _, want := range tt.says {
				if !strings.Contains(out+errs, want) {
					t.Errorf("it does not say %q:\n%s%s", want, out, errs)
				}
			}
			if strings.Contains(out, "warning") != (tt.name == "preferred") {
				t.Errorf("it says %s", out)
			}
		})
	}
}
