package hook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"reimager/config"
	"reimager/disk"
	"reimager/report"
)

// Options is what hooks are told and given of the machine.
type Options struct {
	// Disk is the target. Its partitions are the only block devices that hooks have.
	Disk *disk.Disk
	// Held is what the disk does not have yet; hooks are shown it in its place.
	Held []disk.Piece
	// Hostname is the machine's in the eyes of its hooks; "" leaves the initrd's.
	Hostname string
	// Env is added to PATH, HOME and LANG; a hook's own variables override all.
	Env map[string]string
	// Output takes the hooks' standard output and error, line by line, without
	// control characters. It is not called after Run has returned.
	Output func(line string)
}

// Result is what became of one hook.
type Result struct {
	Hook config.Hook
	Took time.Duration
	Err  error
}

// Fatal tells whether the run was configured to end here.
func (r Result) Fatal() bool { return r.Err != nil && r.Hook.OnFailure == config.Fatal }

// Run runs hooks in the system that is mounted at root, one after the other. The
// error is that of a hook whose failure is fatal, or of ctx; the hooks after it are
// not run and have no result. When Run returns, nothing of a hook is running and
// nothing that it saw is mounted, unless an error says that a process hangs in the
// kernel. The caller is root, and answers to ChildName by calling Child.
func Run(ctx context.Context, root string, hooks []config.Hook, o Options) ([]Result, error) {
	var results []Result
	for _, h := range hooks {
		start := time.Now()
		err := runOne(ctx, root, h, o)
		if err != nil {
			err = fmt.Errorf("run hook %s: %w", h, err)
		}
		r := Result{h, time.Since(start), err}
		results = append(results, r)
		if ctx.Err() != nil || r.Fatal() {
			return results, err
		}
	}
	return results, nil
}

// killTime is how long a killed hook may take to be gone.
const killTime = 10 * time.Second

var errTimeout = errors.New("timeout")

func runOne(ctx context.Context, root string, h config.Hook, o Options) error {
	limited, cancel := context.WithTimeoutCause(ctx, h.Timeout.Duration, errTimeout)
	defer cancel()
	input, err := json.Marshal(request{Root: root, Disk: o.Disk, Held: o.Held, Run: h.Run, Env: environment(h, o), Hostname: o.Hostname})
	if err != nil {
		return err
	}
	out := &output{line: o.Output}
	defer out.close()
	ended := make(chan ending, 1)
	go func() {
		// The child dies with the thread that made it (Pdeathsig), which must
		// therefore live as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		ended <- runChild(limited, input, out)
	}()
	var end ending
	select {
	case end = <-ended:
	case <-limited.Done():
		select {
		case end = <-ended:
		case <-time.After(killTime):
			return report.Hint(fmt.Errorf("%w, and it does not end though it was killed", stopCause(limited, h)),
				"one of its processes hangs in the kernel, in a driver perhaps; the kernel log may tell")
		}
	}
	if end.result == nil && limited.Err() != nil {
		return report.Hint(stopCause(limited, h), "its output in the log shows how far it came; timeout in [[hook]] can be longer")
	}
	return end.err()
}

func stopCause(ctx context.Context, h config.Hook) error {
	if cause := context.Cause(ctx); cause != errTimeout {
		return cause
	}
	return fmt.Errorf("killed after its timeout of %s", h.Timeout)
}

// environment is all that a hook finds in it; the worker's own is none of its business.
func environment(h config.Hook, o Options) []string {
	env := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME": "/", "LANG": "C.UTF-8", "REIMAGER_WHEN": string(h.When),
	}
	if o.Disk != nil {
		env["REIMAGER_DISK"] = o.Disk.Path
	}
	maps.Copy(env, o.Env)
	maps.Copy(env, h.Env)
	var list []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

// ending is how the child ended; result is nil when it could not say how the hook did.
type ending struct {
	result *result
	child  error
}

func runChild(ctx context.Context, input []byte, out io.Writer) ending {
	r, w, err := os.Pipe()
	if err != nil {
		return ending{child: err}
	}
	defer r.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{ChildName}
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{w}
	cmd.WaitDelay = killTime / 2
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Setsid:     true,
		// A worker that died is followed by one that writes the disk again.
		Pdeathsig: unix.SIGKILL,
	}
	err = cmd.Start()
	if err := errors.Join(err, w.Close()); err != nil {
		return ending{child: report.Hint(fmt.Errorf("start its supervisor: %w", err),
			"it takes root, and a kernel with CONFIG_PID_NS, CONFIG_UTS_NS and CONFIG_IPC_NS")}
	}
	err = cmd.Wait()
	text, readErr := io.ReadAll(io.LimitReader(r, 1<<20))
	if len(text) > 0 && readErr == nil {
		var said result
		if readErr = json.Unmarshal(text, &said); readErr == nil {
			return ending{result: &said}
		}
	}
	return ending{child: errors.Join(err, readErr)}
}

// err says what the operator should know of an ending; nil is success.
func (e ending) err() error {
	r := e.result
	switch {
	case r == nil && e.child == nil:
		return errors.New("its supervisor ended without a word")
	case r == nil:
		return e.child
	case r.Refused != "":
		return report.Hint(errors.New(r.Refused), "%s", r.Hint)
	case r.Setup != "":
		return fmt.Errorf("prepare the new system for it: %s", r.Setup)
	case r.Signal == int(unix.SIGKILL):
		return report.Hint(errors.New("it was killed"), "by itself, or by the kernel for lack of memory")
	case r.Signal != 0:
		s := unix.Signal(r.Signal)
		return fmt.Errorf("it died of signal %d (%s)", r.Signal, s)
	case r.Exit == 126:
		return report.Hint(errors.New("exit status 126"), "a shell found a command that cannot be executed; its output in the log names it")
	case r.Exit == 127:
		return report.Hint(errors.New("exit status 127"), "a shell did not find a command, or the loader a shared library; its output in the log names it")
	case r.Exit != 0:
		return report.Hint(fmt.Errorf("exit status %d", r.Exit), "its output is in the log")
	}
	return nil
}
