package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"reimager/cli"
	"reimager/config"
	"reimager/delivery"
	"reimager/report"
	"reimager/retain"
)

// machineWith is a machine whose last run has left these files.
func machineWith(t *testing.T, files map[string][]byte) machine {
	t.Helper()
	m := machine{root: t.TempDir()}
	m.reportFile, m.logDirs = filepath.Join(m.root, "var/lib/reimager/report"), []string{filepath.Join(m.root, "log")}
	for name, content := range files {
		name = filepath.Join(m.root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

const (
	reportName = "var/lib/reimager/report"
	recordName = "log/record.json"
)

func filled(t *testing.T, runID, outcome string) []byte {
	t.Helper()
	blocks, err := report.FileBlocks(runID, report.FileBytes, &report.Record{RunID: runID, Outcome: outcome, Error: "no disk", Did: "boot the old system"}, []byte("the log\n"))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Join(blocks, nil)
}

func begun(runID string) []byte {
	return bytes.ReplaceAll(report.EmptyFile(runID, report.FileBytes), []byte(" empty "), []byte(" begun "))
}

func doneRecord(t *testing.T, runID string) []byte {
	t.Helper()
	text, err := (&report.Record{RunID: runID, Outcome: "restored", ReadBack: true, Image: report.Image{Name: "kiosk", Version: "2"},
		Retained: retain.Report{ContentBytes: 5, Entries: []retain.Restored{{Record: retain.Record{Path: "/etc/secret"}}},
			Conflicts: []retain.Conflict{{Path: "/etc/a", Why: "a folder"}}}}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestLastRun(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string][]byte
		state string
		runID string
		exit  int
		err   string
	}{
		"nothing":            {nil, stateIdle, "", cli.Done, ""},
		"armed once":         {map[string][]byte{reportName: report.EmptyFile("one", report.FileBytes)}, stateIdle, "", cli.Done, ""},
		"failed":             {map[string][]byte{reportName: filled(t, "one", "failed")}, stateFailed, "one", exitFailed, ""},
		"rehearsed":          {map[string][]byte{reportName: filled(t, "one", "rehearsed")}, stateRehearsed, "one", exitRehearsed, ""},
		"begun":              {map[string][]byte{reportName: begun("one")}, stateInterrupted, "one", exitInterrupted, ""},
		"done":               {map[string][]byte{recordName: doneRecord(t, "one")}, stateDone, "one", cli.Done, ""},
		"done, then failed":  {map[string][]byte{recordName: doneRecord(t, "one"), reportName: filled(t, "two", "failed")}, stateFailed, "two", exitFailed, ""},
		"done, then armed":   {map[string][]byte{recordName: doneRecord(t, "one"), reportName: report.EmptyFile("two", report.FileBytes)}, stateDone, "one", cli.Done, ""},
		"done, report kept":  {map[string][]byte{recordName: doneRecord(t, "one"), reportName: begun("one")}, stateDone, "one", cli.Done, ""},
		"done, then begun":   {map[string][]byte{recordName: doneRecord(t, "one"), reportName: begun("two")}, stateInterrupted, "two", exitInterrupted, ""},
		"report is no more":  {map[string][]byte{reportName: []byte("something else")}, "", "", cli.Failed, "does not begin as one"},
		"report cut short":   {map[string][]byte{reportName: filled(t, "one", "failed")[:report.FileBlockBytes/2]}, "", "", cli.Failed, "read report"},
		"report empty":       {map[string][]byte{reportName: nil}, "", "", cli.Failed, "does not begin as one"},
		"record cut short":   {map[string][]byte{recordName: doneRecord(t, "one")[:20]}, "", "", cli.Failed, "read record"},
		"record is a folder": {map[string][]byte{recordName + "/x": nil}, "", "", cli.Failed, "read record"},
	} {
		t.Run(name, func(t *testing.T) {
			last, err := machineWith(t, c.files).lastRun()
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("%v; want %q", err, c.err)
			}
			if err != nil {
				return
			}
			if last.state != c.state || last.runID != c.runID {
				t.Errorf("%s of run %q; want %s of %q", last.state, last.runID, c.state, c.runID)
			}
			s := &status{State: last.state, RunID: last.runID, Record: last.record}
			if got := exitOf(s.verdict()); got != c.exit {
				t.Errorf("exit status %d; want %d", got, c.exit)
			}
			var out bytes.Buffer
			s.print(&out)
			if !strings.Contains(out.String(), c.state) {
				t.Errorf("status prints %q", out.String())
			}
		})
	}
}

// The log of the run that brought the system is not mounted, or it is.
func TestLastRunBehindTheLink(t *testing.T) {
	for name, c := range map[string]struct {
		folder string // made beneath the root, "" none
		files  map[string][]byte
		state  string
		err    string
	}{
		"dangling":           {"", nil, "", "is the filesystem of ../../../data/log mounted?"},
		"not mounted":        {"data/log", nil, "", "read record of the run"},
		"there":              {"", map[string][]byte{"data/log/record.json": doneRecord(t, "one")}, stateDone, ""},
		"an older elsewhere": {"", map[string][]byte{recordName: doneRecord(t, "zero")}, "", "read record of the run"},
		"came back since":    {"", map[string][]byte{reportName: filled(t, "two", "failed")}, stateFailed, ""},
		"may be the same":    {"", map[string][]byte{reportName: begun("one")}, "", "read record of the run"},
	} {
		t.Run(name, func(t *testing.T) {
			m := machineWith(t, c.files)
			link := filepath.Join(m.root, report.LogPointer)
			if err := errors.Join(os.MkdirAll(filepath.Join(m.root, c.folder), 0o755), os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink("../../../data/log", link)); err != nil {
				t.Fatal(err)
			}
			m.logDirs = append([]string{link}, m.logDirs...)
			last, err := m.lastRun()
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(report.Explain(err), c.err) {
				t.Fatalf("%v; want %q", err, c.err)
			}
			if err == nil && last.state != c.state {
				t.Errorf("%s; want %s", last.state, c.state)
			}
			d := deliverTo(t, m, func(d *config.Delivery) { d.Command = []string{"/bin/true"} })
			if _, err := d.round(t.Context()); (err == nil) != (c.err == "") {
				t.Errorf("deliver: %v; want %q", err, c.err)
			}
		})
	}
}

// A job whose run has begun is over, even if GRUB could not clear its entry.
func TestArmedOrOver(t *testing.T) {
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"not started yet":    {report.EmptyFile("one", report.FileBytes), stateArmed},
		"failed":             {filled(t, "one", "failed"), stateFailed},
		"rehearsed":          {filled(t, "one", "rehearsed"), stateRehearsed},
		"cut off":            {begun("one"), stateInterrupted},
		"another run's":      {filled(t, "zero", "failed"), stateArmed},
		"report file spoilt": {[]byte("x"), stateArmed},
	} {
		got, err := machineWith(t, map[string][]byte{reportName: c.file}).statusWith(&config.Job{RunID: "one"})
		if err != nil || got.State != c.want {
			t.Errorf("%s: %+v, %v; want %s", name, got, err, c.want)
		}
	}
}

// exitOf is the exit status that a command with this end has.
func exitOf(err error) int {
	root := reportCommand()
	root.RunE = func(*cobra.Command, []string) error { return err }
	return cli.Execute(root, nil, io.Discard, io.Discard)
}

func TestStatusTellsWhatIsArmed(t *testing.T) {
	for _, rehearse := range []bool{false, true} {
		s := status{State: stateArmed, Job: &config.Job{RunID: "one", Rehearse: rehearse, Release: config.JobRelease{Name: "kiosk", Version: "2", Counter: 7}}}
		var out bytes.Buffer
		s.print(&out)
		for text, want := range map[string]bool{"kiosk 2, counter 7": true, "nothing will be written": rehearse, "to replace the operating system": !rehearse} {
			if strings.Contains(out.String(), text) != want {
				t.Errorf("rehearse %v: status has %q: %v; want %v\n%s", rehearse, text, !want, want, out.String())
			}
		}
		if got := exitOf(s.verdict()); got != exitArmed {
			t.Errorf("exit status %d; want %d", got, exitArmed)
		}
	}
}

func TestStatusOfRehearsal(t *testing.T) {
	s := status{State: stateRehearsed, Record: &report.Record{Rehearsal: &report.Rehearsal{
		Devices: []string{"/dev/sda 16 GiB"}, Drivers: []string{"ahci"}, FreeBytes: 300 << 20, GatherSeconds: 12.5, RetainedFiles: 42, DowntimeSeconds: 95}}}
	var out bytes.Buffer
	s.print(&out)
	for _, want := range []string{"/dev/sda 16 GiB", "about 1m35s", "42 files", "300 MiB left"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("status lacks %q:\n%s", want, out.String())
		}
	}
}

// deliverTo gives a machine [report] settings.
func deliverTo(t *testing.T, m machine, change func(*config.Delivery)) *deliverer {
	t.Helper()
	d := config.Default().Report
	change(&d)
	root, err := os.OpenRoot(m.root)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	// A system without a program of ours and without systemd: the settings alone.
	if left, err := delivery.Install(root, delivery.Settings{LogDir: "/log", To: d}, ""); len(left) != 1 {
		t.Fatalf("left %q, %v", left, err)
	}
	return &deliverer{machine: m, out: io.Discard, first: 5 * time.Millisecond}
}

func TestReportIsDeliveredOnceToEachPlace(t *testing.T) {
	m := machineWith(t, map[string][]byte{recordName: doneRecord(t, "one"), "etc/machine-id": []byte("0123\n")})
	count, file := filepath.Join(m.root, "count"), filepath.Join(m.root, "out/report.json")
	d := deliverTo(t, m, func(d *config.Delivery) {
		d.Command, d.File = []string{"/bin/sh", "-c", `cat >> "$1"`, "sh", count}, file
	})
	if !m.pending() {
		t.Error("nothing is pending before the first delivery")
	}
	if _, err := d.round(t.Context()); err == nil { // the folder of the file is missing
		t.Error("no error although the file's folder is missing")
	}
	if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := d.round(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var got struct {
		Format int
		RunID  string `json:"run_id"`
		State  string
		ID     string `json:"machine_id"`
		Record struct{ Retained delivery.Kept }
	}
	for _, name := range []string{count, file} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &got); err != nil { // of a second delivery, too
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		if got.Format != 1 || got.RunID != "one" || got.State != stateDone || got.ID != "0123" || bytes.Contains(text, []byte("secret")) {
			t.Errorf("%s:\n%s", name, text)
		}
		want := delivery.Kept{Files: 1, Bytes: 5, Conflicts: []string{"/etc/a: a folder"}}
		if diff := cmp.Diff(want, got.Record.Retained); diff != "" {
			t.Errorf("retained (-want +got):\n%s", diff)
		}
	}
	last, err := m.lastRun()
	if err != nil {
		t.Fatal(err)
	}
	all, err := m.deliveries(last)
	if err != nil || len(all) != 2 || !all[0].Delivered || all[0].Attempts != 2 || !all[1].Delivered || all[1].Attempts != 1 || m.pending() {
		t.Errorf("deliveries %+v, %v; want two attempts and one, both delivered, nothing pending", all, err)
	}
	// A later run is delivered anew.
	if err := os.WriteFile(m.reportFile, filled(t, "two", "failed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	two := func(text []byte) bool {
		return bytes.Contains(text, []byte(`"run_id": "two"`)) && bytes.Contains(text, []byte("no disk")) && !bytes.Contains(text, []byte("the log"))
	}
	if text, err := os.ReadFile(file); err != nil || !two(text) {
		t.Errorf("%v\n%s", err, text)
	}
	// Armed again, the first run is the last that has ended: it is not delivered again.
	if err := os.WriteFile(m.reportFile, report.EmptyFile("three", report.FileBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || !two(text) {
		t.Errorf("after arm: %v\n%s", err, text)
	}
}

// A cut between the delivery and its note: the same run arrives again, under its id.
func TestReportAfterACut(t *testing.T) {
	m := machineWith(t, map[string][]byte{reportName: filled(t, "one", "failed")})
	count := filepath.Join(m.root, "count")
	d := deliverTo(t, m, func(d *config.Delivery) { d.Command = []string{"/bin/sh", "-c", `echo >> "$1"`, "sh", count} })
	for _, notes := range []string{"", `{"format":1,"run_id":"one","places":{}}`} {
		if _, err := d.round(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(m.root, delivery.NotesPath), []byte(notes), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(count); err != nil || len(text) != 2 {
		t.Errorf("delivered %d times, %v; want 2", len(text), err)
	}
}

// What cannot be noted is not sent: it would be sent for ever.
func TestReportThatCannotBeNoted(t *testing.T) {
	m := machineWith(t, map[string][]byte{reportName: filled(t, "one", "failed"), delivery.NotesPath + ".new/x": nil})
	count := filepath.Join(m.root, "count")
	d := deliverTo(t, m, func(d *config.Delivery) { d.Command = []string{"/usr/bin/touch", count} })
	if _, err := d.round(t.Context()); err == nil || !strings.Contains(err.Error(), "note the attempt") {
		t.Errorf("%v; want that the attempt cannot be noted", err)
	}
	if _, err := os.Stat(count); err == nil {
		t.Error("it was sent")
	}
}

func TestReportWaits(t *testing.T) {
	m := machineWith(t, map[string][]byte{reportName: begun("one")})
	var asked atomic.Int32
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Down, busy, refusing, then there.
		w.WriteHeader([]int{500, 429, 403, 200}[min(asked.Add(1), 4)-1])
	}))
	defer s.Close()
	ca := filepath.Join(m.root, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	d := deliverTo(t, m, func(d *config.Delivery) { d.URL, d.CAFile, d.Retry.Duration = s.URL, ca, 20*time.Millisecond })
	var out bytes.Buffer
	d.out = &out
	if err := d.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := asked.Load(); got != 4 || !strings.Contains(out.String(), "403 Forbidden") {
		t.Errorf("asked %d times; want 4\n%s", got, out.String())
	}
	// It ends when it is told to.
	d = deliverTo(t, m, func(d *config.Delivery) { d.File = "/none/report.json" })
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := d.wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v; want %v", err, context.DeadlineExceeded)
	}
}

// Settings that somebody has spoilt do not hide what became of the run.
func TestStatusWithSpoiltSettings(t *testing.T) {
	m := machineWith(t, map[string][]byte{reportName: filled(t, "one", "failed"), delivery.SettingsPath: []byte("{")})
	s, err := m.status()
	if err != nil || s.State != stateFailed || len(s.Report) != 1 || !strings.Contains(s.Report[0].Error, "report.json") || !m.pending() {
		t.Fatalf("%+v, %v; want failed, with an error of the settings", s, err)
	}
	var out bytes.Buffer
	s.print(&out)
	if !strings.Contains(out.String(), "not delivered: read /etc/reimager/report.json") {
		t.Errorf("status prints:\n%s", out.String())
	}
}

func TestReportWithNothingToDeliver(t *testing.T) {
	m := machineWith(t, map[string][]byte{reportName: report.EmptyFile("one", report.FileBytes)})
	d := &deliverer{machine: m, out: io.Discard}
	if _, err := d.round(t.Context()); err != nil {
		t.Errorf("without settings: %v", err)
	}
	d = deliverTo(t, m, func(d *config.Delivery) { d.Command = []string{"/bin/false"} })
	if _, err := d.round(t.Context()); err != nil {
		t.Errorf("without a run: %v", err)
	}
}

func TestLog(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string][]byte
		want  string
		err   string
	}{
		"failed":      {map[string][]byte{reportName: filled(t, "one", "failed")}, "run one at : failed: no disk\n\nthe log\n", ""},
		"rehearsed":   {map[string][]byte{reportName: filled(t, "one", "rehearsed")}, "run one at : rehearsed: no disk\n\nthe log\n", ""},
		"done":        {map[string][]byte{recordName: doneRecord(t, "one"), "log/reimager.log": []byte("its log\n")}, "run one at : restored\n\nits log\n", ""},
		"interrupted": {map[string][]byte{reportName: begun("one")}, "", "left no report"},
		"none":        {nil, "", "no run has left a log"},
	} {
		t.Run(name, func(t *testing.T) {
			last, err := machineWith(t, c.files).lastRun()
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			err = showLog(last, false, &out)
			if out.String() != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q, %v; want %q, %q", out.String(), err, c.want, c.err)
			}
		})
	}
}
