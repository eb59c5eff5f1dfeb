package delivery

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"reimager/config"
	"reimager/report"
)

func openRoot(t *testing.T, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func write(t *testing.T, dir, name, content string, mode os.FileMode) {
	t.Helper()
	name = filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func toFile() config.Delivery {
	d := config.Default().Report
	d.File = "/var/report.json"
	return d
}

func TestInstall(t *testing.T) {
	program := filepath.Join(t.TempDir(), "reimager")
	write(t, filepath.Dir(program), "reimager", "the program", 0o755)
	for name, c := range map[string]struct {
		system  map[string]os.FileMode
		program string
		want    []string
		starts  string
		err     string
	}{
		"systemd, no program": {map[string]os.FileMode{"usr/lib/systemd/systemd": 0o755}, program, []string{carriedPath, SettingsPath, unitPath}, "/usr/local/sbin/reimager", ""},
		"systemd, its own":    {map[string]os.FileMode{"lib/systemd/systemd": 0o755, "usr/bin/reimager": 0o755}, program, []string{SettingsPath, unitPath}, "/usr/bin/reimager", ""},
		"not executable":      {map[string]os.FileMode{"lib/systemd/systemd": 0o755, "usr/bin/reimager": 0o644}, program, []string{carriedPath, SettingsPath, unitPath}, "/usr/local/sbin/reimager", ""},
		"an earlier one":      {map[string]os.FileMode{"lib/systemd/systemd": 0o755, carriedPath: 0o755}, program, []string{carriedPath, SettingsPath, unitPath}, "/usr/local/sbin/reimager", ""},
		"nothing to replace":  {map[string]os.FileMode{"lib/systemd/systemd": 0o755, carriedPath: 0o755}, "", []string{SettingsPath, unitPath}, "/usr/local/sbin/reimager", ""},
		"no systemd":          {nil, program, []string{carriedPath, SettingsPath}, "", ""},
		"nobody to deliver":   {nil, "", []string{SettingsPath}, "", "this system has none"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for f, mode := range c.system {
				write(t, dir, f, "", mode)
			}
			root := openRoot(t, dir)
			for range 2 { // twice is once
				left, err := Install(root, Settings{LogDir: "/log", To: toFile()}, c.program)
				if (c.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.err) {
					t.Fatalf("Install: %v; want %q", err, c.err)
				}
				if diff := cmp.Diff(c.want, left); diff != "" {
					t.Errorf("left (-want +got):\n%s", diff)
				}
				if c.want[0] == carriedPath {
					if got, err := root.ReadFile(carriedPath); err != nil || string(got) != "the program" {
						t.Errorf("%s: %q, %v; want the program", carriedPath, got, err)
					}
					c.want = c.want[1:] // it is there now
				}
			}
			got, err := ReadSettings(root)
			want := &Settings{Format: 1, LogDir: "/log", To: toFile()}
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("settings: %v (-want +got):\n%s", err, diff)
			}
			if info, err := root.Stat(SettingsPath); err != nil || info.Mode() != 0o600 {
				t.Errorf("settings: %v, %v; want mode 0600", info.Mode(), err)
			}
			unit, err := root.ReadFile(unitPath)
			if c.starts == "" {
				if err == nil {
					t.Error("a unit without systemd")
				}
				return
			}
			if !strings.Contains(string(unit), "\nExecStart="+c.starts+" report --wait\n") {
				t.Errorf("unit:\n%s", unit)
			}
			if to, err := os.Readlink(filepath.Join(dir, wantsPath)); err != nil || to != "/"+unitPath {
				t.Errorf("wants %q, %v", to, err)
			}
			if err := Remove(root); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{wantsPath, unitPath, SettingsPath} {
				if _, err := root.Lstat(name); !os.IsNotExist(err) {
					t.Errorf("%s is still there: %v", name, err)
				}
			}
		})
	}
}

// The new system may have links that lead out of it; nothing outside is written to.
func TestInstallStaysInside(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "etc/reimager")); err != nil {
		t.Fatal(err)
	}
	left, err := Install(openRoot(t, dir), Settings{LogDir: "/log", To: toFile()}, "")
	if err == nil {
		t.Errorf("Install through a link out of the system: left %q, no error", left)
	}
	if names, _ := os.ReadDir(outside); len(names) > 0 {
		t.Errorf("outside of the system: %v", names)
	}
}

func TestUnitWaitsForTheNetworkOnlyIfNeeded(t *testing.T) {
	for want, to := range map[bool]config.Delivery{false: {File: "/f"}, true: {URL: "https://h/"}} {
		if got := strings.Contains(Unit("/p", to), "network-online.target"); got != want {
			t.Errorf("%+v: network %v; want %v", to, got, want)
		}
	}
	if text := Unit("/p", toFile()); strings.Contains(text, "@") {
		t.Errorf("unit has something left to fill in:\n%s", text)
	}
}

func TestNotes(t *testing.T) {
	dir := t.TempDir()
	root := openRoot(t, dir)
	place := Place{"file", "/f"}
	n, err := ReadNotes(root, "one")
	if err != nil || n.Done(place) {
		t.Fatalf("no notes: %+v, %v", n, err)
	}
	n.Places[place.String()] = Try{Attempts: 2, Last: time.Unix(5, 0).UTC(), Delivered: time.Unix(5, 0).UTC()}
	if err := n.Write(root); err != nil {
		t.Fatal(err)
	}
	for run, want := range map[string]bool{"one": true, "two": false} {
		if n, err := ReadNotes(root, run); err != nil || n.Done(place) != want {
			t.Errorf("run %s: done %v, %v; want %v", run, n.Done(place), err, want)
		}
	}
	// Other runs are noted between; the first is known all the same, as far as there is room.
	for i := range maxEarlier + 1 {
		later, err := ReadNotes(root, fmt.Sprint("later ", i))
		if err != nil || later.Done(place) {
			t.Fatalf("run %s: %+v, %v; want fresh notes", later.RunID, later, err)
		}
		if n, err := ReadNotes(root, "one"); err != nil || !n.Done(place) {
			t.Fatalf("after %d other runs: done %v, %v; want true", i, n.Done(place), err)
		}
		later.Places[place.String()] = Try{Attempts: 1}
		if err := later.Write(root); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := ReadNotes(root, "one"); err != nil || n.Done(place) || len(n.Earlier) != maxEarlier {
		t.Errorf("after %d other runs: done %v, %d earlier, %v; want false, %d", maxEarlier+1, n.Done(place), len(n.Earlier), err, maxEarlier)
	}
	// What a power cut can leave.
	for _, text := range []string{"", "{", "\x00\x00", `{"format":1,"run_id":"one"}`, `{"format":2,"run_id":"one","places":{"file /f":{"delivered_at":"2026-01-01T00:00:00Z"}}}`} {
		write(t, dir, NotesPath, text, 0o600)
		if n, err := ReadNotes(root, "one"); err != nil || n.Done(place) || n.Places == nil {
			t.Errorf("notes %q: %+v, %v; want fresh ones", text, n, err)
		}
	}
}

func TestMessageIsBounded(t *testing.T) {
	many := make([]string, 10000)
	for i := range many {
		many[i] = strings.Repeat("long ", 2000)
	}
	record := &report.Record{Warnings: many, Hints: many, NotThere: many, Error: many[0], Retained: Kept{Files: 1, Conflicts: many}}
	text, err := Message{RunID: "one", State: "done", Record: record}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > MaxMessageBytes {
		t.Errorf("%d bytes; want at most %d", len(text), MaxMessageBytes)
	}
	for _, want := range []string{"and 9900 more", `"conflicts_omitted": 9900`, "bytes more)"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("message lacks %q", want)
		}
	}
	if len(record.Warnings) != 10000 {
		t.Error("the record itself was cut")
	}
	// What JSON writes as six bytes each is counted instead.
	for i := range many {
		many[i] = strings.Repeat("\x01", 10000)
	}
	hooks := []report.HookRun{{Run: []string{"/bin/a"}, Error: many[0]}}
	record = &report.Record{Outcome: "restored", Warnings: many, Hints: many, NotThere: many, Error: many[0], Hooks: hooks, Retained: Kept{Files: 7, Conflicts: many}}
	text, err = Message{RunID: "one", State: "done", Record: record}.Encode()
	if err != nil || len(text) > MaxMessageBytes {
		t.Fatalf("%d bytes, %v; want at most %d", len(text), err, MaxMessageBytes)
	}
	for want, n := range map[string]int{"and 10000 more": 4, `"outcome": "restored"`: 1, `"files": 7`: 1, `"conflicts_omitted": 10000`: 1} {
		if got := strings.Count(string(text), want); got != n {
			t.Errorf("message has %q %d times; want %d", want, got, n)
		}
	}
	if len(hooks[0].Error) != 10000 {
		t.Error("the record itself was cut")
	}
	// A list of retained files is not delivered, whatever it is.
	text, err = Message{Record: &report.Record{Retained: map[string]any{"entries": "/etc/secret"}}}.Encode()
	if err != nil || strings.Contains(string(text), "secret") {
		t.Errorf("%s, %v", text, err)
	}
}

func FuzzParseSettings(f *testing.F) {
	f.Add([]byte(`{"format":1,"log_dir":"/log","to":{"command":["/bin/a","b"],"file":"/f","url":"https://h/p","token_file":"/t","ca_file":"/c","timeout":"30s","retry":"15m0s"}}`))
	f.Add([]byte(`{"format":1,"log_dir":"log","to":{"url":"http://h"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ParseSettings(text)
		if err != nil {
			return
		}
		if all := s.To.Check(); len(all) > 0 || !filepath.IsAbs(s.LogDir) {
			t.Errorf("settings were taken that are wrong: %+v: %v", s, all)
		}
		Places(s.To)
	})
}
