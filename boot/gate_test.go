package boot

import (
	"bytes"
	"strings"
	"testing"
)

func testGate(t *testing.T, runID string, state GateState) []byte {
	t.Helper()
	block, err := Gate(runID, state)
	if err != nil {
		t.Fatal(err)
	}
	return block
}

func TestReadGate(t *testing.T) {
	armed, tried := testGate(t, "RUN7", GateArmed), testGate(t, "RUN7", GateTried)
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
		err   string
	}{
		{"armed", armed, GateArmed, ""},
		{"tried", tried, GateTried, ""},
		{"other run", testGate(t, "RUN8", GateArmed), "", `it says "armed" of run "RUN8", expected run "RUN7"`},
		{"other word", bytes.Replace(armed, []byte("armed"), []byte("ARMED"), 1), "", `it says "ARMED"`},
		{"something added", bytes.Replace(armed, []byte("######"), []byte("a=bcd\n"), 1), "", `it says "armed" of run "RUN7"`},
		{"cut short", armed[:512], "", "512 bytes"},
		{"zeros", make([]byte, EnvSize), "", "does not start with"},
		{"nothing", nil, "", "0 bytes"},
	} {
		got, err := ReadGate("RUN7", tt.block)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: ReadGate = %q, %v; want %q, %q", tt.name, got, err, tt.want, tt.err)
		}
	}
}

func TestGateRefuses(t *testing.T) {
	for _, id := range []string{"", "a b", "a'b", "a\nb", strings.Repeat("x", 65)} {
		if block, err := Gate(id, GateArmed); err == nil {
			t.Errorf("Gate(%q) = %q; want an error", id, block)
		}
	}
}
