package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/report"
)

func some() Results {
	return Results{
		{Name: Lifeboat, Verdict: Warn, Found: "no lifeboat yet"},
		{Name: Power, Verdict: Fail, Found: "on battery (BAT0) at 7%, expected at least 20%", Hint: "connect it to the mains"},
		{Name: Signature, Verdict: Pass, Found: "signed by 00AA", Hint: "not shown"},
	}
}

func TestForce(t *testing.T) {
	for _, tt := range []struct {
		forced []string
		fails  int
		err    string
	}{
		{nil, 1, ""},
		{[]string{"power"}, 0, ""},
		{[]string{"power", "grubenv"}, 0, ""},
		{[]string{"grubenv"}, 1, ""},
		{[]string{"signature"}, 0, "cannot be forced"},
		{[]string{"digests"}, 0, "cannot be forced"},
		{[]string{"compatible"}, 0, "cannot be forced"},
		{[]string{"target"}, 0, "cannot be forced"},
		{[]string{"powr"}, 0, "there is no such check"},
		{[]string{""}, 0, "there is no such check"},
	} {
		given := some()
		got, err := given.Force(tt.forced)
		switch {
		case tt.err == "" && (err != nil || got.Count(Fail) != tt.fails):
			t.Errorf("Force(%q) = %+v, %v; want %d fails", tt.forced, got, err, tt.fails)
		case tt.err != "" && (!errors.Is(err, ErrForce) || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("Force(%q) = %v; want %q", tt.forced, err, tt.err)
		}
		if diff := cmp.Diff(some(), given); diff != "" {
			t.Errorf("Force(%q) changed what it was given:\n%s", tt.forced, diff)
		}
	}
}

func TestPrint(t *testing.T) {
	results := some()
	results.sort()
	var out bytes.Buffer
	if err := results.Print(&out, 0); err != nil {
		t.Fatal(err)
	}
	const want = `pass  signature    signed by 00AA
fail  power        on battery (BAT0) at 7%, expected at least 20%
                   hint: connect it to the mains
warn  lifeboat     no lifeboat yet
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("Print (-want +got):\n%s", diff)
	}
	out.Reset()
	if err := results.Print(&out, 50, Fail); err != nil {
		t.Fatal(err)
	}
	const narrow = `fail  power        on battery (BAT0) at 7%,
                   expected at least 20%
                   hint: connect it to the mains
`
	if diff := cmp.Diff(narrow, out.String()); diff != "" {
		t.Errorf("Print in 50 characters (-want +got):\n%s", diff)
	}
	if got, want := results.Summary(), "1 failed, 1 warning, 1 passed"; got != want {
		t.Errorf("Summary = %q, want %q", got, want)
	}
}

// Names of files are data: they can neither forge a line nor move the cursor.
func TestPrintHostileName(t *testing.T) {
	var out bytes.Buffer
	r := Results{{Name: Retained, Verdict: Warn, Found: "/srv/a\rpass  power\x1b[2J\tb", Hint: ""}}
	if err := r.Print(&out, 0); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "warn  retained     /srv/a?pass power?[2J?b\n"; got != want {
		t.Errorf("Print = %q, want %q", got, want)
	}
}

func TestJSON(t *testing.T) {
	var out bytes.Buffer
	if err := some().JSON(&out); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Format, Failed, Warned, Passed int
		Results                        Results
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(some(), got.Results); diff != "" || got.Format != 1 || got.Failed != 1 || got.Warned != 1 || got.Passed != 1 {
		t.Errorf("JSON = %+v (-want +got):\n%s", got, diff)
	}
}

func TestFailedTakesHints(t *testing.T) {
	err := report.Hint(fmt.Errorf("outer: %w", report.Hint(errors.New("inner"), "first")), "second")
	want := Result{Name: Target, Verdict: Fail, Found: "outer: inner", Hint: "second; first"}
	if diff := cmp.Diff(want, failed(Target, err)); diff != "" {
		t.Errorf("failed (-want +got):\n%s", diff)
	}
	want = Result{Name: Target, Verdict: Fail, Found: "plain"}
	if diff := cmp.Diff(want, failed(Target, errors.New("plain"))); diff != "" {
		t.Errorf("failed without hint (-want +got):\n%s", diff)
	}
}

// What cannot be forced is a check, and is listed once.
func TestNames(t *testing.T) {
	all := names()
	for _, n := range firm() {
		if !slices.Contains(all, n) {
			t.Errorf("%s cannot be forced, but is no check", n)
		}
	}
	slices.Sort(all)
	if len(slices.Compact(slices.Clone(all))) != len(all) {
		t.Errorf("a name is there twice: %v", all)
	}
}
