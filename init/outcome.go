package main

import (
	"time"

	"reimager/config"
)

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
	Over     *Over    // the run was not done, or not again
	// Rehearsed says that all was done that comes before casting off, and passed.
	Rehearsed bool
	// Boarded says that the lifeboat is complete, and that the old system's boot loader
	// will start it.
	Boarded bool
	// Aboard says that this start is the lifeboat's: a reset comes back here once the old
	// system is gone, and leads to that before.
	Aboard bool
	// Hung says that the worker cannot be killed: it holds the disk, so that no other one
	// can go on.
	Hung bool
	// Starts is how often the lifeboat was started before.
	Starts int
	// Media says that the machine was started from a stick: what is on its disk may not
	// boot, and a reboot may come back here.
	Media bool
}

// Over is what a worker says when this run is over already.
type Over struct {
	Why   string `json:"why"`
	New   bool   `json:"new,omitempty"` // the new system is on the disk
	Leave Leave  `json:"leave"`
	// Stuck says why there is no way to the system that is on the disk; only with Stay.
	Stuck string `json:"stuck,omitempty"`
}

// Leave is how a machine gets to the system that is on its disk.
type Leave string

// The ways. A machine whose boot loader would come back here needs kexec.
const (
	ByReboot Leave = "reboot"
	ByKexec  Leave = "kexec" // a kernel is loaded
	Stay     Leave = "stay"  // there is no way
)

// Failure is what a worker says when it cannot go on.
type Failure struct {
	Error string   `json:"error"`
	Hints []string `json:"hints,omitempty"`
	Stage string   `json:"stage"`
	// Back says that somebody wants the old system, whatever the configuration says.
	Back bool `json:"back,omitempty"`
}

// Action is what the machine does next.
type Action int

// The actions.
const (
	GoBack   Action = iota // report, boot the old system
	TryAgain               // write once more from RAM
	Hold                   // stop and say what to do
	GoOn                   // boot the new system
	Embark                 // have the old system's boot loader start the lifeboat
	Restart                // start the lifeboat once more
)

func (a Action) String() string {
	return [...]string{"boot the old system", "write again", "hold", "boot the new system", "start the lifeboat", "restart the lifeboat"}[a]
}

// maxAttempts is how often a disk is written before it counts as broken.
const maxAttempts = 3

// maxRestarts is how often a lifeboat restarts before its disk counts as broken.
const maxRestarts = 10

// decide is the one place where a failure gets its meaning. Before casting off the
// old system is whole, so the machine goes back to it. After it nothing but the
// image in RAM can save the machine, so it is never left by a reboot: it tries
// again, and then holds, with image and retained files still in RAM. A stick has no old
// system to go back to: it holds where another run would go back. A run that is over
// leads to the system that it has left, and a machine that knows no way there holds. A
// lifeboat that does not get so far as to know what is on the disk restarts: sector 0
// decides. A lifeboat restarts, too, when its worker hangs in the kernel: a reset costs
// nothing there, and may be what a driver or disk needs.
func decide(c config.Failure, e Ending) Action {
	failed := e.Failure != nil || e.Crash != ""
	switch {
	case e.Phase == PhaseLanded:
		return GoOn // whatever came after: the disk is complete
	case e.Phase == PhaseCastOff && e.Aboard && e.Hung && c.AfterWrite == "retry" && e.Starts < maxRestarts:
		return Restart
	case e.Phase == PhaseCastOff:
		if c.AfterWrite == "retry" && e.Attempts < maxAttempts {
			return TryAgain
		}
		return Hold
	case e.Boarded:
		return Embark
	case e.Over != nil && e.Over.Leave == Stay:
		return Hold
	case e.Over != nil && e.Over.New:
		return GoOn
	case e.Over != nil || e.Rehearsed || e.Failure != nil && e.Failure.Back:
		return GoBack
	case e.Aboard && e.Phase == PhaseWake:
		return GoBack
	case failed && c.BeforeWrite == "hold":
		return Hold
	case e.Media:
		return Hold
	}
	return GoBack
}

// holdsFor is how long a machine holds before it tries again; 0 is for ever. After the
// first attempts the disk counts as broken, but what is in memory can still save the
// machine, and a disk or its link may come back.
func holdsFor(c config.Failure, e Ending) time.Duration {
	if e.Phase == PhaseCastOff && c.AfterWrite == "retry" {
		return 15 * time.Minute
	}
	return 0
}

// holdText tells whoever stands before a machine that holds what to do.
func holdText(e Ending) []string {
	if e.Media && e.Phase != PhaseCastOff {
		return []string{
			"THE MACHINE HOLDS: it was started from a stick, and nothing was changed on its disk.",
			"Note the error above. Switch it off and on again to choose once more in the stick's menu;",
			"without the stick it starts its own disk, as far as that boots.",
		}
	}
	if e.Over != nil && e.Phase != PhaseCastOff {
		return []string{
			"THE MACHINE HOLDS: this run is over, the boot loader started it again,",
			"and no other way was found to the system that is on the disk.",
			"Nothing was changed. Choose another entry in the boot menu, or start a rescue system and",
			"remove next_entry from GRUB's environment: grub-editenv GRUBENV unset next_entry",
		}
	}
	if e.Phase != PhaseCastOff {
		return []string{
			"THE MACHINE HOLDS: the reimage failed before anything was changed.",
			"Switch it off and on again: it boots its old system.",
		}
	}
	if e.Aboard {
		return []string{
			"THE MACHINE HOLDS: the new system could not be written completely.",
			"Switching it off does no harm: the image and the machine's own files lie on its disk,",
			"as far as that can be read, and each start tries again. Note the error above, look",
			"after the disk and its cable, and call whoever looks after this machine.",
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
