package accounts

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRandomPairs(t *testing.T) {
	const pairs = 2000
	all, failed := map[string]int{}, 0
	for seed := range uint64(pairs) {
		p := randomPair(seed, seed%3 == 0)
		m, rep := Merge(p.old, p.new, Options{})
		for _, e := range rep.Entries {
			all[string(e.What)+" "+string(e.Did)]++
		}
		faults := check(p, m, rep)
		again, _ := Merge(p.old, m.Set(), Options{})
		if changed := again.Changed(); len(changed) > 0 {
			faults = append(faults, fmt.Sprintf("merging again changes %v", changed))
		}
		// A power cut between two files.
		half := *p.new
		for k := range kinds {
			half.files[k] = m.is.files[k]
			if again, _ := Merge(p.old, &half, Options{}); again.is.files != m.is.files {
				faults = append(faults, fmt.Sprintf("interrupted after %s, another merge differs: %s", k.path(), cmp.Diff(dump(m.Set()), dump(again.Set()))))
				break
			}
		}
		if len(faults) > 0 {
			t.Errorf("pair %d:\n%s\nold %s\nnew %s\nmerged %s\nreport %s", seed, strings.Join(faults, "\n"), dump(p.old), dump(p.new), dump(m.Set()), lines(rep))
			if failed++; failed == 3 {
				t.FailNow()
			}
		}
	}
	// A generator that no longer makes the hard cases proves nothing.
	for _, want := range []string{"user kept", "user added", "user renumbered", "user differs", "group added", "group renumbered", "password kept",
		"password skipped", "ageing skipped", "member added", "member skipped", "member differs", "administrator added", "administrator skipped",
		"subuid added", "subuid renumbered", "subuid skipped", "subuid differs", "subgid renumbered", "line skipped", "file added", "group password skipped"} {
		if all[want] < 20 {
			t.Errorf("%d entries of %q in %d pairs; want 20 at least", all[want], want, pairs)
		}
	}
}

// The checker has to notice what a report leaves out.
func TestCheckerNotices(t *testing.T) {
	for _, did := range []Did{Differs, Skipped, Renumbered} {
		noticed := 0
		for seed := range uint64(20) {
			p := randomPair(seed, false)
			m, rep := Merge(p.old, p.new, Options{})
			rep.Entries = slices.DeleteFunc(rep.Entries, func(e Entry) bool { return e.Did == did })
			noticed += one(len(check(p, m, rep)) > 0)
		}
		if noticed < 10 {
			t.Errorf("without entries of %q, %d of 20 reports are found wanting; want 10 at least", did, noticed)
		}
	}
}

func dump(s *Set) string {
	var b strings.Builder
	for k := range kinds {
		fmt.Fprintf(&b, "== %s %v\n%s\n", k.path(), s.files[k].present, s.files[k].text)
	}
	return b.String() + s.defs
}

func lines(r Report) string {
	var b strings.Builder
	for _, e := range r.Entries {
		b.WriteString(e.String() + "\n")
	}
	return b.String()
}

// pwck and grpck are other people's reading of the same files.
func TestPwckAndGrpck(t *testing.T) {
	for _, tool := range []string{"pwck", "grpck"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing: it is in the package passwd (shadow-utils): %v", tool, err)
		}
	}
	if os.Getuid() != 0 {
		t.Fatal("pwck and grpck change their root, which needs root")
	}
	for seed := range uint64(30) {
		dir := t.TempDir()
		p := randomPair(seed*3, true)
		m, rep := Merge(p.old, p.new, Options{})
		install(t, dir, m.Set())
		for _, shell := range []string{"bin/sh", "bin/bash"} {
			put(t, dir, shell, "", 0o755)
		}
		for _, tool := range []string{"pwck", "grpck"} {
			if out, err := exec.Command(tool, "-r", "-R", dir).CombinedOutput(); err != nil {
				t.Errorf("pair %d: %s: %v\n%s\nmerged %s\nreport %s", seed*3, tool, err, out, dump(m.Set()), lines(rep))
			}
		}
	}
}

func install(t *testing.T, dir string, s *Set) {
	t.Helper()
	for k := range kinds {
		if s.files[k].present {
			put(t, dir, k.path(), s.files[k].text, 0o640)
		}
	}
	if s.hasDefs {
		put(t, dir, loginDefs, s.defs, 0o644)
	}
}

func put(t *testing.T, dir, name, text string, mode os.FileMode) {
	t.Helper()
	name = filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// The largest files, in the orders that cost most, have to be merged in the time of
// a reimage and not in that of a lunch.
func TestLargeFiles(t *testing.T) {
	fill := func(line func(i int) string) string {
		var b strings.Builder
		for i := 0; b.Len() < maxFile-100; i++ {
			b.WriteString(line(i))
		}
		return b.String()
	}
	var old, new Set
	old.files[passwd] = content{true, fill(func(i int) string { return fmt.Sprintf("u%d:x:%d:%d::/:\n", i, 1000+i, 5+i) })}
	new.files[passwd] = content{true, fill(func(i int) string { return fmt.Sprintf("v%d:x:%d:%d::/:\n", i, 1000+i, 5+i) })}
	old.files[group] = content{true, "g:x:5:" + fill(func(i int) string { return fmt.Sprintf("u%d,", i) }) + "\n"}
	new.files[group] = content{true, "g:x:6:" + fill(func(i int) string { return fmt.Sprintf("v%d,", i) }) + "\n"}
	old.files[gshadow] = content{true, "g:!:" + fill(func(i int) string { return fmt.Sprintf("u%d,", i) }) + ":\n"}
	old.files[subuid] = content{true, fill(func(i int) string { return fmt.Sprintf("u%d:%d:1\n", i%50000, 4200000000-3*i) })}
	old.files[subgid] = content{true, fill(func(i int) string { return fmt.Sprintf("u%d:%d:1\n", i%50000, 100000) })}
	start := time.Now()
	m, _ := Merge(&old, &new, Options{})
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("Merge took %v; want at most 30 s", took)
	}
	if again, _ := Merge(&old, m.Set(), Options{}); len(again.Changed()) > 0 {
		t.Errorf("merging again changes %v", again.Changed())
	}
}
