package retain

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// childRoot names the folder in which the test's own binary captures "old" into
// "archive" and restores that into "new", as a process of its own.
const childRoot = "RETAIN_TEST_CHILD_ROOT"

// 10,000 small files are captured and put back with at most 64 MiB beside their archive.
func TestMemory(t *testing.T) {
	if base := os.Getenv(childRoot); base != "" {
		check(t, roundTripInChild(base))
		return
	}
	base, err := os.MkdirTemp("/dev/shm", "retain-")
	check(t, err)
	defer os.RemoveAll(base)
	for i := range 10_000 {
		dir := filepath.Join(base, "old/k", fmt.Sprint(i/100))
		check(t, os.MkdirAll(dir, 0o755))
		check(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), make([]byte, 1000), 0o644))
	}
	check(t, os.Mkdir(filepath.Join(base, "new"), 0o755))
	cmd := exec.Command(os.Args[0], "-test.run", "^TestMemory$")
	cmd.Env = append(os.Environ(), childRoot+"="+base, "GOMAXPROCS=2")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("capture and restore in a child: %v: %s", err, out)
	}
	var kilobytes int64
	if _, err := fmt.Sscanf(string(out), "VmHWM: %d kB", &kilobytes); err != nil {
		t.Fatalf("child said %q: %v", out, err)
	}
	t.Logf("%d MiB", kilobytes>>10)
	if kilobytes > 64<<10 {
		t.Errorf("%d MiB; want at most 64", kilobytes>>10)
	}
}

// roundTripInChild prints what this process has had in memory at most.
func roundTripInChild(base string) error {
	list, err := ParseList("list", strings.NewReader("/k\n"))
	if err != nil {
		return err
	}
	plan, err := Scan(context.Background(), filepath.Join(base, "old"), list)
	if err != nil {
		return err
	}
	archive, err := os.Create(filepath.Join(base, "archive"))
	if err != nil {
		return err
	}
	defer archive.Close()
	if _, err := Capture(context.Background(), plan, archive, nil); err != nil {
		return err
	}
	if _, err := archive.Seek(0, 0); err != nil {
		return err
	}
	report, err := Restore(context.Background(), filepath.Join(base, "new"), archive, Options{})
	if err != nil {
		return err
	}
	if n := len(report.Entries); n != 10_101 {
		return fmt.Errorf("%d files and folders are back; want 10101", n)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM:") {
			fmt.Print(line)
			return nil
		}
	}
	return errors.New("no VmHWM in /proc/self/status")
}
