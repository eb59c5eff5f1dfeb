package hook

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"reimager/disk"
)

// ChildName is the name (os.Args[0]) under which Run starts its own binary again.
// Its main calls Child for it before anything else.
const ChildName = "reimager-hook"

// request is what Run tells its child through standard input.
type request struct {
	Root     string
	Disk     *disk.Disk
	Held     []disk.Piece
	Run      []string
	Env      []string
	Hostname string
}

// result is what the child tells Run through descriptor 3.
type result struct {
	Setup   string // why the hook was not started, if that is not its own fault
	Refused string // why the kernel did not start it
	Hint    string // what to do about Refused
	Exit    int
	Signal  int
}

const resultFD = 3

// Child is the init of a hook's PID namespace and returns its exit status. It runs
// one hook, reaps, and tells how the hook ended; when it ends itself, the kernel
// kills what is left in the namespace (pid_namespaces(7)).
func Child() int {
	// Signals are taken and dropped: a hook that sends some to PID 1 means another one.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals)
	go func() {
		for range signals {
		}
	}()
	// What a hook may do is a matter of the thread that starts it.
	runtime.LockOSThread()
	closeOnExec()
	answer := os.NewFile(resultFD, "result")
	if answer == nil || os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, ChildName+" is a part of reimager that it starts by itself")
		return 2
	}
	var req request
	var r result
	err := json.NewDecoder(os.Stdin).Decode(&req)
	if err == nil {
		err = prepare(&req)
	}
	if err == nil {
		r = start(&req)
	} else {
		r.Setup = err.Error()
	}
	if err := errors.Join(json.NewEncoder(answer).Encode(r), answer.Close()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// closeOnExec keeps from hooks whatever descriptors this process was born with: the
// disk may be among them.
func closeOnExec() {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		unix.CloseOnExec(resultFD) // without /proc, prepare fails
		return
	}
	for _, f := range fds {
		if n, err := strconv.Atoi(f.Name()); err == nil && n > 2 {
			unix.CloseOnExec(n)
		}
	}
}

// prepare turns this process into one of the new system.
func prepare(req *request) error {
	devices, err := findDevices(req.Disk, req.Held)
	if err != nil {
		return err
	}
	// If memory runs out, it is the hook that has to go, not the run: proc_pid_oom_score_adj(5).
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
		return fmt.Errorf("set oom_score_adj: %w", err)
	}
	if err := enter(req.Root); err != nil {
		return err
	}
	if err := mountKernel(devices); err != nil {
		return err
	}
	if req.Hostname != "" {
		if err := unix.Sethostname([]byte(req.Hostname)); err != nil {
			return fmt.Errorf("set host name %q: %w", req.Hostname, err)
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return dropCapabilities()
}

// start runs the hook to its end.
func start(req *request) result {
	null, err := os.OpenFile("/dev/null", os.O_RDONLY, 0)
	if err != nil {
		return result{Setup: err.Error()}
	}
	defer null.Close()
	unix.Umask(0o022)
	p, err := os.StartProcess(req.Run[0], req.Run, &os.ProcAttr{
		Dir: "/", Env: req.Env, Files: []*os.File{null, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		why, hint := explainStart(req.Run[0], err)
		return result{Refused: why, Hint: hint}
	}
	defer p.Release()
	for {
		var status unix.WaitStatus
		// Any child: what lost its parent is ours, and somebody may wait for its end.
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR) || err == nil && pid != p.Pid:
			continue
		case err != nil:
			return result{Setup: fmt.Sprintf("wait for it: %v", err)}
		case status.Signaled():
			return result{Signal: int(status.Signal())}
		}
		return result{Exit: status.ExitStatus()}
	}
}

// allowed are the capabilities that programs of an installed system need to change
// that system's own files; a list of what is allowed covers what later kernels add.
//
// Not among them, and what a hook could do to the machine with each: MKNOD (make a
// node of the disk), SYS_ADMIN (mount devtmpfs, where there is one; remount /proc
// and /sys; reread the partition table), SYS_RAWIO (SCSI commands, /dev/mem),
// DAC_READ_SEARCH (open_by_handle_at(2) leads out of a root directory), SYS_MODULE,
// SYS_BOOT (reboot(2) and kexec), SYS_PTRACE (take over the supervisor), SYS_TIME,
// SYSLOG, BPF, NET_ADMIN and the rest.
//
// no_new_privs is not set: these bounds hold for setuid programs and those with file
// capabilities too, and a hook that becomes a user may need them.
func allowed() []uintptr {
	return []uintptr{
		unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID,
		unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SETPCAP, unix.CAP_SETFCAP,
		unix.CAP_LINUX_IMMUTABLE, // chattr
		unix.CAP_SYS_CHROOT,      // leads nowhere, since enter moved the root
		unix.CAP_AUDIT_WRITE,     // shadow-utils of Red Hat give up without
		unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_NICE, unix.CAP_SYS_RESOURCE, unix.CAP_IPC_LOCK,
	}
}

// dropCapabilities bounds what programs that this thread starts can have; root gets
// all of the bounding set and the inheritable set, and no more: capabilities(7). The
// child itself keeps its own, so that no hook may trace it (cap_ptrace_access_check).
func dropCapabilities() error {
	keep := map[uintptr]bool{}
	for _, c := range allowed() {
		keep[c] = true
	}
	for c := uintptr(0); ; c++ {
		if keep[c] {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err == unix.EINVAL && c > unix.CAP_SETFCAP {
			break // the kernel has no more
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&head, &sets[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	sets[0].Inheritable, sets[1].Inheritable = 0, 0
	// An ambient capability has to be inheritable, so this clears those as well.
	if err := unix.Capset(&head, &sets[0]); err != nil {
		return fmt.Errorf("drop inheritable capabilities: %w", err)
	}
	return nil
}
