package main

import (
	"testing"
	"time"
)

// Silence does not count while only memory can save the machine.
func TestPulse(t *testing.T) {
	for _, tt := range []struct {
		name   string
		do     func(*pulse)
		silent bool
	}{
		{"waking", func(p *pulse) { p.beat(PhaseWake) }, true},
		{"gathering", func(p *pulse) { p.beat(PhaseWake); p.beat(PhaseGather) }, true},
		{"moving", func(p *pulse) { p.beat(PhaseGather); p.move() }, true},
		{"cast off", func(p *pulse) { p.beat(PhaseCastOff) }, false},
		{"cast off and moving", func(p *pulse) { p.beat(PhaseCastOff); p.move() }, false},
		{"not cast off after all", func(p *pulse) { p.beat(PhaseCastOff); p.beat(PhaseGather) }, true},
		{"landed", func(p *pulse) { p.beat(PhaseLanded) }, true},
		{"holding", func(p *pulse) { p.beat(PhaseGather); p.hold() }, false},
		{"cast off aboard", func(p *pulse) { p.aboard = true; p.beat(PhaseCastOff) }, true},
		{"holding aboard", func(p *pulse) { p.aboard = true; p.beat(PhaseCastOff); p.hold() }, false},
		{"trying again aboard", func(p *pulse) { p.aboard = true; p.beat(PhaseCastOff); p.hold(); p.beat(PhaseCastOff) }, true},
	} {
		var p pulse
		tt.do(&p)
		if got := p.silent(time.Now().Add(time.Hour)); got >= time.Hour/2 != tt.silent {
			t.Errorf("%s: silent for %s after an hour; want it to count: %v", tt.name, got, tt.silent)
		}
	}
}

// What a disk has done counts, not for how long it has been busy with it.
func TestCompleted(t *testing.T) {
	line := func(written, busy string) string {
		return "   8       0 sda 100 1 2000 30 50 2 " + written + " 40 1 " + busy + " 70 5 0 600 1 9 2\n"
	}
	was := completed(line("900", "60"))
	if now := completed(line("900", "61")); now != was {
		t.Errorf("a disk that hangs: %q, then %q", was, now)
	}
	if now := completed(line("908", "60")); now == was {
		t.Errorf("a disk that wrote: %q twice", was)
	}
	if completed("") != "" || completed("8 0 sda 1 2") == "" {
		t.Error("an old kernel's line, or none")
	}
}
