package boot

import (
	"bytes"
	"strings"
	"testing"
)

func testGate(t *testing.T, runID string, state GateState) []byte {
	t.Helper()
	berth := int64(0)
	if state == GateProve {
		berth = berthSector
	}
	block, err := Gate(runID, state, berth)
	if err != nil {
		t.Fatal(err)
	}
	return block
}

func TestReadGate(t *testing.T) {
	armed, tried, prove := testGate(t, "RUN7", GateArmed), testGate(t, "RUN7", GateTried), testGate(t, "RUN7", GateProve)
	proven := bytes.Replace(prove, []byte(GateProve), []byte(GateTried), 1) // as GRUB writes it
	octal := bytes.Replace(armed, []byte("0x00"), []byte("0000"), 1)
	if len(armed) != EnvSize || len(tried) != EnvSize {
		t.Fatalf("gates of %d and %d bytes; want %d", len(armed), len(tried), EnvSize)
	}
	differing := 0
	for i := range armed {
		if armed[i] != tried[i] {
			differing++
		}
	}
	if differing == 0 || differing > len(GateArmed) {
		t.Errorf("the states differ in %d bytes; want at most the word", differing)
	}
	for _, tt := range []struct {
		name  string
		block []byte
		want  GateState
		berth int64
		err   string
	}{
		{"armed", armed, GateArmed, 0, ""},
		{"tried", tried, GateTried, 0, ""},
		{"to be proven", prove, GateProve, berthSector, ""},
		{"proven", proven, GateTried, berthSector, ""},
		{"armed with a berth", bytes.Replace(prove, []byte(GateProve), []byte(GateArmed), 1), "", 0, `it says "armed"`},
		{"to be proven without a berth", bytes.Replace(armed, []byte(GateArmed), []byte(GateProve), 1), "", 0, `it says "prove"`},
		{"berth of another form", octal, "", 0, `it says "armed" of run "RUN7" and berth "0000`},
		{"other run", testGate(t, "RUN8", GateArmed), "", 0, `it says "armed" of run "RUN8" and berth "0x0000000000000000", expected run "RUN7"`},
		{"other word", bytes.Replace(armed, []byte("armed"), []byte("ARMED"), 1), "", 0, `it says "ARMED"`},
		{"something added", bytes.Replace(armed, []byte("######"), []byte("a=bcd\n"), 1), "", 0, `it says "armed" of run "RUN7"`},
		{"cut short", armed[:512], "", 0, "512 bytes"},
		{"zeros", make([]byte, EnvSize), "", 0, "does not start with"},
		{"nothing", nil, "", 0, "0 bytes"},
	} {
		got, berth, err := ReadGate("RUN7", tt.block)
		if got != tt.want || err == nil && berth != tt.berth || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: ReadGate = %q, %d, %v; want %q, %d, %q", tt.name, got, berth, err, tt.want, tt.berth, tt.err)
		}
	}
}

func TestGateRefuses(t *testing.T) {
	for _, id := range []string{"", "a b", "a'b", "a\nb", strings.Repeat("x", 65)} {
		if block, err := Gate(id, GateArmed, 0); err == nil {
			t.Errorf("Gate(%q) = %q; want an error", id, block)
		}
	}
}
