package boot

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRebootOrder(t *testing.T) {
	trigger := filepath.Join(t.TempDir(), "sysrq-trigger")
	writeFile(t, trigger, "")
	var steps []string
	err := Restarter{
		Sync:    func() { steps = append(steps, "sync after "+readFile(t, trigger)) },
		Trigger: trigger,
		Restart: func() error {
			steps = append(steps, "restart after "+readFile(t, trigger))
			return syscall.EPERM
		},
	}.Reboot()
	if diff := cmp.Diff([]string{"sync after ", "restart after sub"}, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if !errors.Is(err, syscall.EPERM) {
		t.Errorf("Reboot = %v; want EPERM in it", err)
	}
}

func TestRebootReturnsNoNil(t *testing.T) {
	trigger := filepath.Join(t.TempDir(), "sysrq-trigger")
	writeFile(t, trigger, "")
	err := Restarter{Sync: func() {}, Trigger: trigger, Restart: func() error { return nil }}.Reboot()
	checkError(t, err, "still running")
}

func TestRebootWithoutSysrq(t *testing.T) {
	restarts := 0
	err := Restarter{
		Sync:    func() {},
		Trigger: filepath.Join(t.TempDir(), "missing"),
		Restart: func() error { restarts++; return nil },
	}.Reboot()
	if restarts != 1 {
		t.Errorf("reboot(2) called %d times; want 1", restarts)
	}
	for _, key := range []string{"s", "u", "b"} {
		if !strings.Contains(err.Error(), "send sysrq "+key) {
			t.Errorf("error %q does not tell of sysrq %s", err, key)
		}
	}
}
