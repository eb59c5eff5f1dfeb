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
