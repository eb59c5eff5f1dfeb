package main

import (
	"testing"

	"reimager/config"
	"reimager/screen"
)

func TestDecide(t *testing.T) {
	usual := config.Default().Failure
	careful := config.Failure{BeforeWrite: "hold", AfterWrite: "hold"}
	failed := &Failure{Error: "x"}
	for _, tt := range []struct {
		name   string
		config config.Failure
		ending Ending
		want   Action
	}{
		{"failed while waking", usual, Ending{Phase: PhaseWake, Failure: failed}, GoBack},
		{"failed in gather", usual, Ending{Phase: PhaseGather, Failure: failed}, GoBack},
		{"crashed in gather", usual, Ending{Phase: PhaseGather, Crash: "signal 11"}, GoBack},
		{"ended in gather without a word", usual, Ending{Phase: PhaseGather}, GoBack},
		{"failed in gather, hold", careful, Ending{Phase: PhaseGather, Failure: failed}, Hold},
		{"failed in write", usual, Ending{Phase: PhaseCastOff, Failure: failed, Attempts: 1}, TryAgain},
		{"crashed in write", usual, Ending{Phase: PhaseCastOff, Crash: "signal 9", Attempts: 2}, TryAgain},
		{"failed in the last write", usual, Ending{Phase: PhaseCastOff, Failure: failed, Attempts: maxAttempts}, Hold},
		{"failed in write, hold", careful, Ending{Phase: PhaseCastOff, Failure: failed, Attempts: 1}, Hold},
		{"ended in write without a word", usual, Ending{Phase: PhaseCastOff, Attempts: 1}, TryAgain},
		{"rehearsed", usual, Ending{Phase: PhaseGather, Rehearsed: true}, GoBack},
		{"rehearsed, hold", careful, Ending{Phase: PhaseGather, Rehearsed: true}, GoBack},
		{"crashed after it was rehearsed, hold", careful, Ending{Phase: PhaseGather, Rehearsed: true, Crash: "signal 9"}, GoBack},
		{"cancelled, hold", careful, Ending{Phase: PhaseWake, Failure: &Failure{Error: "x", Back: true}}, GoBack},
		{"failed on a stick", usual, Ending{Phase: PhaseGather, Failure: failed, Media: true}, Hold},
		{"crashed while waking on a stick", usual, Ending{Phase: PhaseWake, Crash: "signal 9", Media: true}, Hold},
		{"ended on a stick without a word", usual, Ending{Phase: PhaseGather, Media: true}, Hold},
		{"rehearsed on a stick", usual, Ending{Phase: PhaseGather, Rehearsed: true, Media: true}, GoBack},
		{"crashed on a stick after it was rehearsed", usual, Ending{Phase: PhaseGather, Rehearsed: true, Crash: "signal 9", Media: true}, GoBack},
		{"cancelled on a stick", usual, Ending{Phase: PhaseWake, Failure: &Failure{Error: "x", Back: true}, Media: true}, GoBack},
		{"over on a stick, new system", usual, Ending{Phase: PhaseWake, Over: &Over{Leave: ByKexec, New: true}, Media: true}, GoOn},
		{"over on a stick, gate closed", usual, Ending{Phase: PhaseWake, Over: &Over{Leave: ByReboot}, Media: true}, GoBack},
		{"failed in write on a stick", usual, Ending{Phase: PhaseCastOff, Failure: failed, Attempts: 1, Media: true}, TryAgain},
		{"landed on a stick", usual, Ending{Phase: PhaseLanded, Attempts: 1, Media: true}, GoOn},
		{"over, gate closed", usual, Ending{Phase: PhaseWake, Over: &Over{Leave: ByReboot}}, GoBack},
		{"over, gate open", careful, Ending{Phase: PhaseWake, Over: &Over{Leave: ByKexec}}, GoBack},
		{"over, new system", usual, Ending{Phase: PhaseWake, Over: &Over{Leave: ByKexec, New: true}}, GoOn},
		{"over, no way", usual, Ending{Phase: PhaseWake, Over: &Over{Leave: Stay}}, Hold},
		{"over, no way to the new system", usual, Ending{Phase: PhaseWake, Over: &Over{Leave: Stay, New: true}}, Hold},
		{"over, and it does not end", usual, Ending{Phase: PhaseWake, Over: &Over{Leave: ByKexec}, Crash: "signal 9"}, GoBack},
		{"boarded", usual, Ending{Phase: PhaseGather, Boarded: true}, Embark},
		{"crashed after boarding", careful, Ending{Phase: PhaseGather, Boarded: true, Crash: "signal 9"}, Embark},
		{"failed aboard before it was known what is on the disk", careful, Ending{Phase: PhaseWake, Failure: failed, Aboard: true}, GoBack},
		{"failed aboard while the old system is there", usual, Ending{Phase: PhaseGather, Failure: failed, Aboard: true}, GoBack},
		{"failed aboard while the old system is there, hold", careful, Ending{Phase: PhaseGather, Failure: failed, Aboard: true}, Hold},
		{"failed aboard after casting off", usual, Ending{Phase: PhaseCastOff, Failure: failed, Aboard: true, Attempts: 1}, TryAgain},
		{"failed aboard for good", usual, Ending{Phase: PhaseCastOff, Failure: failed, Aboard: true, Attempts: maxAttempts}, Hold},
		{"hung aboard after casting off", usual, Ending{Phase: PhaseCastOff, Crash: "hangs", Hung: true, Aboard: true, Attempts: 1}, Restart},
		{"hung aboard after casting off, again and again", usual, Ending{Phase: PhaseCastOff, Crash: "hangs", Hung: true, Aboard: true, Starts: maxRestarts, Attempts: maxAttempts}, Hold},
		{"hung aboard after casting off, hold", careful, Ending{Phase: PhaseCastOff, Crash: "hangs", Hung: true, Aboard: true, Attempts: 1}, Hold},
		{"hung aboard while the old system is there", usual, Ending{Phase: PhaseGather, Crash: "hangs", Hung: true, Aboard: true}, GoBack},
		{"hung after casting off, with all in memory only", usual, Ending{Phase: PhaseCastOff, Crash: "hangs", Hung: true, Attempts: 1}, TryAgain},
		{"landed", usual, Ending{Phase: PhaseLanded, Attempts: 1}, GoOn},
		{"crashed after landing", usual, Ending{Phase: PhaseLanded, Crash: "signal 11", Attempts: 1}, GoOn},
		{"failed after landing, hold", careful, Ending{Phase: PhaseLanded, Failure: failed, Attempts: 3}, GoOn},
	} {
		if got := decide(tt.config, tt.ending); got != tt.want {
			t.Errorf("%s: decide = %s; want %s", tt.name, got, tt.want)
		}
	}
}

// A machine whose image is in memory tries again, unless it is told not to; what was not
// begun, or is over, waits for somebody.
func TestHoldsFor(t *testing.T) {
	for _, tt := range []struct {
		after  config.Choice
		ending Ending
		again  bool
	}{
		{"retry", Ending{Phase: PhaseCastOff}, true},
		{"hold", Ending{Phase: PhaseCastOff}, false},
		{"retry", Ending{Phase: PhaseGather}, false},
		{"retry", Ending{Phase: PhaseWake, Over: &Over{Leave: Stay}}, false},
	} {
		if got := holdsFor(config.Failure{AfterWrite: tt.after}, tt.ending); got > 0 != tt.again {
			t.Errorf("holdsFor(%s, %+v) = %s; want it to end: %v", tt.after, tt.ending, got, tt.again)
		}
	}
}

// No ending after casting off may lead back to a system that is gone.
func TestNeverBackAfterCastOff(t *testing.T) {
	for _, before := range []config.Choice{"reboot", "hold"} {
		for _, after := range []config.Choice{"retry", "hold"} {
			for attempts := range maxAttempts + 2 {
				for _, e := range []Ending{{}, {Crash: "signal 9"}, {Rehearsed: true}, {Over: &Over{Leave: ByReboot}}, {Failure: &Failure{Back: true}}, {Crash: "hangs", Hung: true}, {Crash: "hangs", Hung: true, Aboard: true}} {
					e.Phase, e.Attempts = PhaseCastOff, attempts
					got := decide(config.Failure{BeforeWrite: before, AfterWrite: after}, e)
					if got != TryAgain && got != Hold && (got != Restart || !e.Aboard) {
						t.Errorf("decide(%s, %s, %+v) = %s; want to write again, to hold, or with a lifeboat to restart", before, after, e, got)
					}
				}
			}
		}
	}
}

// A start from a lifeboat that does not know what is on the disk does not say that the old
// system is.
func TestBackScene(t *testing.T) {
	for _, tt := range []struct {
		name   string
		ending Ending
		why    string
		want   screen.Scene
	}{
		{"rehearsed", Ending{Phase: PhaseGather, Rehearsed: true}, "", screen.Rehearsed},
		{"failed", Ending{Phase: PhaseGather}, "x", screen.Back},
		{"failed aboard", Ending{Phase: PhaseGather, Aboard: true}, "x", screen.Back},
		{"astray", Ending{Phase: PhaseWake, Aboard: true}, "x", screen.HoldAboard},
	} {
		if got := backScene(tt.ending, tt.why); got != tt.want {
			t.Errorf("%s: backScene = %d; want %d", tt.name, got, tt.want)
		}
	}
}
