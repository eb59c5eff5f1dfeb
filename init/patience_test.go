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
