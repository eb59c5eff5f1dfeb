package boot

import (
	"bytes"
	"fmt"
)

// GateState says whether a run may begin.
type GateState string

// The states of a gate. They have the same length and lie in the first sector of the
// block, so that overwriting one by the other changes nothing else, and a power cut
// leaves either.
const (
	GateArmed GateState = "armed"
	GateTried GateState = "tried"
)

// The variables of a gate. GRUB's load_env is given both names, so that nothing
// else that the block may hold comes into GRUB's environment.
const (
	gateVar    = "reimager_gate"
	gateRunVar = "reimager_run"
	// gateDiskVar is where GRUB finds the gate; $root stays as it is.
	gateDiskVar = "reimager_disk"
)

// Gate returns the file that lets the entry of a run exist: a GRUB environment
// block. Arming writes it as GateArmed; the run overwrites it as GateTried before
// it does anything else.
func Gate(runID string, state GateState) ([]byte, error) {
	if err := checkRunID(runID); err != nil {
		return nil, fmt.Errorf("make gate: %w", err)
	}
	env := &Env{}
	for _, v := range [][2]string{{gateVar, string(state)}, {gateRunVar, runID}} {
		if err := env.Set(v[0], v[1]); err != nil {
			return nil, fmt.Errorf("make gate: %w", err)
		}
	}
	return env.Encode(), nil
}

// ReadGate tells the state of a run's gate. Anything but the very bytes that Gate
// makes for that run is an error: it is another run's, or damaged.
func ReadGate(runID string, block []byte) (GateState, error) {
	for _, state := range []GateState{GateArmed, GateTried} {
		want, err := Gate(runID, state)
		if err != nil {
			return "", err
		}
		if bytes.Equal(block, want) {
			return state, nil
		}
	}
	env, err := ParseEnv(block)
	if err != nil {
		return "", fmt.Errorf("read gate: %w", err)
	}
	run, _ := env.Get(gateRunVar)
	state, _ := env.Get(gateVar)
	return "", fmt.Errorf("read gate: it says %q of run %q, expected run %q", state, run, runID)
}

// checkRunID keeps a run id to what needs no quoting in GRUB's script: arm makes
// it of letters and digits.
func checkRunID(id string) error {
	if id == "" || len(id) > 64 {
		return fmt.Errorf("run id %q has %d bytes, expected 1 to 64", id, len(id))
	}
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return fmt.Errorf("run id %q: expected letters and digits", id)
		}
	}
	return nil
}
