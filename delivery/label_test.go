package delivery

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What init leaves is labelled like its folder, and only where the system has labels.
func TestInstallLabels(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("setting security.selinux needs root")
	}
	labels := map[string]string{"etc": "etc_t", "etc/systemd/system": "unit_t", "usr/local/sbin": "bin_t", "var": "var_t"}
	want := map[string]string{
		"etc/reimager": "etc_t", SettingsPath: "etc_t", carriedPath: "bin_t",
		unitPath: "unit_t", filepath.Dir(wantsPath): "unit_t", wantsPath: "unit_t",
	}
	program := filepath.Join(t.TempDir(), "reimager")
	write(t, filepath.Dir(program), "reimager", "the program", 0o755)
	for _, labelled := range []bool{true, false} {
		dir := t.TempDir()
		write(t, dir, "usr/lib/systemd/systemd", "", 0o755)
		for name, value := range labels {
			name = filepath.Join(dir, name)
			if err := os.MkdirAll(name, 0o755); err != nil {
				t.Fatal(err)
			}
			if !labelled {
				continue
			}
			if err := unix.Lsetxattr(name, selinux, []byte(value), 0); err != nil {
				t.Fatalf("label %s: %v", name, err)
			}
		}
		for range 2 {
			if _, err := Install(openRoot(t, dir), Settings{LogDir: "/log", To: toFile()}, program); err != nil {
				t.Fatal(err)
			}
		}
		for name, value := range want {
			buf := make([]byte, 100)
			n, err := unix.Lgetxattr(filepath.Join(dir, name), selinux, buf)
			if got := string(buf[:max(n, 0)]); labelled && (err != nil || got != value) || !labelled && err != unix.ENODATA {
				t.Errorf("labels %v: %s has %q, %v; want %q", labelled, name, got, err, value)
			}
		}
	}
}
