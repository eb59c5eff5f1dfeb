package boot

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Restarter is what a reboot is made of; SystemRestarter has the real parts.
type Restarter struct {
	// Sync writes back every filesystem and returns when that is done.
	Sync func()
	// Trigger is the path of the kernel's sysrq-trigger file.
	Trigger string
	// Restart asks the kernel by system call and returns only on an error.
	Restart func() error
}

// SystemRestarter restarts the machine that this process runs on.
func SystemRestarter() Restarter {
	return Restarter{
		Sync:    boundedSync,
		Trigger: "/proc/sysrq-trigger",
		Restart: func() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) },
	}
}

// syncPatience bounds sync(2), which never returns from a disk that hangs.
const syncPatience = 10 * time.Second

func boundedSync() {
	done := make(chan struct{})
	go func() {
		unix.Sync()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(syncPatience):
	}
}

// Reboot restarts the machine. When it returns the machine is still there, and
// the error, never nil, says what was tried. It is for PID 1: filesystems are
// to be unmounted and the disk's own cache flushed before, as sysrq b does
// neither.
func Reboot() error { return SystemRestarter().Reboot() }

// Reboot is the sequence: sync(2), sysrq s, u and b, then reboot(2).
//
// sysrq b comes first because reboot(2) calls every driver's shutdown, and one
// that hangs (a dead disk) hangs the machine. s and u only queue work in the
// kernel; sync(2) before them is what waits.
func (r Restarter) Reboot() error {
	r.Sync()
	var errs []error
	for _, key := range []string{"s", "u", "b"} {
		if err := r.sysrq(key); err != nil {
			errs = append(errs, err)
		}
	}
	if err := r.Restart(); err != nil {
		errs = append(errs, fmt.Errorf("reboot machine: %w", err))
	}
	errs = append(errs, errors.New("reboot machine: it is still running"))
	return errors.Join(errs...)
}

// sysrq writes one key by one write: the kernel takes only the first character
// of each.
func (r Restarter) sysrq(key string) error {
	trigger, err := os.OpenFile(r.Trigger, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("send sysrq %s: %w", key, err)
	}
	_, err = trigger.WriteString(key)
	if err := errors.Join(err, trigger.Close()); err != nil {
		return fmt.Errorf("send sysrq %s: %w", key, err)
	}
	return nil
}
