package check

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"reimager/config"
	"reimager/delivery"
	"reimager/image"
	"reimager/report"
	"reimager/retain"
	"reimager/stages"
)

func TestDowngrade(t *testing.T) {
	m := &image.Manifest{Name: "kiosk", Version: "2.0", Counter: 7}
	from := func(name string, counter int64) *report.Record {
		return &report.Record{Image: report.Image{Name: name, Version: "1.9", Counter: counter}}
	}
	for _, tt := range []struct {
		name    string
		m       *image.Manifest
		last    *report.Record
		err     error
		rule    config.Choice
		verdict Verdict
		found   string
	}{
		{"newer", m, from("kiosk", 6), nil, "refuse", Pass, "counter 7, this system has 6"},
		{"same", m, from("kiosk", 7), nil, "refuse", Pass, "the same"},
		{"older", m, from("kiosk", 8), nil, "refuse", Fail, "counter 7, but this system came from kiosk 1.9 with counter 8"},
		{"older, allowed", m, from("kiosk", 8), nil, "allow", Warn, "counter 8"},
		{"other name", m, from("till", 8), nil, "refuse", Pass, "another kind of release, till 1.9"},
		{"first", m, nil, nil, "refuse", Pass, "no release has brought"},
		{"bare before", m, from("", 0), nil, "refuse", Pass, "no release has brought"},
		{"bare now", nil, from("kiosk", 8), nil, "refuse", Pass, "a bare image"},
		{"unreadable", m, nil, errors.New("read record: unexpected end"), "refuse", Warn, "unexpected end"},
	} {
		expect(t, tt.name, judgeDowngrade(tt.m, tt.last, tt.err, tt.rule), tt.verdict, tt.found)
	}
}

func TestCameFrom(t *testing.T) {
	h := fixture(t, map[string]string{"root/kiosk/log/record.json": `{"image":{"name":"kiosk","counter":4}}`}, map[string]string{"root/" + report.LogPointer: "../../../kiosk/log"})
	if r, err := h.cameFrom(); err != nil || r == nil || r.Image.Counter != 4 {
		t.Errorf("cameFrom = %+v, %v; want counter 4", r, err)
	}
	// The default folder has no pointer; the settings of what delivers name another one.
	to := config.Default().Report
	to.File = "/x"
	text, err := json.Marshal(delivery.Settings{Format: delivery.SettingsFormat, LogDir: "/kiosk/log", To: to})
	if err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string]map[string]string{
		"default":  {"root/var/log/reimager/record.json": `{"image":{"name":"kiosk","counter":5}}`},
		"settings": {"root/" + delivery.SettingsPath: string(text), "root/kiosk/log/record.json": `{"image":{"name":"kiosk","counter":5}}`, "root/var/log/reimager/record.json": `{}`},
	} {
		if r, err := fixture(t, files, nil).cameFrom(); err != nil || r == nil || r.Image.Counter != 5 {
			t.Errorf("%s: cameFrom = %+v, %v; want counter 5", name, r, err)
		}
	}
	if r, err := fixture(t, nil, nil).cameFrom(); r != nil || err != nil {
		t.Errorf("cameFrom of a machine without a record = %+v, %v", r, err)
	}
	if _, err := fixture(t, map[string]string{"root/" + report.LogPointer + "/record.json": "{"}, nil).cameFrom(); err == nil {
		t.Error("cameFrom of half a record succeeded")
	}
}

func TestRehearsal(t *testing.T) {
	release := func(rule config.Choice) *Release {
		r := baked(t, "6.1")
		r.Baked.Config.Arm.Rehearsal = rule
		r.Manifest, r.Digest = &image.Manifest{}, image.Digest{1}
		return r
	}
	passed := &report.Record{Outcome: "rehearsed", Started: time.Unix(0, 0), Rehearsal: &report.Rehearsal{Manifest: image.Digest{1}.String(), FreeBytes: 1 << 30, DowntimeSeconds: 95}}
	other := &report.Record{Outcome: "rehearsed", Image: report.Image{Name: "kiosk", Version: "1.0"}, Rehearsal: &report.Rehearsal{Manifest: image.Digest{2}.String()}}
	bare := release("require")
	bare.Manifest = nil
	for _, tt := range []struct {
		name     string
		r        *Release
		last     *report.Record
		err      error
		rehearse bool
		verdict  Verdict
		found    string
	}{
		{"passed", release("require"), passed, nil, false, Pass, "with 1 GiB of memory left; downtime about 1m35s"},
		{"none", release("require"), nil, nil, false, Fail, "rehearsed nothing"},
		{"failed", release("require"), &report.Record{Outcome: "failed"}, nil, false, Fail, "rehearsed nothing"},
		{"another release", release("require"), other, nil, false, Fail, "another release, kiosk 1.0"},
		{"bare", bare, passed, nil, false, Fail, "bare image"},
		{"unreadable", release("require"), nil, errors.New("block 0"), false, Fail, "block 0"},
		{"this is one", release("require"), nil, nil, true, Pass, "this is one"},
		{"not required", release("optional"), nil, nil, false, Pass, "not required"},
	} {
		expect(t, tt.name, judgeRehearsal(tt.r, tt.last, tt.err, tt.rehearse), tt.verdict, tt.found)
	}
}

// The record of a rehearsal counts wherever it lies, and the report file before the copy.
func TestRehearsed(t *testing.T) {
	blocks := func(outcome string) string {
		all, err := report.FileBlocks("RUN", report.FileBytes, &report.Record{Outcome: outcome, RunID: "file"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, b := range all {
			text += string(b)
		}
		return text
	}
	const kept = `{"outcome":"rehearsed","run_id":"kept"}`
	for _, tt := range []struct{ name, file, kept, want string }{
		{"report file", blocks("rehearsed"), kept, "file"},
		{"copy", string(report.EmptyFile("RUN", report.FileBytes)), kept, "kept"},
		{"failed since", blocks("failed"), kept, "kept"},
		{"neither", "", "", ""},
	} {
		files := map[string]string{}
		if tt.file != "" {
			files["root"+ReportPath] = tt.file
		}
		if tt.kept != "" {
			files["root"+RehearsalPath] = tt.kept
		}
		got, err := fixture(t, files, nil).rehearsed(nil)
		id := ""
		if got != nil {
			id = got.RunID
		}
		if err != nil || id != tt.want {
			t.Errorf("%s: rehearsed = %q, %v; want %q", tt.name, id, err, tt.want)
		}
	}
	// A rehearsal that failed is newer than one that passed; a report that was set aside counts.
	h := fixture(t, map[string]string{"root" + ReportPath: blocks("failed"), "root" + RehearsalPath: kept}, nil)
	if got, err := h.rehearsed(&config.Job{RunID: "RUN", Rehearse: true}); err != nil || got == nil || got.Outcome != "failed" {
		t.Errorf("failed rehearsal: rehearsed = %+v, %v", got, err)
	}
	if got, err := h.rehearsed(&config.Job{RunID: "RUN"}); err != nil || got == nil || got.RunID != "kept" {
		t.Errorf("failed run: rehearsed = %+v, %v", got, err)
	}
	h = fixture(t, map[string]string{"root" + ReportPath: string(report.EmptyFile("NEXT", report.FileBytes)), "root" + LastReport(ReportPath): blocks("rehearsed"), "root" + RehearsalPath: kept}, nil)
	if got, err := h.rehearsed(&config.Job{RunID: "NEXT", Rehearse: true}); err != nil || got == nil || got.RunID != "file" {
		t.Errorf("set aside: rehearsed = %+v, %v", got, err)
	}
	if _, err := fixture(t, map[string]string{"root" + ReportPath: strings.Repeat("x", report.FileBytes)}, nil).rehearsed(nil); err == nil {
		t.Error("rehearsed of a damaged report succeeded")
	}
}

func TestReportPlace(t *testing.T) {
	expect(t, "room", judgeReport(reportPlace{free: 2 * report.FileBytes, on: &Location{Type: "ext4"}}), Pass, "512 KiB free")
	expect(t, "none", judgeReport(reportPlace{free: 2*report.FileBytes - 1}), Fail, "expected 512 KiB")
	expect(t, "btrfs", judgeReport(reportPlace{free: 1 << 30, on: &Location{Type: "btrfs"}}), Warn, "btrfs")
	r := judgeReport(reportPlace{err: errors.New("look at free space")})
	if r.Verdict != Fail {
		t.Errorf("report on an unknown place: %+v", r)
	}
}

func TestMemory(t *testing.T) {
	const mib = 1 << 20
	n := memoryNeed{Memory: stages.Memory{Image: 100 * mib, Retained: 10 * mib, State: 2 * mib}, Initrd: 16 * mib}
	need := n.Total() + n.Initrd + config.KernelBytes
	for _, tt := range []struct {
		name    string
		total   int64
		n       memoryNeed
		verdict Verdict
		found   string
	}{
		{"plenty", 2 * need, n, Pass, "needed are 304 MiB: image 100 MiB, retained 10 MiB, initrd 16 MiB"},
		{"just enough", need, n, Warn, "hardly more than needed"},
		{"a byte too few", need - 1, n, Fail, "needed are 304 MiB"},
		{"the manifest wants more", 2 * need, memoryNeed{Memory: n.Memory, Initrd: n.Initrd, Least: 2 * need}, Fail, "needed are"},
		{"only by streaming", need - 1, memoryNeed{Memory: n.Memory, Initrd: n.Initrd, Berth: true}, Pass, "the image of 100 MiB does not fit into memory: it is streamed from the berth, needed are 204 MiB: image 0 B"},
		{"hardly enough even so", 209 * mib, memoryNeed{Memory: n.Memory, Initrd: n.Initrd, Berth: true}, Warn, "streamed from the berth, hardly more than needed: 204 MiB"},
		{"not even so", 203 * mib, memoryNeed{Memory: n.Memory, Initrd: n.Initrd, Berth: true}, Fail, "streamed from the berth, needed are 204 MiB"},
		{"the manifest counts the image", 250 * mib, memoryNeed{Memory: n.Memory, Initrd: n.Initrd, Least: 330 * mib, Berth: true}, Warn, "hardly more than needed: 240 MiB"},
		{"a berth, and memory for all", 900 * mib, memoryNeed{Memory: n.Memory, Initrd: n.Initrd, Berth: true}, Pass, "900 MiB there, needed are 304 MiB: image 100 MiB"},
		{"large initrd", 1000 * mib, memoryNeed{Initrd: 501 * mib}, Fail, "half of it"},
	} {
		expect(t, tt.name, judgeMemory(tt.total, tt.n), tt.verdict, tt.found)
	}
	h := fixture(t, map[string]string{"proc/meminfo": "MemTotal:         2048 kB\nMemAvailable:     1 kB\n"}, nil)
	if got, err := h.memory("MemTotal"); err != nil || got != 2*mib {
		t.Errorf("memory = %d, %v; want %d", got, err, 2*mib)
	}
	if _, err := h.memory("SwapTotal"); err == nil {
		t.Error("memory of a line that is not there succeeded")
	}
}

func TestConflicts(t *testing.T) {
	there := map[string]string{"/etc": "directory", "/etc/ssh": "directory", "/etc/ssh/sshd_config": "file", "/etc/empty": "directory",
		"/etc/file": "file", "/etc/link": "symlink"}
	for _, tt := range []struct {
		name    string
		kept    []kept
		there   map[string]string
		verdict Verdict
		found   string
	}{
		{"file over file", []kept{{"/etc/file", "file"}, {"/etc/new", "file"}, {"/srv/x", "file"}}, there, Pass, ""},
		{"file over link", []kept{{"/etc/link", "file"}}, there, Pass, ""},
		{"below a link", []kept{{"/etc/link/a", "file"}}, there, Pass, ""},
		{"directory over directory", []kept{{"/etc/ssh", "directory"}, {"/etc/ssh/key", "file"}}, there, Pass, ""},
		{"file over a full directory", []kept{{"/etc/ssh", "file"}}, there, Fail, "/etc/ssh is a file here and a directory with content there"},
		{"file over an empty directory", []kept{{"/etc/empty", "file"}}, there, Warn, "/etc/empty, there a directory, becomes a file"},
		{"directory over file", []kept{{"/etc/file", "directory"}, {"/etc/file/a", "file"}}, there, Warn, "becomes a directory"},
		{"below a file", []kept{{"/etc/file/a/b", "file"}}, there, Fail, "/etc/file/a/b cannot lie below /etc/file"},
		{"nothing known", []kept{{"/etc/file", "file"}}, nil, Warn, "does not say"},
	} {
		expect(t, tt.name, judgeConflicts(tt.kept, tt.there), tt.verdict, tt.found)
	}
}

func TestOwners(t *testing.T) {
	release := func(change func(*Release)) *Release {
		r := baked(t, "6.1")
		r.Manifest = &image.Manifest{System: &image.SystemFacts{Users: map[string]uint32{"root": 0, "kiosk": 1500}, Groups: map[string]uint32{"root": 0}}}
		if change != nil {
			change(r)
		}
		return r
	}
	users, groups := []string{"kiosk", "root"}, []string{"root"}
	expect(t, "known", judgeOwners(release(nil), users, groups), Pass, "knows all of 2 users and 1 group")
	expect(t, "unknown", judgeOwners(release(nil), append(users, "atm"), []string{"atm"}), Warn, "does not know user atm, group atm")
	expect(t, "by id", judgeOwners(release(func(r *Release) { r.Baked.Config.Retain.Owners = "id" }), []string{"atm"}, nil), Pass, "numbers")
	expect(t, "merged", judgeOwners(release(func(r *Release) { r.Baked.List.Accounts = true }), []string{"atm"}, nil), Pass, "merged")
	expect(t, "bare", judgeOwners(release(func(r *Release) { r.Manifest = nil }), []string{"atm"}, nil), Warn, "does not say")
}

func TestRetained(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "etc"), 0o755), os.WriteFile(filepath.Join(dir, "etc/machine-id"), []byte("0123\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		list    string
		missing config.Choice
		verdict Verdict
		found   string
	}{
		{"", "refuse", Pass, "keeps nothing"},
		{"/etc/machine-id\n", "refuse", Pass, "1 file or directory, 5 B"},
		{"/etc/machine-id\n/etc/ssh\n", "refuse", Fail, "/etc/ssh"},
		{"/etc/machine-id\n/etc/ssh\n", "report", Warn, "/etc/ssh"},
	} {
		r := baked(t, "6.1")
		r.Baked.Config.Retain.Missing = tt.missing
		var err error
		if r.Baked.List, err = retain.ParseList("list", strings.NewReader(tt.list)); err != nil {
			t.Fatal(err)
		}
		_, got := scan(t.Context(), dir, r)
		expect(t, tt.list, got, tt.verdict, tt.found)
	}
}

func TestSpace(t *testing.T) {
	free := int64(1000)
	m := &image.Manifest{System: &image.SystemFacts{Filesystems: []image.FilesystemFacts{{Type: "ext4", FreeBytes: &free}}}}
	expect(t, "fits", judgeSpace(&retain.Plan{ArchiveBytes: 1000}, m), Pass, "have room")
	expect(t, "too much", judgeSpace(&retain.Plan{ArchiveBytes: 1001}, m), Fail, "0.977 KiB free")
	expect(t, "bare", judgeSpace(&retain.Plan{ArchiveBytes: 1}, nil), Warn, "does not say")
	expect(t, "nothing kept", judgeSpace(nil, nil), Pass, "none")
}

func TestSignedAndCompatible(t *testing.T) {
	expect(t, "unsigned", judgeSigned(nil, false), Warn, "not signed")
	expect(t, "signed", judgeSigned(&image.Key{}, false), Pass, "its own initrd trusts")
	expect(t, "signed by a given key", judgeSigned(&image.Key{}, true), Pass, "a key that was given")
	m := &image.Manifest{Name: "kiosk", Version: "2", Compatible: []string{"till"}}
	expect(t, "not checked", judgeCompatible(m, nil), Pass, "not checked")
	expect(t, "compatible", judgeCompatible(m, []string{"till"}), Pass, "till")
	expect(t, "not compatible", judgeCompatible(m, []string{"kiosk"}), Fail, `is for ["till"], this machine is ["kiosk"]`)
	expect(t, "bare", judgeCompatible(nil, []string{"kiosk"}), Fail, "bare image")
}
