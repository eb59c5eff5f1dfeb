package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"reimager/cli"
	"reimager/retain"
)

// roots makes an old and a new root whose users have other numbers.
func roots(t *testing.T) (old, fresh string) {
	t.Helper()
	old, fresh = t.TempDir(), t.TempDir()
	write := func(name, text string) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	write(old+"/etc/passwd", "root:x:0:0::/:/bin/sh\natm:x:990:990::/:/bin/false\n")
	write(old+"/etc/group", "root:x:0:\natm:x:990:\n")
	write(old+"/etc/machine-id", "0123456789abcdef\n")
	write(old+"/srv/keys/client.key", "the till's own")
	write(old+"/srv/nobody's", "whose?")
	for name, id := range map[string]int{"/srv/keys": 990, "/srv/keys/client.key": 990, "/srv/nobody's": 4711} {
		if err := os.Chown(old+name, id, id); err != nil {
			t.Fatalf("%v (chown needs root)", err)
		}
	}
	write(fresh+"/etc/passwd", "root:x:0:0::/:/bin/sh\natm:x:880:880::/:/bin/false\n")
	write(fresh+"/etc/group", "root:x:0:\natm:x:880:\n")
	write(fresh+"/etc/machine-id", "uninitialized\n")
	return old, fresh
}

func listFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "keep.txt")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestRetained(t *testing.T) {
	old, _ := roots(t)
	status, out, errs := call("retained", "--root", old, "--list", listFile(t, "@identity\n/srv\n-/etc/perhaps\n"))
	if status != cli.Done {
		t.Fatalf("status %d, %s", status, errs)
	}
	for _, want := range []string{"/etc/machine-id", "0640  atm:atm", "/srv/keys/client.key", "not there: /etc/perhaps", "has no name for user 4711", "5 files and directories"} {
		if !strings.Contains(out, want) {
			t.Errorf("retained lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "netplan") {
		t.Errorf("retained names what a set may lack:\n%s", out)
	}
	status, out, errs = call("retained", "--json", "--root", old, "--list", listFile(t, "/srv/keys\n/etc/missing\n"))
	var plan retain.Plan
	if err := json.Unmarshal([]byte(out), &plan); err != nil || len(plan.Entries) != 2 {
		t.Errorf("retained --json: %v, %d entries\n%s", err, len(plan.Entries), out)
	}
	if status != cli.Failed || !strings.Contains(errs, "/etc/missing") {
		t.Errorf("a missing path: status %d, %s; want it named and status 1", status, errs)
	}
}

// What the three commands do by hand is what a run does: capture, restore, compare.
func TestCaptureAndRestore(t *testing.T) {
	old, fresh := roots(t)
	archive := filepath.Join(t.TempDir(), "kept.tar")
	list := listFile(t, "/etc/machine-id\n/srv/keys\n")
	if status, _, errs := call("capture", "--root", old, "--list", list, "-o", archive); status != cli.Done {
		t.Fatalf("capture: status %d, %s", status, errs)
	}
	info, err := os.Stat(archive)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("archive: %v, %v; want mode 0600", info.Mode(), err)
	}
	if out, err := exec.Command("tar", "-tvf", archive).CombinedOutput(); err != nil || !strings.Contains(string(out), "atm/atm") {
		t.Errorf("tar -t: %v\n%s", err, out)
	}
	if status, _, errs := call("capture", "--root", old, "--list", list, "-o", archive); status != cli.Failed || !strings.Contains(errs, "exists") {
		t.Errorf("capture over an archive: status %d, %s", status, errs)
	}
	if status, _, _ := call("restore", "--root", fresh, "--compare", archive); status != cli.Failed {
		t.Errorf("restore --compare before: status %d; want 1", status)
	}
	status, out, errs := call("restore", "--root", fresh, archive)
	if status != cli.Done || !strings.Contains(out, "replaced: /etc/machine-id") || !strings.Contains(out, "were compared") {
		t.Fatalf("restore: status %d, %s%s", status, out, errs)
	}
	if owner, err := exec.Command("stat", "-c", "%u:%g %a", fresh+"/srv/keys/client.key").Output(); err != nil || string(owner) != "880:880 640\n" {
		t.Errorf("client.key: %s, %v; want 880:880 640", owner, err)
	}
	if status, out, errs := call("restore", "--root", fresh, "--compare", archive); status != cli.Done {
		t.Errorf("restore --compare: status %d, %s%s", status, out, errs)
	}
	if err := os.WriteFile(fresh+"/srv/keys/client.key", []byte("another"), 0o640); err != nil {
		t.Fatal(err)
	}
	if status, out, _ := call("restore", "--root", fresh, "--compare", archive); status != cli.Failed || !strings.Contains(out, "differs: /srv/keys/client.key: content") || strings.Contains(out, "the till's own") {
		t.Errorf("restore --compare after a change: status %d, %s", status, out)
	}
	for _, args := range [][]string{{"restore", archive}, {"capture"}, {"restore", "--root", fresh, "--owners", "x", archive}} {
		if status, _, errs := call(args...); status != cli.Usage {
			t.Errorf("reimager %q: status %d, %s; want %d", args, status, errs, cli.Usage)
		}
	}
}
