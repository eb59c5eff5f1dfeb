package boot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Arguments that make the test binary one of the processes that Settle needs.
const (
	argThawGuard = "test-thaw-guard"
	argFreeze    = "test-freeze-and-wait"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case argThawGuard:
			exit(RunThawGuard())
		case argFreeze:
			exit(freezeAndWait(os.Args[2]))
		}
	}
	os.Exit(m.Run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// freezeAndWait never thaws: the test kills it, or ends its stdin.
func freezeAndWait(dir string) error {
	if _, err := freeze(dir, SelfGuard(argThawGuard)); err != nil {
		return err
	}
	if _, err := fmt.Println("frozen"); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func needTool(t *testing.T, name string) string {
	t.Helper()
	file, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrNotFound) {
		// Not in every user's PATH.
		if sbin := filepath.Join("/usr/sbin", name); fileExists(sbin) {
			return sbin
		}
	}
	if err != nil {
		skipOrFail(t, "this test needs "+name+", which is not installed")
	}
	return file
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		skipOrFail(t, "this test mounts and freezes filesystems: it must run as root")
	}
}

func skipOrFail(t *testing.T, sentence string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(sentence)
	}
	t.Skip(sentence)
}

func fileExists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(needTool(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func writeFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// checkError compares an error's text with a part that it must have; "" is none.
func checkError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Fatalf("error = %v; want none", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Fatalf("error = %v; want one with %q", err, want)
	}
}
