package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"reimager/boot"
)

func TestLifeboatOfInterruptedRun(t *testing.T) {
	for _, tt := range []struct {
		name  string
		state boot.GateState
		berth int64
		run   string
		want  string // in the text; "": there is none
	}{
		{"never boarded", boot.GateTried, 0, "RUN", ""},
		{"of another run", boot.GateTried, 2048, "OTHER", ""},
		{"not started", boot.GateProve, 2048, "RUN", "GRUB has not started it"},
		{"did not come up", boot.GateTried, 2048, "RUN", "it left no report"},
	} {
		block, err := boot.Gate("RUN", tt.state, tt.berth)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(t.TempDir(), gateName)
		if err := os.WriteFile(name, block, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lifeboatOf(name, tt.run); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: lifeboatOf = %q; want %q", tt.name, got, tt.want)
		}
	}
	if got := lifeboatOf(filepath.Join(t.TempDir(), "none"), "RUN"); got != "" {
		t.Errorf("without a gate: lifeboatOf = %q; want none", got)
	}
}
