package main

import "reimager/config"

// Phase is how far a run has come. The worker says so before it goes on, so that
// PID 1 knows it whatever becomes of the worker.
type Phase string

// The phases in their order.
const (
	PhaseWake    Phase = "wake"
	PhaseGather  Phase = "gather"
	PhaseCastOff Phase = "cast off" // the old system is gone from here on
	PhaseLanded  Phase = "landed"   // the new system boots
)

// Ending is how a worker ended.
type Ending struct {
	Phase    Phase
	Failure  *Failure // what the worker said; nil if it said nothing
	Crash    string   // how it died without a word; "" if it did not
	Attempts int      // how often the write was begun, this one included
}

// Failure is what a worker says when it cannot go on.
type Failure struct {
	Error string   `json:"error"`
	Hints []string `json:"hints,omitempty"`
	Stage string   `json:"stage"`
}

// Action is what the machine does next.
type Action int

// The actions.
const (
	GoBack   Action = iota // report, boot the old system
	TryAgain               // write once more from RAM
	Hold                   // stop and say what to do
	GoOn                   // boot the new system
)

func (a Action) String() string {
	return [...]string{"boot the old system", "write again", "hold", "boot the new system"}[a]
}

// maxAttempts is how often a disk is written before it counts as broken.
const maxAttempts = 3

// decide is the one place where a failure gets its meaning. Before casting off the
// old system is whole, so the machine goes back to it. After it nothing but the
// image in RAM can save the machine, so it is never left by a reboot: it tries
// again, and then holds, with image and retained files still in RAM.
func decide(c config.Failure, e Ending) Action {
	failed := e.Failure != nil || e.Crash != ""
	switch {
	case e.Phase == PhaseLanded:
		return GoOn // whatever came after: the disk is complete
	case e.Phase == PhaseCastOff:
		if c.AfterWrite == "retry" && e.Attempts < maxAttempts {
			return TryAgain
		}
		return Hold
	case failed && c.BeforeWrite == "hold":
		return Hold
	}
	return GoBack
}

// holdText tells whoever stands before a machine that holds what to do.
func holdText(e Ending) []string {
	if e.Phase != PhaseCastOff {
		return []string{
			"THE MACHINE HOLDS: the reimage failed before anything was changed.",
			"Switch it off and on again: it boots its old system.",
		}
	}
	if e.Failure != nil && e.Failure.Stage == "restore" {
		return []string{
			"THE MACHINE HOLDS: the new system is on the disk, but the machine's own files",
			"could not be put back. DO NOT SWITCH IT OFF: they are only in its memory, and the",
			"disk does not boot. Note the error above, and call whoever looks after this machine.",
		}
	}
	return []string{
		"THE MACHINE HOLDS: the new system could not be written completely.",
		"DO NOT SWITCH IT OFF unless you are ready to write its disk anew:",
		"the new image and the machine's own files are only in its memory,",
		"and the disk does not boot. Note the error above, look after the disk",
		"and its cable, and call whoever looks after this machine.",
	}
}
