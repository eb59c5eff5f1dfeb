package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"reimager/check"
	"reimager/config"
	"reimager/report"
)

// What a run has reported survives any number of arms that are taken back, and makes way
// for the next report.
func TestSetAsideAndTakeBack(t *testing.T) {
	empty := string(report.EmptyFile("next", report.FileBytes))
	failed := string(filled(t, "one", "failed"))
	newer := string(filled(t, "next", "failed"))
	for name, tt := range map[string]struct{ before, run, after string }{
		"a failed run's":  {failed, empty, failed},
		"begun":           {string(begun("one")), empty, string(begun("one"))},
		"none":            {"", empty, ""},
		"the next failed": {failed, newer, newer},
		"cut between":     {failed, "", failed},
	} {
		file := filepath.Join(t.TempDir(), "report")
		if tt.before != "" {
			write(t, file, tt.before)
		}
		for range 2 { // arming twice
			if err := setAside(file); err != nil {
				t.Fatal(err)
			}
			if tt.run != "" {
				write(t, file, tt.run)
			}
			if tt.run == newer {
				break
			}
		}
		for range 2 {
			if err := takeBack(file); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		got, err := os.ReadFile(file)
		if string(got) != tt.after || err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %.60q, %v; want %.60q", name, got, err, tt.after)
		}
	}
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func job(t *testing.T, runID string, rehearse bool) string {
	t.Helper()
	text, err := (&config.Job{Format: config.JobFormat, RunID: runID, Armed: time.Unix(1, 0).UTC(), Rehearse: rehearse,
		Image:  config.JobImage{Source: config.Source{Device: config.Device{Kind: config.ByUUID, Value: "AA-1"}, Path: "/release"}, Bytes: 1, SHA256: strings.Repeat("0", 64)},
		Target: config.DiskIdentity{Serial: "S", Bytes: 1 << 30}, OldRoot: "AA-1"}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDropRehearsal(t *testing.T) {
	for name, tt := range map[string]struct {
		rehearse bool
		file     []byte
		kept     bool
	}{
		"armed":            {true, report.EmptyFile("one", report.FileBytes), true},
		"passed":           {true, filled(t, "one", "rehearsed"), true},
		"failed":           {true, filled(t, "one", "failed"), false},
		"cut off":          {true, begun("one"), false},
		"another's failed": {true, filled(t, "zero", "failed"), true},
		"no rehearsal":     {false, filled(t, "one", "failed"), true},
	} {
		dir := t.TempDir()
		file, kept := filepath.Join(dir, "report"), filepath.Join(dir, "rehearsal.json")
		write(t, file, string(tt.file))
		write(t, kept, "{}")
		write(t, filepath.Join(dir, jobName), job(t, "one", tt.rehearse))
		if err := dropRehearsal(dir, file, kept); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(kept); (err == nil) != tt.kept {
			t.Errorf("%s: %v; want kept: %t", name, err, tt.kept)
		}
	}
}

func TestRemoveLeftovers(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".kernel123", ".initrd4", ".gate5", ".job.json6", ".other", "kernel"} {
		write(t, filepath.Join(dir, name), "")
	}
	if err := removeLeftovers(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff([]string{".other", "kernel"}, got); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

// A boot loader that cannot be read does not make an armed machine idle.
func TestArmedJob(t *testing.T) {
	env := "# GRUB Environment Block\nnext_entry=" + entryID + "\n"
	env += strings.Repeat("#", 1024-len(env))
	for name, tt := range map[string]struct {
		files map[string]string
		armed bool
		err   string
	}{
		"no GRUB":              {nil, false, ""},
		"armed":                {map[string]string{"boot/grub/grub.cfg": "", "boot/grub/grubenv": env, "boot/reimager/job.json": job(t, "one", false)}, true, ""},
		"not armed":            {map[string]string{"boot/grub/grub.cfg": ""}, false, ""},
		"two, with a job":      {map[string]string{"boot/grub/grub.cfg": "", "boot/grub2/grub.cfg": "", "boot/reimager/job.json": job(t, "one", false)}, false, "both"},
		"two, without":         {map[string]string{"boot/grub/grub.cfg": "", "boot/grub2/grub.cfg": ""}, false, ""},
		"damaged environment":  {map[string]string{"boot/grub/grub.cfg": "", "boot/grub/grubenv": "x", "boot/reimager/job.json": job(t, "one", false)}, false, "grubenv"},
		"damaged, without job": {map[string]string{"boot/grub/grub.cfg": "", "boot/grub/grubenv": "x"}, false, ""},
	} {
		root := t.TempDir()
		for file, content := range tt.files {
			write(t, filepath.Join(root, file), content)
		}
		got, err := armedJob(root)
		if (got != nil) != tt.armed || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %+v, %v; want armed: %t, %q", name, got, err, tt.armed, tt.err)
		}
	}
}

// While a machine is armed, and after it was disarmed, the run before it is still told.
func TestLastRunSetAside(t *testing.T) {
	rehearsal := func(at int64) []byte {
		text, err := (&report.Record{RunID: "kept", Outcome: "rehearsed", Started: time.Unix(at, 0)}).Encode()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	done, err := (&report.Record{RunID: "done", Outcome: "restored", Started: time.Unix(100, 0)}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	const kept = "var/lib/reimager/rehearsal.json"
	last := check.LastReport(reportName)
	for name, tt := range map[string]struct {
		files map[string][]byte
		want  string
	}{
		"armed after a failed run":   {map[string][]byte{reportName: report.EmptyFile("two", report.FileBytes), last: filled(t, "one", "failed"), kept: rehearsal(1)}, stateFailed},
		"a rehearsal alone":          {map[string][]byte{kept: rehearsal(1)}, stateRehearsed},
		"armed after a rehearsal":    {map[string][]byte{reportName: report.EmptyFile("two", report.FileBytes), kept: rehearsal(1)}, stateRehearsed},
		"failed after a rehearsal":   {map[string][]byte{reportName: filled(t, "two", "failed"), kept: rehearsal(1)}, stateFailed},
		"of the system before":       {map[string][]byte{recordName: done, kept: rehearsal(99)}, stateDone},
		"of this system":             {map[string][]byte{recordName: done, kept: rehearsal(101)}, stateRehearsed},
		"report that came along":     {map[string][]byte{recordName: done, reportName: begun("done"), last: filled(t, "one", "failed")}, stateDone},
		"last that came along":       {map[string][]byte{recordName: done, last: filled(t, "one", "failed")}, stateDone},
		"last that nobody has begun": {map[string][]byte{last: report.EmptyFile("one", report.FileBytes)}, stateIdle},
	} {
		got, err := machineWith(t, tt.files).lastRun()
		if err != nil || got.state != tt.want {
			t.Errorf("%s: %+v, %v; want %s", name, got, err, tt.want)
		}
	}
}

// Only who has a record can be compared with another: one that was begun may have none.
func TestBegunIsSetAside(t *testing.T) {
	block, err := report.BegunBlock("one", "1", time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	content := bytes.Join([][]byte{block, report.EmptyFile("one", report.FileBytes)[len(block):]}, nil)
	m := machineWith(t, map[string][]byte{check.LastReport(reportName): content})
	if got, err := m.lastRun(); err != nil || got.state != stateInterrupted {
		t.Errorf("lastRun = %+v, %v; want %s", got, err, stateInterrupted)
	}
}
