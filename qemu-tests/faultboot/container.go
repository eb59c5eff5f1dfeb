package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	stubName = "faultboot-stub"
	ownDir   = "/run/faultboot"
	// sysrqFile takes what the container writes to the kernel's trigger.
	sysrqFile = ownDir + "/sysrq"
	// cmdlineFile is the kernel command line of the container.
	cmdlineFile = ownDir + "/cmdline"
	// saysFile takes what PID 1 of the container says as the runtime's last words.
	saysFile  = ownDir + "/pid1"
	realInit  = "/reimager-init"
	serialTTY = "/dev/ttyS0"
)

// startContainer starts the real init as PID 1 of namespaces of its own. Its reboot(2)
// reaches the tracer; its sysrq a file; its words on the serial line nobody.
func startContainer(t trapped) (*exec.Cmd, error) {
	if err := errors.Join(os.WriteFile(sysrqFile, nil, 0o600), os.WriteFile(saysFile, nil, 0o600)); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(saysFile, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	var numbers []string
	for _, nr := range t.calls {
		numbers = append(numbers, strconv.Itoa(int(nr)))
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{stubName, strconv.FormatBool(t.others), strings.Join(numbers, ",")}
	cmd.Env = []string{"HOME=/", "TERM=linux"} // as the kernel gives them
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	return cmd, cmd.Start()
}

// stub becomes the real init.
func stub(args []string) error {
	runtime.LockOSThread()
	t := trapped{others: args[1] == "true"}
	for _, number := range strings.Split(args[2], ",") {
		nr, err := strconv.ParseInt(number, 10, 32)
		if err != nil {
			return err
		}
		t.calls = append(t.calls, int32(nr))
	}
	for _, m := range []struct {
		source, dir, kind string
		flags             uintptr
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE},
		// init finds it mounted, as it finds /dev where the kernel has done that.
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{sysrqFile, "/proc/sysrq-trigger", "", unix.MS_BIND},
		{cmdlineFile, "/proc/cmdline", "", unix.MS_BIND},
		{"/dev/null", serialTTY, "", unix.MS_BIND},
	} {
		if err := unix.Mount(m.source, m.dir, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := t.install(); err != nil {
		return err
	}
	// The tracer takes the listener while this call waits for its answer.
	return unix.Exec(realInit, []string{"/init"}, os.Environ())
}
