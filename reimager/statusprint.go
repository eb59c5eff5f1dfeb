package main

import (
	"fmt"
	"io"
	"path/filepath"
	"time"

	"reimager/config"
	"reimager/disk"
	"reimager/report"
	"reimager/retain"
)

// sheet prints a status, a word in front of each line.
type sheet struct{ out io.Writer }

func (p sheet) line(what, format string, args ...any) {
	fmt.Fprintf(p.out, "%-9s %s\n", what, fmt.Sprintf(format, args...))
}

func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

func (s *status) print(out io.Writer) {
	p := sheet{out}
	p.line("state", "%s", s.State)
	if s.Job != nil {
		p.job(s.Job)
	}
	if s.State == stateInterrupted && s.Record == nil {
		p.line("run", "%s began and has left no report", s.RunID)
	}
	if s.Lifeboat != "" {
		p.line("lifeboat", "%s", s.Lifeboat)
	}
	if s.Record != nil {
		p.record(s.Record)
	}
	if s.LogDir != "" {
		p.line("log", "%s", filepath.Join(s.LogDir, report.LogName))
	}
	for _, d := range s.Report {
		switch {
		case d.Delivered:
			p.line("report", "delivered to %s at %s", d.To, clock(d.Try.Delivered))
		case d.Attempts > 0:
			p.line("report", "not delivered to %s after %d attempts, last at %s: %s", d.To, d.Attempts, clock(d.Last), d.Error)
		case d.Error != "":
			p.line("report", "not delivered: %s", d.Error)
		default:
			p.line("report", "not delivered to %s yet", d.To)
		}
	}
	for _, d := range s.Differences {
		p.line("differs", "%s: %s is %s, was %s", d.Path, d.What, d.Got, d.Want)
	}
	if s.Verified && len(s.Differences) == 0 {
		p.line("verified", "every file that was put back is as it was")
	}
}

func (p sheet) job(j *config.Job) {
	what := "to replace the operating system at the next boot"
	if j.Rehearse {
		what = "to rehearse at the next boot; nothing will be written"
	}
	p.line("armed", "%s, at %s, run %s", what, clock(j.Armed), j.RunID)
	if j.Release.Name != "" {
		p.line("image", "%s %s, counter %d", j.Release.Name, j.Release.Version, j.Release.Counter)
	}
	p.line("image", "%s, %s", j.Image.Source, disk.Size(j.Image.Bytes))
}

func (p sheet) record(r *report.Record) {
	p.line("run", "%s, started %s, last stage %s", r.RunID, clock(r.Started), r.Stage)
	image := r.Image.Source
	if r.Image.Name != "" {
		image = fmt.Sprintf("%s %s, counter %d", r.Image.Name, r.Image.Version, r.Image.Counter)
	}
	if image != "" {
		p.line("image", "%s, SHA-256 %s", image, r.Image.SHA256)
	}
	if r.Image.SignedBy != "" {
		p.line("signed by", "%s", r.Image.SignedBy)
	}
	total := 0.0
	for _, d := range r.Stages {
		p.line("took", "%s %.1f s", d.Stage, d.Seconds)
		total += d.Seconds
	}
	if total > 0 && r.Attempts > 0 {
		p.line("took", "%.1f s in all, attempt %d", total, r.Attempts)
	}
	if r.ReadBack {
		p.line("read back", "every byte that was written")
	}
	if b := r.Lifeboat; b != nil {
		p.lifeboat(b)
	}
	if r.Rehearsal != nil {
		p.rehearsal(r.Rehearsal)
	}
	p.kept(r)
	for _, w := range r.Warnings {
		p.line("warning", "%s", w)
	}
	if r.Error != "" {
		p.line("error", "%s", r.Error)
	}
	for _, h := range r.Hints {
		p.line("hint", "%s", h)
	}
	if r.Did != "" {
		p.line("did", "%s", r.Did)
	}
}

func (p sheet) lifeboat(b *report.Lifeboat) {
	text := b.Where + ", " + disk.Size(b.Bytes)
	switch {
	case !b.Proven:
		text += ", not proven"
	case b.Starts > 1:
		text += fmt.Sprintf(", started %d times", b.Starts)
	default:
		text += ", proven"
	}
	p.line("lifeboat", "%s", text)
}

func (p sheet) rehearsal(r *report.Rehearsal) {
	for _, d := range r.Devices {
		p.line("device", "%s", d)
	}
	p.line("drivers", "%d loaded", len(r.Drivers))
	p.line("memory", "%s left when all was gathered", disk.Size(r.FreeBytes))
	p.line("gather", "%.1f s", r.GatherSeconds)
	p.line("would keep", "%d files and directories, %s", r.RetainedFiles, disk.Size(r.RetainedBytes))
	p.line("downtime", "about %s, by what was measured", time.Duration(r.DowntimeSeconds*float64(time.Second)).Round(time.Second))
}

func (p sheet) kept(r *report.Record) {
	put, ok := r.Retained.(*retain.Report)
	if !ok || put == nil {
		return
	}
	p.line("kept", "%d files and directories, %s", len(put.Entries), disk.Size(put.ContentBytes))
	if put.Accounts != nil {
		p.line("accounts", "%s", put.Accounts.Summary())
	}
	for _, path := range r.NotThere {
		p.line("not there", "%s", path)
	}
	for _, c := range put.Conflicts {
		p.line("missing", "%s: %s", c.Path, c.Why)
	}
}
