package vm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"reimager/report"
)

// TestDrivesAreAccepted starts QEMU paused: it reads its whole command line
// and opens every drive.
func TestDrivesAreAccepted(t *testing.T) {
	if _, err := FindProgram("qemu-system-x86_64"); err != nil {
		t.Fatalf("nothing was tested: %s", report.Explain(err))
	}
	dir := t.TempDir()
	path := func(name string) string {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(file, nil, 0o644), os.Truncate(file, 8<<20)); err != nil {
			t.Fatal(err)
		}
		return file
	}
	faulty, err := FaultyBlockdev(4, path("faulty"), Fault{Sector: 7, IOType: "write"}, Fault{Sector: -1, IOType: "flush", Once: true})
	if err != nil {
		t.Fatal(err)
	}
	slow, extra, err := ThrottledBlockdev(5, path("slow"), 10<<20)
	if err != nil {
		t.Fatal(err)
	}
	guest, err := Start(t.Context(), Config{
		Accel: "tcg", MemoryMiB: 64, Extra: append(extra, "-S"), Log: t.Logf,
		Drives: []Drive{
			{Path: path("comma,and space")}, {Path: path("usb"), Bus: USB, Snapshot: true},
			{Path: path("nvme"), Bus: NVMe}, {Path: path("virtio"), Bus: VirtIO, ReadOnly: true},
			{Blockdev: faulty}, {Blockdev: slow, Serial: "SLOW", Device: ",bootindex=1"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := guest.HMP(t.Context(), "info block")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"drive0", "drive1", "drive2", "drive3", "drive4", "drive5", "comma,and space", "blkdebug", "read-only"} {
		if !strings.Contains(tree, want) {
			t.Errorf("info block lacks %q:\n%s", want, tree)
		}
	}
	if err := guest.Quit(t.Context()); err != nil {
		t.Error(err)
	}
	if got := guest.ExitReason(); got != "host-qmp-quit" {
		t.Errorf("ExitReason = %q; want host-qmp-quit", got)
	}
}

func TestStartReportsQEMUsWords(t *testing.T) {
	_, err := Start(t.Context(), Config{Accel: "tcg", Drives: []Drive{{Path: "/absent/disk"}}})
	if err == nil || !strings.Contains(err.Error(), "/absent/disk") || !strings.Contains(err.Error(), "qemu-system-x86_64 -nodefaults") {
		t.Errorf("Start = %v; want an error with QEMU's message and the command", err)
	}
}
