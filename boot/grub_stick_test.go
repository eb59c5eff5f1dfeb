package boot

import (
	"os/exec"
	"strings"
	"testing"
)

func stickMenu() StickMenu {
	return StickMenu{VolumeID: "1234-ABCD", Title: "Replace the operating system of this machine with the till's 2.0", Kernel: "/reimager/release/kernel",
		Initrd: "/reimager/release/initrd", Cmdline: []string{"quiet", "console=ttyS0,115200", "reimager.media"},
		Gate: "/reimager/gate", RunID: "RUN42", Once: "reimager.once"}
}

func TestStickMenu(t *testing.T) {
	if _, err := exec.LookPath("grub-script-check"); err != nil {
		t.Fatalf("%v (Debian package grub-common)", err)
	}
	attended := stickMenu()
	attended.Gate = ""
	for _, tt := range []struct {
		name  string
		menu  StickMenu
		once  int // how often the parameter is there
		gated bool
	}{{"unattended", stickMenu(), 1, true}, {"attended", attended, 0, false}} {
		text, err := tt.menu.Render()
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		check := exec.Command("grub-script-check")
		check.Stdin = strings.NewReader(text)
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s: grub-script-check: %v: %s\n%s", tt.name, err, out, text)
		}
		if got := strings.Count(text, "reimager.once"); got != tt.once {
			t.Errorf("%s: the parameter is there %d times; want %d", tt.name, got, tt.once)
		}
		if got := strings.Contains(text, "load_env"); got != tt.gated {
			t.Errorf("%s: a gate is read: %v; want %v", tt.name, got, tt.gated)
		}
		if !strings.Contains(text, "set default=local") {
			t.Errorf("%s: the machine's own disk is not the default", tt.name)
		}
	}
}

func TestStickMenuRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*StickMenu){
		"volume id":   func(m *StickMenu) { m.VolumeID = "1234 ABCD" },
		"title":       func(m *StickMenu) { m.Title = "two\nlines" },
		"kernel":      func(m *StickMenu) { m.Kernel = "kernel" },
		"initrd":      func(m *StickMenu) { m.Initrd = "/a/../initrd" },
		"quote":       func(m *StickMenu) { m.Cmdline = append(m.Cmdline, "a'b") },
		"run id":      func(m *StickMenu) { m.RunID = "a b" },
		"gate":        func(m *StickMenu) { m.Gate = "gate" },
		"too long":    func(m *StickMenu) { m.Cmdline = append(m.Cmdline, strings.Repeat("x", kernelCmdlineMax)) },
		"empty param": func(m *StickMenu) { m.Cmdline = append(m.Cmdline, "") },
	} {
		m := stickMenu()
		spoil(&m)
		if text, err := m.Render(); err == nil {
			t.Errorf("%s: Render took it:\n%s", name, text)
		}
	}
}

func TestIsHolding(t *testing.T) {
	code, err := HoldingCode()
	if err != nil {
		t.Fatal(err)
	}
	behind := append(make([]byte, holdingSize), "reimage interrupted\r\n"...)
	for _, tt := range []struct {
		name   string
		sector []byte
		want   bool
	}{{"holding code", code, true}, {"with a table", append(code, make([]byte, 72)...), true}, {"zeros", make([]byte, 512), false}, {"nothing", nil, false}, {"behind the code", behind, false}} {
		if got := IsHolding(tt.sector); got != tt.want {
			t.Errorf("IsHolding(%s) = %v; want %v", tt.name, got, tt.want)
		}
	}
}
