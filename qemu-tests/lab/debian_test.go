package lab

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"reimager/report"
)

// needDebian says loudly what is missing.
func needDebian(t *testing.T) Cache {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and boots Debian systems; run without -short")
	}
	needRoot(t)
	for _, tool := range []string{"mmdebstrap", "qemu-system-x86_64", "fstrim"} {
		if _, err := lookTool(tool); err != nil {
			t.Fatalf("%s is missing, no Debian was built and nothing was tested: apt-get install %s %s", tool, Packages, DebianPackages)
		}
	}
	cache, err := OpenCache()
	if err != nil {
		t.Fatal(err)
	}
	return cache
}

func TestDebianBoots(t *testing.T) {
	cache := needDebian(t)
	for _, spec := range []DebianSpec{OldDebian(), NewDebian()} {
		t.Run(spec.Suite, func(t *testing.T) {
			start := time.Now()
			built, err := BuildDebian(t.Context(), cache, spec)
			if err != nil {
				t.Fatal(report.Explain(err))
			}
			t.Logf("built or found in %.1f s", time.Since(start).Seconds())
			path := filepath.Join(t.TempDir(), "disk")
			if err := CopySparse(path, built.Disk.Path); err != nil {
				t.Fatal(err)
			}
			checkDebian(t, path, spec)
			script := "#!/bin/sh\nuname -r\nstat -c '%n %u %a' /var/lib/atm\ncat /etc/machine-id\necho \"STATE $(systemctl is-system-running)\"\n"
			tree := Tree{Text("root/run", 0o755, script)}
			if err := InjectFiles(t.Context(), path, spec.RootPartition, tree); err != nil {
				t.Fatal(err)
			}
			vm, ctx := startVM(t, Config{Drives: []Drive{{Path: path}}, NoReboot: true})
			if err := vm.WaitFor(ctx, spec.LoginPrompt()); err != nil {
				t.Fatal(err)
			}
			for _, line := range vm.Console.Lines() {
				if strings.Contains(line.Text, spec.LoginPrompt()) {
					t.Logf("login prompt after %.1f s", line.At.Seconds())
				}
			}
			if err := vm.WaitFor(ctx, "STATE "); err != nil {
				t.Fatal(err)
			}
			t.Logf("console:\n%s", vm.Console.Last(60))
			console := string(vm.Console.Bytes())
			for _, want := range []string{built.Kernel.Version, spec.MachineID} {
				if !strings.Contains(console, want) {
					t.Errorf("console lacks %q", want)
				}
			}
		})
	}
}

func checkDebian(t *testing.T, path string, spec DebianSpec) {
	for _, file := range []string{"/boot/grub/grub.cfg", "/etc/passwd"} {
		content, err := ReadFile(t.Context(), path, spec.RootPartition, file)
		if err != nil {
			t.Fatal(err)
		}
		_ = bufio.NewReader(strings.NewReader(string(content)))
	}
}

var _ = context.Background
var _ = errors.Is
var _ = os.Getenv
