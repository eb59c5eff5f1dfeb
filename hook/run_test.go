package hook

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"reimager/config"
	"reimager/report"
)

func TestHookSeesTheNewSystem(t *testing.T) {
	s := newSystem(t)
	before := s.mounts(t)
	loop := s.disk.Name
	leaked, err := unix.Open(s.disk.Path, unix.O_RDONLY, 0) // not O_CLOEXEC
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leaked)
	h := shell(`
echo "$0 $1"; pwd; id -u; cat /proc/sys/kernel/hostname; umask; ls /proc/$$/fd
cat /dev/stdin; echo eof
ls /; ls /dev /dev/disk/*; cat /proc/self/mounts | while read a b c; do echo "mount $b"; done
busybox head -c 1 ` + s.part(5) + ` > /dev/null && echo readable
busybox wc -c < /dev/` + loop + `
echo changed > /etc/changed; echo x > /dev/null; echo x > /dev/console; echo y > /dev/shm/y; echo z > /run/z
busybox env | busybox sort`)
	h.Env = map[string]string{"A": "b c", "LANG": "de_DE"}
	h.Run = append(h.Run, "zero", "one two")
	results, got, err := s.run(t, h)
	if err != nil || results[0].Err != nil {
		t.Fatal(err, results[0].Err)
	}
	want := strings.Split(strings.TrimSpace(strings.NewReplacer("LOOP", loop).Replace(`
zero one two
/
0
kiosk-7
0022
0
1
2
eof
bin
data
dev
etc
lost+found
proc
run
sys
tmp
/dev:
console
disk
fd
full
LOOP
LOOPp1
LOOPp5
null
ptmx
pts
random
shm
stderr
stdin
stdout
tty
urandom
zero
/dev/disk/by-label:
\x2e.\x2f..\x2fx
new\x20root
/dev/disk/by-partuuid:
01
05
/dev/disk/by-uuid:
6c0a9a3e-0000-4000-8000-000000000001
OTHER
mount /
mount /proc
mount /sys
mount /run
mount /dev
mount /dev/pts
mount /dev/shm
mount /dev/LOOP
readable
41943040
A=b c
HOME=/
LANG=de_DE
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
PWD=/
REIMAGER_DISK=/dev/LOOP
REIMAGER_WHEN=after-restore
SHLVL=1`)), "\n")
	var tidy []string
	for i, l := range got {
		switch {
		case strings.HasSuffix(l, "-01") || strings.HasSuffix(l, "-05"):
			l = l[len(l)-2:] // without the id of the table
		case i > 0 && strings.HasPrefix(got[i-1], "6c0a9a3e") && len(l) == 36:
			l = "OTHER"
		case i+1 < len(got) && strings.HasPrefix(got[i+1], "6c0a9a3e") && len(l) == 36:
			continue // in the order of random UUIDs
		}
		tidy = append(tidy, l)
	}
	for i, l := range tidy {
		if l == "6c0a9a3e-0000-4000-8000-000000000001" && tidy[i+1] != "OTHER" {
			tidy = append(tidy[:i+1], append([]string{"OTHER"}, tidy[i+1:]...)...)
			break
		}
	}
	if diff := cmp.Diff(want, tidy); diff != "" {
		t.Errorf("what a hook sees (-want +got):\n%s", diff)
	}
	s.mustBeFree(t, before)
	if b, err := os.ReadFile(filepath.Join(s.root, "etc/changed")); string(b) != "changed\n" {
		t.Errorf("the hook's file has %q, %v", b, err)
	}
	for _, gone := range []string{"run/z", "dev/null", "dev/shm"} {
		if _, err := os.Lstat(filepath.Join(s.root, gone)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is on the new system's disk: %v", gone, err)
		}
	}
}

func TestWithoutDiskAndDirectories(t *testing.T) {
	s := newSystem(t)
	for _, d := range []string{"dev", "proc", "sys", "run"} {
		if err := os.Remove(filepath.Join(s.root, d)); err != nil {
			t.Fatal(err)
		}
	}
	var lines []string
	results, err := Run(context.Background(), s.root, []config.Hook{shell("echo /dev/n*; ls -d /run; busybox true")}, Options{Output: func(l string) { lines = append(lines, l) }})
	if err != nil || results[0].Err != nil {
		t.Error(err, results)
	}
	if diff := cmp.Diff([]string{"/dev/null", "ls: /run: No such file or directory"}, lines); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

func TestHookErrors(t *testing.T) {
	s := newSystem(t)
	s.write(t, "bin/plain", "#!/bin/sh\n", 0o644)
	s.write(t, "bin/noformat", "echo no first line\n", 0o755)
	s.write(t, "bin/empty", "", 0o755)
	s.write(t, "bin/dos", "#!/bin/sh\r\necho\r\n", 0o755)
	s.write(t, "bin/python", "#! /usr/bin/python3 -u\n", 0o755)
	s.copy(t, "/bin/ls", "bin/dynamic")
	s.copy(t, busybox, "bin/foreign")
	f, err := os.OpenFile(filepath.Join(s.root, "bin/foreign"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xf3, 0}, 18); err != nil { // e_machine: RISC-V
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name       string
		hook       config.Hook
		want, hint string
	}{
		{"success", shell("true"), "", ""},
		{"not there", hook("/usr/sbin/update-grub", "a b"), `run hook /usr/sbin/update-grub "a b": start /usr/sbin/update-grub: no such file or directory`, "the image has no such file"},
		{"not executable", hook("/bin/plain"), "it is not executable (mode 0644)", "chmod"},
		{"a directory", hook("/etc"), "start /etc: it is a directory", ""},
		{"no format", hook("/bin/noformat"), "start /bin/noformat: exec format error", "#!/bin/sh"},
		{"empty", hook("/bin/empty"), "exec format error", "#!/bin/sh"},
		{"other architecture", hook("/bin/foreign"), "exec format error (it is for EM_RISCV, this machine is " + runtime.GOARCH + ")", "another architecture"},
		{"no interpreter", hook("/bin/python"), `its interpreter "/usr/bin/python3" is not in the new system`, "install"},
		{"DOS line ends", hook("/bin/dos"), `its interpreter "/bin/sh\r" is not`, "install"},
		{"no loader", hook("/bin/dynamic"), `its interpreter "` + interpreter("/bin/ls") + `" is not`, "install"},
		{"status", shell("exit 3"), "run hook /bin/sh -c \"exit 3\": exit status 3", "its output"},
		{"no command", shell("nothing"), "exit status 127", "shared library"},
		{"signal", shell("kill -SEGV $$"), "it died of signal 11 (segmentation fault)", ""},
		{"killed", shell("kill -KILL $$"), "it was killed", "lack of memory"},
		{"init is not killed", shell("kill -TERM 1; kill -KILL 1; kill -HUP 1; sleep 0.1; exit 4"), "exit status 4", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			results, _, err := s.run(t, tt.hook)
			if err != nil {
				t.Fatal(err)
			}
			got := report.Explain(results[0].Err)
			text, hint, _ := strings.Cut(got, "\nhint: ")
			if !strings.Contains(text, tt.want) || tt.want == "" && got != "" || !strings.Contains(hint, tt.hint) {
				t.Errorf("got %q; want %q and the hint %q", got, tt.want, tt.hint)
			}
		})
	}
}

func TestFatalEndsTheRow(t *testing.T) {
	s := newSystem(t)
	fails, fatal, never := shell("exit 1"), shell("exit 2"), shell("echo never")
	fatal.OnFailure = config.Fatal
	results, lines, err := s.run(t, fails, fatal, never)
	if err == nil || !strings.Contains(err.Error(), "exit status 2") || len(results) != 2 || results[0].Err == nil || len(lines) != 0 {
		t.Errorf("got %v, %v, %q; want two results and the error of the second", results, err, lines)
	}
}

func TestTimeoutKillsAll(t *testing.T) {
	s := newSystem(t)
	before := s.mounts(t)
	h := shell(`trap "" TERM HUP INT
(setsid sh -c 'trap "" TERM; (trap "" TERM; cd /data; exec 7>/data/open; while :; do sleep 1; done) & exit' &)
echo started; while :; do sleep 1; done`)
	h.Timeout.Duration = 700 * time.Millisecond
	start := time.Now()
	results, lines, err := s.run(t, h)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	if got := fmt.Sprint(results[0].Err); !strings.HasSuffix(got, "killed after its timeout of 700ms") {
		t.Errorf("got %q", got)
	}
	if diff := cmp.Diff([]string{"started"}, lines); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
	s.mustBeFree(t, before)
}

func TestDaemonEndsWithTheHook(t *testing.T) {
	s := newSystem(t)
	before := s.mounts(t)
	start := time.Now()
	results, _, err := s.run(t, shell(`setsid sh -c 'cd /data; sleep 100' & echo ok`))
	if err != nil || results[0].Err != nil {
		t.Error(err, results)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("a hook with a daemon took %s", took)
	}
	s.mustBeFree(t, before)
}

func TestCancel(t *testing.T) {
	s := newSystem(t)
	before := s.mounts(t)
	ctx, cancel := context.WithCancel(context.Background())
	results, err := Run(ctx, s.root, []config.Hook{shell("echo; echo go; sleep 100"), shell("true")}, Options{Disk: s.disk, Output: func(string) { cancel() }})
	if !errors.Is(err, context.Canceled) || len(results) != 1 {
		t.Errorf("got %v, %v; want context.Canceled", results, err)
	}
	s.mustBeFree(t, before)
}

func TestOutputOfAHook(t *testing.T) {
	s := newSystem(t)
	results, lines, err := s.run(t, shell(`printf 'a\033[2Jb\000c\377\n'; echo err >&2; busybox yes | busybox head -c 5000000; echo end`))
	if err != nil || results[0].Err != nil {
		t.Fatal(err, results)
	}
	bytes := 0
	for _, l := range lines {
		bytes += len(l) + 1
	}
	last := lines[len(lines)-1]
	if lines[0] != `a\x1b[2Jb\x00c\xff` || lines[1] != "err" || !strings.HasPrefix(last, "… (more than 1048576") || bytes > maxOutput+200 || bytes < maxOutput-200 {
		t.Errorf("got %q, %q … %q, %d bytes", lines[0], lines[1], last, bytes)
	}
}

func TestMissingRoot(t *testing.T) {
	s := newSystem(t)
	results, err := Run(context.Background(), filepath.Join(s.root, "nowhere"), []config.Hook{shell("true")}, Options{})
	if err != nil || results[0].Err == nil || !strings.Contains(results[0].Err.Error(), "nowhere: no such file") {
		t.Errorf("got %v, %v", results, err)
	}
}

// A worker that dies takes its hook along: the next one writes the disk anew.
func TestDeadWorker(t *testing.T) {
	s := newSystem(t)
	before := s.mounts(t)
	arg, err := json.Marshal(map[string]any{"Root": s.root, "Disk": s.disk})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{workerName, string(arg)}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "running\n" {
		t.Fatalf("the worker said %q, %v", line, err)
	}
	if err := cmd.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the worker was not killed")
	}
	if err := unix.Unmount(s.root, 0); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		fd, err := unix.Open(s.part(1), unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the hook of a dead worker still holds %s: %v", s.part(1), err)
		}
	}
	s.mount(t)
	if now := s.mounts(t); strings.Count(now, "\n") != strings.Count(before, "\n") {
		t.Errorf("mounts before:\n%s\nafter:\n%s", before, now)
	}
}
