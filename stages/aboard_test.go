package stages

import (
	"testing"

	"reimager/disk"
)

// Only a lifeboat that is known, and not needed, is cleared away.
func TestAbandonSpares(t *testing.T) {
	r := &Run{}
	if err := r.Abandon(); err != nil {
		t.Errorf("Abandon without a lifeboat = %v", err)
	}
	there := disk.Disk{Path: t.TempDir() + "/none"} // touching it is an error
	r.aboard = &Aboard{disk: there, gone: true}
	if err := r.Abandon(); err != nil {
		t.Errorf("Abandon when the old system is gone = %v", err)
	}
	r.aboard.gone = false
	if err := r.Abandon(); err == nil {
		t.Error("Abandon of a disk that is not there = nil")
	}
}

// A rehearsal stays one aboard, until the old system is gone, which it never should be.
func TestReturnsAboard(t *testing.T) {
	for _, tt := range []struct{ rehearse, gone, want bool }{{false, false, false}, {true, false, true}, {true, true, false}} {
		r := &Run{aboard: &Aboard{passage: passage{Rehearse: tt.rehearse}, gone: tt.gone}}
		if got := r.Returns(); got != tt.want {
			t.Errorf("Returns with %+v = %v", tt, got)
		}
	}
}
