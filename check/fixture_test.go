package check

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fixture makes a machine out of files and links; a path ends in / for a directory.
func fixture(t *testing.T, files, links map[string]string) Host {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		full := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(full, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range links {
		full := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.Symlink(to, full)); err != nil {
			t.Fatal(err)
		}
	}
	return Host{Root: filepath.Join(dir, "root"), Sys: filepath.Join(dir, "sys"), Dev: filepath.Join(dir, "dev"), Proc: filepath.Join(dir, "proc")}
}

// expect compares verdict and text of a result.
func expect(t *testing.T, what string, got Result, verdict Verdict, text string) {
	t.Helper()
	if got.Verdict != verdict || !strings.Contains(got.Found, text) {
		t.Errorf("%s: %s %s %q; want %s with %q", what, got.Verdict, got.Name, got.Found, verdict, text)
	}
	if got.Verdict == Fail && got.Hint == "" {
		t.Errorf("%s: %q fails without a hint", what, got.Found)
	}
}
