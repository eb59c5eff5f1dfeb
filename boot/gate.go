package boot

import (
	"bytes"
	"fmt"
	"strconv"
)

// GateState says whether a run may begin.
type GateState string

// The states of a gate. They have the same length and lie in the first sector of the
// block, as the berth does, so that overwriting one by the other changes nothing else,
// and a power cut leaves either.
const (
	GateArmed GateState = "armed"
	GateTried GateState = "tried"
	// GateProve has the boot loader start the lifeboat once, from the berth that the
	// gate names; it writes GateTried before it does.
	GateProve GateState = "prove"
)

// The variables of a gate. GRUB's load_env is given their names, so that nothing
// else that the block may hold comes into GRUB's environment.
const (
	gateVar      = "reimager_gate"
	gateRunVar   = "reimager_run"
	gateBerthVar = "reimager_berth"
	// gateDiskVar is where GRUB finds the gate; $root stays as it is.
	gateDiskVar = "reimager_disk"
)

// gateBerthDigits of a 64-bit number: GRUB takes one that begins with 0 for octal, so a
// fixed width asks for hexadecimal.
const gateBerthDigits = 16

// Gate returns the file that lets the entry of a run exist: a GRUB environment
// block. Arming writes it as GateArmed; the run overwrites it as GateTried before
// it does anything else. berth is the first sector of the berth in units of
// SectorBytes: a gate that is to be proven has one, an armed one has 0, and one that was
// tried keeps what it had.
func Gate(runID string, state GateState, berth int64) ([]byte, error) {
	if err := CheckRunID(runID); err != nil {
		return nil, fmt.Errorf("make gate: %w", err)
	}
	if berth < 0 || state == GateArmed && berth != 0 || state == GateProve && berth == 0 {
		return nil, fmt.Errorf("make gate: state %q with berth %d", state, berth)
	}
	env := &Env{}
	for _, v := range [][2]string{
		{gateVar, string(state)},
		{gateBerthVar, fmt.Sprintf("0x%0*x", gateBerthDigits, berth)},
		{gateRunVar, runID},
	} {
		if err := env.Set(v[0], v[1]); err != nil {
			return nil, fmt.Errorf("make gate: %w", err)
		}
	}
	return env.Encode(), nil
}

// ReadGate tells the state of a run's gate, and the berth that it names. Anything but
// the very bytes that Gate makes for that run is an error: it is another run's, or
// damaged.
func ReadGate(runID string, block []byte) (state GateState, berth int64, err error) {
	env, err := ParseEnv(block)
	if err != nil {
		return "", 0, fmt.Errorf("read gate: %w", err)
	}
	run, _ := env.Get(gateRunVar)
	word, _ := env.Get(gateVar)
	number, _ := env.Get(gateBerthVar)
	berth, err = strconv.ParseInt(number, 0, 64)
	if err == nil {
		for _, state := range []GateState{GateArmed, GateTried, GateProve} {
			want, err := Gate(runID, state, berth)
			if err == nil && bytes.Equal(block, want) {
				return state, berth, nil
			}
		}
	}
	return "", 0, fmt.Errorf("read gate: it says %q of run %q and berth %q, expected run %q", word, run, number, runID)
}

// CheckRunID keeps a run id to what needs no quoting in GRUB's script: arm makes
// it of letters and digits.
func CheckRunID(id string) error {
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
