package hook

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reimager/config"
	"reimager/disk"
)

const (
	busybox    = "/bin/busybox"
	attackName = "/attack"
	workerName = "hook-test-worker"
)

// TestMain is also what the tests start under other names.
func TestMain(m *testing.M) {
	switch os.Args[0] {
	case ChildName:
		os.Exit(Child())
	case attackName:
		attack(os.Args[1:])
		os.Exit(0)
	case workerName:
		os.Exit(worker(os.Args[1]))
	}
	os.Exit(m.Run())
}

// system is a disk with an MBR on a loop device and a new system on its first
// partition, mounted at root.
type system struct {
	root string
	disk *disk.Disk
	file string
}

func command(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func newSystem(t *testing.T) *system {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("hooks are tested as root: namespaces, mounts and loop devices need it")
	}
	if _, err := os.Stat(busybox); err != nil {
		t.Fatalf("the new system of the tests is made of busybox: %v; install busybox-static", err)
	}
	dir := t.TempDir()
	s := &system{root: filepath.Join(dir, "root"), file: filepath.Join(dir, "disk")}
	if err := os.WriteFile(s.file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.file, 40<<20); err != nil {
		t.Fatal(err)
	}
	command(t, "label: dos\n2048,49152,83\n51200,,5\n53248,8192,83\n", "sfdisk", "-q", s.file)
	loop := command(t, "", "losetup", "--find", "--show", s.file)
	t.Cleanup(func() { command(t, "", "losetup", "-d", loop) })
	command(t, "", "partx", "-a", loop)
	t.Cleanup(func() { command(t, "", "partx", "-d", loop) })
	var err error
	if s.disk, err = (disk.Sysfs{}).Disk(filepath.Base(loop)); err != nil {
		t.Fatal(err)
	}
	if len(s.disk.Partitions) != 3 {
		t.Fatalf("%s has the partitions %v, expected three", loop, s.disk.Partitions)
	}
	command(t, "", "mkfs.ext4", "-q", "-L", "new root", "-U", "6c0a9a3e-0000-4000-8000-000000000001", s.part(1))
	command(t, "", "mkfs.ext4", "-q", "-L", "../../x", s.part(5))
	if err := os.Mkdir(s.root, 0o700); err != nil {
		t.Fatal(err)
	}
	s.mount(t)
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "run", "tmp", "data"} {
		if err := os.Mkdir(filepath.Join(s.root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.copy(t, busybox, "/bin/busybox")
	for _, a := range []string{"sh", "mknod", "sleep", "cat", "ls", "mount", "id", "setsid"} {
		if err := os.Symlink("busybox", filepath.Join(s.root, "bin", a)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *system) part(n int) string {
	p, _ := s.disk.Partition(n)
	return p.Path
}

func (s *system) mount(t *testing.T) {
	t.Helper()
	if err := unix.Mount(s.part(1), s.root, "ext4", unix.MS_NOATIME|unix.MS_NOSUID, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(s.root, unix.MNT_DETACH) })
}

func (s *system) copy(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, to, string(b), 0o755)
}

func (s *system) write(t *testing.T, name, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.root, name), []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// hook returns a hook with the defaults of the configuration.
func hook(run ...string) config.Hook {
	return config.Hook{When: config.AfterRestore, Run: run, OnFailure: config.Report, Timeout: config.Timeout{Duration: 20 * time.Second}}
}

func shell(script string) config.Hook { return hook("/bin/sh", "-c", script) }

// run runs hooks and returns their output.
func (s *system) run(t *testing.T, hooks ...config.Hook) ([]Result, []string, error) {
	t.Helper()
	var lines []string
	results, err := Run(context.Background(), s.root, hooks, Options{
		Disk: s.disk, Hostname: "kiosk-7", Output: func(l string) { lines = append(lines, l) },
	})
	return results, lines, err
}

// mustBeFree fails unless nothing uses the new system any more.
func (s *system) mustBeFree(t *testing.T, mounts string) {
	t.Helper()
	if now := s.mounts(t); now != mounts {
		t.Errorf("mounts before:\n%s\nafter:\n%s", mounts, now)
	}
	if err := unix.Unmount(s.root, 0); err != nil {
		t.Errorf("unmount the new system: %v", err)
	}
	// O_EXCL: EBUSY as long as any namespace has it mounted.
	fd, err := unix.Open(s.part(1), unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Errorf("open %s exclusively: %v", s.part(1), err)
		return
	}
	unix.Close(fd)
	s.mount(t)
}

// mounts are those of this machine, but for what other tests mount meanwhile.
func (s *system) mounts(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var ours []string
	for l := range strings.Lines(string(b)) {
		point := strings.Fields(l)[4]
		if !strings.HasPrefix(point, os.TempDir()+"/") || strings.HasPrefix(point, filepath.Dir(s.root)) {
			ours = append(ours, l)
		}
	}
	return strings.Join(ours, "")
}

// worker runs a hook that does not end, to be killed meanwhile.
func worker(arg string) int {
	var s struct {
		Root string
		Disk *disk.Disk
	}
	if err := json.Unmarshal([]byte(arg), &s); err != nil {
		fmt.Println(err)
		return 1
	}
	_, err := Run(context.Background(), s.Root, []config.Hook{shell("echo running; sleep 1000")}, Options{
		Disk: s.Disk, Output: func(l string) { fmt.Println(l) },
	})
	fmt.Println(err)
	return 1
}
