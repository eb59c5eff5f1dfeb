package stages

import (
	"os"
	"path/filepath"
	"testing"

	"reimager/config"
	"reimager/report"
)

// The link is left for each log directory, in place of one that came with retained files.
func TestPointTo(t *testing.T) {
	dir := t.TempDir()
	system, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer system.Close()
	for _, want := range []string{"/kiosk/log", config.Default().New.LogDir} {
		if err := pointTo(system, want); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(filepath.Join(dir, report.LogPointer)); err != nil || got != want {
			t.Errorf("link to %q, %v; want %q", got, err, want)
		}
	}
}
