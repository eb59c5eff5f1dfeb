package main

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/config"
	"reimager/report"
)

// What a worker said stays said when it is dead, and a torn last line is dropped.
func TestHear(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []message{{Phase: PhaseGather}, {Event: &report.Event{Stage: "write"}}, {Phase: PhaseCastOff}} {
		if err := say(w, m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.WriteString(`{"phase":"lan`); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	e := Ending{Phase: PhaseWake, Attempts: 2}
	var shown []message
	hear(r, &e, func(m message) { shown = append(shown, m) })
	if diff := cmp.Diff([]message{{Phase: PhaseGather}, {Event: &report.Event{Stage: "write"}}, {Phase: PhaseCastOff}}, shown); diff != "" {
		t.Errorf("shown (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Ending{Phase: PhaseCastOff, Attempts: 2}, e); diff != "" {
		t.Errorf("hear (-want +got):\n%s", diff)
	}
}

// A last word is enough: a worker that does not end afterwards is not waited for.
func TestHearLastWord(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close() // it stays open while we hear
	said := &Failure{Error: strings.Repeat("x", 20000), Hints: []string{"h"}, Stage: "write"}
	if err := say(w, message{Failed: said}); err != nil {
		t.Fatal(err)
	}
	e := Ending{Phase: PhaseCastOff, Attempts: 2}
	hear(r, &e, func(message) {})
	want := Ending{Phase: PhaseCastOff, Attempts: 2, Failure: said}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Errorf("hear (-want +got):\n%s", diff)
	}
}

// Who dies after landing, as what is left of a lifeboat is cleared away, has landed.
func TestHearLanded(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []message{{Phase: PhaseLanded}, {Alive: true}, {Failed: &Failure{Error: "x"}}} {
		if err := say(w, m); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	e := Ending{Phase: PhaseCastOff, Attempts: 1, Aboard: true}
	shown := 0
	hear(r, &e, func(message) { shown++ })
	if want := (Ending{Phase: PhaseLanded, Attempts: 1, Aboard: true, Failure: &Failure{Error: "x"}}); !cmp.Equal(want, e) || shown != 3 {
		t.Errorf("hear = %+v after %d messages; want %+v after 3", e, shown, want)
	}
	if got := decide(config.Default().Failure, e); got != GoOn {
		t.Errorf("decide = %s; want %s", got, GoOn)
	}
}

func TestTrace(t *testing.T) {
	name := t.TempDir() + "/log"
	text := "[   1.0] a line\npanic: first\n\ngoroutine 1:\n[   2.0] FAILED\nfatal error: second\n\ngoroutine 2:\nmain.f()\n[   3.0] FAILED\n"
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"fatal error: second", "", "goroutine 2:", "main.f()"}, trace(name, 12)); diff != "" {
		t.Errorf("trace (-want +got):\n%s", diff)
	}
	if got := trace(name+"x", 12); got != nil {
		t.Errorf("trace of no log = %q", got)
	}
}
