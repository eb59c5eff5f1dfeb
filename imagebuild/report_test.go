package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"reimager/cli"
	"reimager/config"
	"reimager/initramfs"
)

// The initrd brings reimager where [report] names a place, and only there.
func TestInitrdBringsWhatDelivers(t *testing.T) {
	s := newSite(t)
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "reimager")
	write(t, program, string(staticELF()))
	for section, want := range map[string]bool{"": false, "\n[report]\ntimeout = \"5s\"\n": false, "\n[report]\nfile = \"/var/report.json\"\n": true} {
		write(t, s.config, string(text)+section)
		if status, _, errs := try(s.args("--reimager", program)...); status != cli.Done {
			t.Fatalf("%q: %s", section, errs)
		}
		a, err := initramfs.ReadFile(s.out)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(a.Names(), config.ProgramPath); got != want {
			t.Errorf("%q: %s is in it: %v; want %v", section, config.ProgramPath, got, want)
		}
	}
	write(t, s.config, string(text)+"\n[report]\nfile = \"/var/report.json\"\n")
	for name, want := range map[string]string{"/none": "--reimager", dynamicProgram(t): "dynamically linked"} {
		if status, _, errs := try(s.args("--reimager", name)...); status != cli.Failed || !strings.Contains(errs, want) || !strings.Contains(errs, "hint:") {
			t.Errorf("--reimager %s: status %d, %s; want %q and a hint", name, status, errs, want)
		}
	}
}
