package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds a run; an undo alone may take a minute before PID 1 gives it up.
const patience = 150 * time.Second

// ending is how a run ended.
type ending struct {
	rebooted bool
	held     bool
	problem  string // neither: it hung, or PID 1 died
	log      string
	mounts   []string // below the run's folder, when it rebooted
	sysrq    string
	hit      []string // what was made to fail, and where
	took     time.Duration
}

// outcome is what PID 1 decided last.
func (e *ending) outcome() string {
	at := strings.LastIndex(e.log, "== outcome ")
	if at < 0 {
		return ""
	}
	text, _, _ := strings.Cut(e.log[at+len("== outcome "):], " (")
	return text
}

// tracer follows one run.
type tracer struct {
	cmd       *exec.Cmd
	listener  int
	faults    []fault // the first is the one in question
	counts    map[place]int
	processes map[uint32]string // by thread: "gather", "resume", "undo", or "" for no worker
	log       *os.File
	logged    []byte // of the log, not looked at yet
	stage     string
	worker    string // the last that was seen
	ending    ending
}

// run runs init once, with faults or without, and counts the calls of its workers.
func run(t trapped, faults []fault) (*ending, map[place]int, error) {
	start := time.Now()
	cmd, err := startContainer(t)
	if err != nil {
		return nil, nil, fmt.Errorf("start container: %w", err)
	}
	tr := &tracer{cmd: cmd, faults: faults, counts: map[place]int{}, processes: map[uint32]string{}}
	err = tr.follow()
	killErr := cmd.Process.Kill()
	if errors.Is(killErr, os.ErrProcessDone) {
		killErr = nil
	}
	_ = cmd.Wait() // it was killed, or its status is the ending's problem
	if tr.log != nil {
		err = errors.Join(err, tr.log.Close())
	}
	tr.ending.took = time.Since(start)
	sysrq, readErr := os.ReadFile(sysrqFile)
	tr.ending.sysrq = string(sysrq)
	return &tr.ending, tr.counts, errors.Join(err, killErr, readErr)
}

func (t *tracer) follow() (err error) {
	pid := t.cmd.Process.Pid
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(pidfd)) }()
	if t.listener, err = takeListener(pid, pidfd, 10*time.Second); err != nil {
		says, _ := os.ReadFile(saysFile)
		return fmt.Errorf("%w: %s", err, says)
	}
	defer func() { err = errors.Join(err, unix.Close(t.listener)) }()
	looked := time.Now()
	for deadline := time.Now().Add(patience); ; {
		fds := []unix.PollFd{{Fd: int32(t.listener), Events: unix.POLLIN}, {Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 500)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		switch {
		case fds[0].Revents&unix.POLLIN != 0:
			if err := t.answer(); err != nil {
				return err
			}
			if t.ending.rebooted || time.Since(looked) > 2*time.Second && t.holds() {
				return nil
			}
			if time.Since(looked) > 2*time.Second {
				looked = time.Now()
			}
		case n > 0 && fds[1].Revents != 0:
			t.readLog()
			says, _ := os.ReadFile(saysFile)
			t.ending.problem = "PID 1 died: " + string(says)
			return nil
		default:
			if t.holds() {
				return nil
			}
		}
		if time.Now().After(deadline) {
			t.readLog()
			t.ending.problem = fmt.Sprintf("it hangs: no end after %s", patience)
			return nil
		}
	}
}

// holds tells whether PID 1 has given up for good.
func (t *tracer) holds() bool {
	t.readLog()
	t.ending.held = strings.Contains(t.ending.log, "THE MACHINE HOLDS")
	return t.ending.held
}

// answer decides about one call.
func (t *tracer) answer() error {
	n, err := receive(t.listener)
	if n == nil || err != nil {
		return err
	}
	if n.nr == unix.SYS_REBOOT {
		return t.reboot(n)
	}
	job := t.job(n.pid)
	if n.nr == unix.SYS_MOUNT && job == "" && t.text(n.pid, n.args[1]) == "/proc" {
		// It is mounted, with our file in place of the trigger; a kernel from 5.8 on would
		// mount another one.
		return n.fail(t.listener, unix.EBUSY)
	}
	if n.nr == unix.SYS_EXECVE || job == "" {
		return n.proceed(t.listener)
	}
	if job != t.worker {
		t.worker, t.stage = job, map[string]string{"gather": "wake", "resume": "resume", "undo": "undo"}[job]
	}
	t.readLog()
	p := place{t.stage, callName(n.nr, n.args)}
	t.counts[p]++
	on := p
	if slices.ContainsFunc(t.faults, fault.namesDevice) && t.writes(n) {
		on.call += "(" + strings.TrimPrefix(t.target(n), "/dev/") + ")"
		t.counts[on]++
	}
	for i, f := range t.faults {
		if f.strikes(p, t.counts[p]) || on != p && f.strikes(on, t.counts[on]) {
			if i == 0 && len(t.ending.hit) < 5 {
				t.ending.hit = append(t.ending.hit, t.words(n, p))
			}
			return n.fail(t.listener, f.errno)
		}
	}
	return n.proceed(t.listener)
}

// reboot takes what can only be seen while the container is there.
func (t *tracer) reboot(n *notification) error {
	if uint32(n.args[2]) == unix.LINUX_REBOOT_CMD_CAD_OFF {
		return n.pretend(t.listener)
	}
	t.readLog()
	t.ending.rebooted = true
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", t.cmd.Process.Pid))
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], "/run/reimager/") {
			t.ending.mounts = append(t.ending.mounts, f[4])
		}
	}
	return err
}

// job is what a thread's process works on.
func (t *tracer) job(tid uint32) string {
	if job, ok := t.processes[tid]; ok && job != "" {
		return job
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", tid))
	if err != nil {
		return ""
	}
	args := strings.Split(string(text), "\x00")
	job := ""
	if args[0] == "reimager-worker" && len(args) > 2 {
		job = args[1]
	}
	t.processes[tid] = job
	return job
}

// readLog reads on in the log, which says where the run stands.
func (t *tracer) readLog() {
	if t.log == nil {
		f, err := os.Open(fmt.Sprintf("/proc/%d/root/run/reimager/log", t.cmd.Process.Pid))
		if err != nil {
			return // not there yet
		}
		t.log = f
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := t.log.Read(buf)
		t.ending.log += string(buf[:n])
		t.logged = append(t.logged, buf[:n]...)
		if n == 0 || err != nil {
			break
		}
	}
	for {
		line, rest, whole := bytes.Cut(t.logged, []byte("\n"))
		if !whole {
			return
		}
		t.logged = rest
		if _, name, ok := strings.Cut(string(line), "] == stage "); ok && t.worker != "undo" {
			t.stage = strings.ReplaceAll(name, " ", "-")
		}
	}
}

// words describes a call as one would read it in a trace.
func (t *tracer) words(n *notification, p place) string {
	text := fmt.Sprintf("%s: %s(", p.stage, p.call)
	switch n.nr {
	case unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_NEWFSTATAT, unix.SYS_READLINKAT, unix.SYS_MKDIRAT, unix.SYS_UNLINKAT:
		return text + t.text(n.pid, n.args[1]) + ")"
	case unix.SYS_MOUNT, unix.SYS_UMOUNT2:
		return text + t.text(n.pid, n.args[0]) + ")"
	case unix.SYS_READ, unix.SYS_PREAD64, unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_FSTAT, unix.SYS_FSYNC, unix.SYS_CLOSE, unix.SYS_IOCTL,
		unix.SYS_GETDENTS64, unix.SYS_SYNCFS, unix.SYS_LSEEK:
		return text + t.target(n) + ")"
	}
	return text + ")"
}

// target is what the first argument of a call, a file descriptor, stands for.
func (t *tracer) target(n *notification) string {
	target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.pid, n.args[0]))
	return target
}

// writes tells whether the first argument of a call is a file descriptor that can be
// written to: proc_pid_fdinfo(5).
func (t *tracer) writes(n *notification) bool {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", n.pid, n.args[0]))
	for line := range strings.Lines(string(text)) {
		if flags, ok := strings.CutPrefix(line, "flags:"); ok {
			value, err := strconv.ParseUint(strings.TrimSpace(flags), 8, 64)
			return err == nil && value&unix.O_ACCMODE != unix.O_RDONLY
		}
	}
	return false
}

// text reads a string of a stopped process.
func (t *tracer) text(tid uint32, at uint64) string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", tid))
	if err != nil {
		return "?"
	}
	defer f.Close()
	buf := make([]byte, 256)
	n, _ := f.ReadAt(buf, int64(at)) // it may end at the end of a page
	text, _, _ := bytes.Cut(buf[:n], []byte{0})
	return string(text)
}
