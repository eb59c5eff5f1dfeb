package boot

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// mountImage makes a filesystem in a file and mounts it for the test.
func mountImage(t *testing.T, fsType string) (image, mountPoint string) {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	image, mountPoint = filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	writeFile(t, image, "")
	if err := os.Truncate(image, 16<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs."+fsType, image)
	if err := os.Mkdir(mountPoint, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-o", "loop", image, mountPoint)
	t.Cleanup(func() { run(t, "umount", mountPoint) })
	return image, mountPoint
}

func guardSelf() GuardCommand { return SelfGuard(argThawGuard) }

// onDisk reads a file as GRUB would, without the journal and without the
// kernel's cache of the filesystem.
func onDisk(t *testing.T, image, name string) string {
	t.Helper()
	out, err := exec.Command(needTool(t, "debugfs"), "-R", "cat "+name, image).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestSettleMakesFilesVisible(t *testing.T) {
	image, mountPoint := mountImage(t, "ext4")
	if got := onDisk(t, image, "/f"); got != "" {
		t.Fatalf("/f before it is written: %q", got)
	}
	writeFile(t, mountPoint+"/f", "first")
	if err := Settle(mountPoint, guardSelf()); err != nil {
		t.Fatal(err)
	}
	if got := onDisk(t, image, "/f"); got != "first" {
		t.Errorf("/f after Settle: %q; want %q", got, "first")
	}
	// The filesystem is thawed, and a replaced file is seen as well.
	writeFile(t, mountPoint+"/new", "second")
	if err := os.Rename(mountPoint+"/new", mountPoint+"/f"); err != nil {
		t.Fatal(err)
	}
	if err := Settle(mountPoint, guardSelf()); err != nil {
		t.Fatal(err)
	}
	if got := onDisk(t, image, "/f"); got != "second" {
		t.Errorf("/f after the second Settle: %q; want %q", got, "second")
	}
}

// TestSettleWithoutFreezing has a tmpfs, which cannot be frozen, as vfat.
func TestSettleWithoutFreezing(t *testing.T) {
	needRoot(t)
	mountPoint := t.TempDir()
	if err := unix.Mount("tmpfs", mountPoint, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mountPoint, 0); err != nil {
			t.Error(err)
		}
	})
	writeFile(t, mountPoint+"/f", "first")
	if err := Settle(mountPoint, guardSelf()); err != nil {
		t.Error(err)
	}
}

func TestSettleErrors(t *testing.T) {
	_, mountPoint := mountImage(t, "ext4")
	for _, tc := range []struct {
		name  string
		dir   string
		guard GuardCommand
		want  string
	}{
		{"no directory", mountPoint + "/missing", guardSelf(), "no such file"},
		{"no guard", mountPoint, nil, "no command"},
		{"guard missing", mountPoint, GuardCommand{mountPoint + "/guard"}, "no such file"},
		{"guard that is none", mountPoint, GuardCommand{"/bin/true"}, "does not answer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkError(t, Settle(tc.dir, tc.guard), tc.want)
			checkThawed(t, mountPoint)
		})
	}
}

func TestSettleOfFrozenFilesystem(t *testing.T) {
	_, mountPoint := mountImage(t, "ext4")
	dir, err := os.Open(mountPoint)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := freezeIoctl(dir, ioctlFIFREEZE); err != nil {
		t.Fatal(err)
	}
	checkError(t, Settle(mountPoint, guardSelf()), "device or resource busy")
	// It is not ours to thaw: theirs still holds.
	if err := freezeIoctl(dir, ioctlFITHAW); err != nil {
		t.Errorf("thaw: %v; want it frozen still", err)
	}
}

// checkThawed tells by FITHAW, as writing to a frozen filesystem would hang.
func checkThawed(t *testing.T, mountPoint string) {
	t.Helper()
	dir, err := os.Open(mountPoint)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := freezeIoctl(dir, ioctlFITHAW); err != syscall.EINVAL {
		t.Errorf("FITHAW = %v; want EINVAL, not frozen", err)
	}
}

// TestKilledParentStillThaws kills the process that froze, then writes: the
// write returns when the guard has thawed.
func TestKilledParentStillThaws(t *testing.T) {
	_, mountPoint := mountImage(t, "ext4")
	// The orphaned guard becomes our child, so that its end can be awaited.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	parent := exec.Command("/proc/self/exe", argFreeze, mountPoint)
	parent.Stderr = os.Stderr
	stdin, err := parent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if line != "frozen\n" {
		t.Fatalf("parent said %q, %v", line, err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := parent.Wait(); err == nil || parent.ProcessState.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Fatalf("parent ended with %v; want it killed", err)
	}
	writeFile(t, mountPoint+"/f", "written after the thaw")
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(-1, &status, 0, nil); err != nil || status.ExitStatus() != 0 {
		t.Errorf("guard ended with status %d, %v; want 0", status.ExitStatus(), err)
	}
	checkThawed(t, mountPoint)
}
