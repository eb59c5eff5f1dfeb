package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/report"
)

// bzImage is the header of a kernel of a version: Documentation/arch/x86/boot.rst.
func bzImage(version string) string {
	b := make([]byte, 4096)
	b[0x1f1], b[0x1fe], b[0x1ff], b[0x211] = 4, 0x55, 0xaa, 1
	copy(b[0x202:], "HdrS")
	b[0x206], b[0x207], b[0x20f] = 0x0f, 0x02, 0x04
	copy(b[0x600:], version+" (builder@host) #1 SMP\x00")
	return string(b)
}

func TestBootedFiles(t *testing.T) {
	const release = "6.1.0-1"
	for _, tt := range []struct {
		name, cmdline string
		files         map[string]string
		want          []string // kernel, initrd, parameters
	}{
		{"Debian, /boot on the root", "BOOT_IMAGE=/boot/vmlinuz-6.1.0-1 root=UUID=1 ro quiet\n",
			map[string]string{"boot/vmlinuz-6.1.0-1": release, "boot/initrd.img-6.1.0-1": ""},
			[]string{"boot/vmlinuz-6.1.0-1", "boot/initrd.img-6.1.0-1", "root=UUID=1 ro quiet"}},
		{"Red Hat, /boot a partition", "BOOT_IMAGE=(hd0,gpt2)/vmlinuz-6.1.0-1 root=/dev/sda3 initrd=x\n",
			map[string]string{"boot/vmlinuz-6.1.0-1": release, "boot/initramfs-6.1.0-1.img": ""},
			[]string{"boot/vmlinuz-6.1.0-1", "boot/initramfs-6.1.0-1.img", "root=/dev/sda3"}},
		{"no word of it", "root=/dev/sda2", map[string]string{"boot/vmlinuz-6.1.0-1": release, "boot/initrd.img-6.1.0-1": ""},
			[]string{"boot/vmlinuz-6.1.0-1", "boot/initrd.img-6.1.0-1", "root=/dev/sda2"}},
		{"plain names", "BOOT_IMAGE=/vmlinuz root=/dev/sda2", map[string]string{"boot/vmlinuz": release, "boot/initrd.img": ""},
			[]string{"boot/vmlinuz", "boot/initrd.img", "root=/dev/sda2"}},
		{"updated since it booted", "BOOT_IMAGE=/vmlinuz root=/dev/sda2", map[string]string{"boot/vmlinuz": "6.1.0-2", "boot/initrd.img": ""},
			[]string{"", "", "root=/dev/sda2"}},
		{"no initrd", "BOOT_IMAGE=/vmlinuz-6.1.0-1", map[string]string{"boot/vmlinuz-6.1.0-1": release}, []string{"boot/vmlinuz-6.1.0-1", "", ""}},
		{"an initrd of another kernel", "BOOT_IMAGE=/vmlinuz-6.1.0-1", map[string]string{"boot/vmlinuz-6.1.0-1": release, "boot/initrd.img": ""}, []string{"boot/vmlinuz-6.1.0-1", "", ""}},
		{"up and away", "BOOT_IMAGE=/../../../etc/passwd x", map[string]string{"boot/a": ""}, []string{"", "", "x"}},
	} {
		root := t.TempDir()
		for name, version := range tt.files {
			content := "an initrd"
			if version != "" {
				content = bzImage(version)
			}
			full := filepath.Join(root, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(content), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		kernel, initrd, parameters := bootedFiles(root, tt.cmdline, release)
		got := []string{strings.TrimPrefix(kernel, root+"/"), strings.TrimPrefix(initrd, root+"/"), parameters}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// A rehearsal's record outlives the report file that the next arm makes; anything else
// does not become one.
func TestKeepRehearsal(t *testing.T) {
	for _, tt := range []struct {
		outcome string
		kept    bool
	}{{"rehearsed", true}, {"failed", false}, {"", false}} {
		dir := t.TempDir()
		file, keep := filepath.Join(dir, "report"), filepath.Join(dir, "rehearsal.json")
		content := report.EmptyFile("RUN", report.FileBytes)
		if tt.outcome != "" {
			blocks, err := report.FileBlocks("RUN", report.FileBytes, &report.Record{RunID: "RUN", Outcome: tt.outcome}, []byte("log\n"))
			if err != nil {
				t.Fatal(err)
			}
			content = nil
			for _, b := range blocks {
				content = append(content, b...)
			}
		}
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 { // arming twice
			if err := keepRehearsal(file, keep); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(keep)
		if (err == nil) != tt.kept || tt.kept && !strings.Contains(string(text), `"run_id": "RUN"`) {
			t.Errorf("%q: kept %q, %v; want kept: %t", tt.outcome, text, err, tt.kept)
		}
	}
}
