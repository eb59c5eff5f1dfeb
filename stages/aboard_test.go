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

// Of a disk and its copies the one is meant that boarded, or none.
func TestTheOne(t *testing.T) {
	on := func(serial string) *Aboard {
		return &Aboard{passage: passage{Gathered: gathered{Disk: disk.Disk{Serial: "A1"}}}, disk: disk.Disk{Serial: serial}}
	}
	for _, tt := range []struct {
		name    string
		serials []string
		want    int // index; -1: an error
	}{
		{"the only one", []string{"A1"}, 0},
		{"the only one, in another adapter", []string{"B2"}, 0},
		{"a copy first", []string{"B2", "A1"}, 1},
		{"two copies", []string{"B2", "C3"}, -1},
		{"two that cannot be told apart", []string{"A1", "A1"}, -1},
	} {
		var found []*Aboard
		for _, serial := range tt.serials {
			found = append(found, on(serial))
		}
		got, err := theOne(found)
		if (err != nil) != (tt.want < 0) || err == nil && got != found[tt.want] {
			t.Errorf("%s: theOne = %+v, %v", tt.name, got, err)
		}
	}
}
