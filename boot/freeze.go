package boot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"reimager/report"
)

// From linux/fs.h: _IOWR('X', 119, int) and _IOWR('X', 120, int).
const (
	ioctlFIFREEZE = 0xc0045877
	ioctlFITHAW   = 0xc0045878
)

const (
	// thawAfter is how long a filesystem stays frozen at most. Freezing itself
	// counts: it writes back all that is dirty, which a slow disk takes time for.
	thawAfter = 60 * time.Second

	// What the guard inherits, behind stdin, stdout and stderr.
	guardDirFD   = 3
	guardOrderFD = 4
	guardReadyFD = 5

	guardReady = 'r' // guard to parent: watching
	guardDone  = 'd' // parent to guard: thawed, nothing to do
)

// GuardCommand is the program and arguments that end in RunThawGuard.
type GuardCommand []string

// SelfGuard is this executable with a hidden argument, which its main has to
// answer with RunThawGuard before anything else. It needs /proc.
func SelfGuard(hidden string) GuardCommand {
	return GuardCommand{"/proc/self/exe", hidden}
}

// Settle puts everything that was written to the filesystem of dir where a
// reader finds it who replays no journal, as GRUB does: it freezes the
// filesystem, which empties the journal, and thaws it. fsync is not enough: it
// is content with the journal (ostreedev/ostree#876).
//
// Whatever happens to this process in between, a child started by guard thaws.
// A filesystem without freezing has no journal to replay and is synced instead.
func Settle(dir string, guard GuardCommand) error {
	frozen, err := freeze(dir, guard)
	if err != nil {
		return fmt.Errorf("settle filesystem of %s: %w", dir, err)
	}
	if err := frozen.thaw(); err != nil {
		return fmt.Errorf("settle filesystem of %s: %w", dir, err)
	}
	return nil
}

// frozenFS is a filesystem between freeze and thaw.
type frozenFS struct {
	dir    *os.File
	guard  *exec.Cmd
	order  *os.File
	frozen bool
}

func freeze(path string, guard GuardCommand) (_ *frozenFS, err error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	f := &frozenFS{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.thaw())
		}
	}()
	// The guard watches before the freeze: later, starting it might need the
	// very filesystem.
	if err := f.startGuard(guard); err != nil {
		return nil, err
	}
	switch err := freezeIoctl(dir, ioctlFIFREEZE); {
	case err == nil:
		f.frozen = true
		return f, nil
	case errors.Is(err, syscall.EOPNOTSUPP):
		// vfat, overlayfs and others have no freeze_fs (fs/ioctl.c).
		return f, syncWithoutFreeze(dir)
	case errors.Is(err, syscall.EBUSY):
		return nil, report.Hint(fmt.Errorf("freeze: %w", err),
			"something else has frozen it, a snapshot for example: wait for it, or run fsfreeze --unfreeze on its mount point")
	case errors.Is(err, syscall.EPERM):
		return nil, report.Hint(fmt.Errorf("freeze: %w", err), "run it as root")
	default:
		return nil, fmt.Errorf("freeze: %w", err)
	}
}

// syncWithoutFreeze writes the whole filesystem back. vfat's syncfs stops at
// the disk's cache; fsync of a directory flushes that (fat_file_fsync).
func syncWithoutFreeze(dir *os.File) error {
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("syncfs: %w", err)
	}
	err := dir.Sync()
	if errors.Is(err, syscall.EINVAL) {
		return nil // fsync(2): a filesystem that has none for directories
	}
	return err
}

// thaw undoes freeze, in whatever state that has ended.
func (f *frozenFS) thaw() error {
	var errs []error
	if f.frozen {
		err := freezeIoctl(f.dir, ioctlFITHAW)
		// EINVAL is "not frozen": the guard's time ran out. Frozen it was.
		if err != nil && !errors.Is(err, syscall.EINVAL) {
			errs = append(errs, fmt.Errorf("thaw: %w", err))
		}
	}
	if f.order != nil {
		// Not after an error: then the guard shall try, as this closes its pipe.
		if len(errs) == 0 {
			_, err := f.order.Write([]byte{guardDone})
			// EPIPE: the guard is gone already, its time was over or it was killed.
			if err != nil && !errors.Is(err, syscall.EPIPE) {
				errs = append(errs, fmt.Errorf("dismiss thaw guard: %w", err))
			}
		}
		errs = append(errs, f.order.Close())
	}
	if f.guard != nil && f.guard.Process != nil {
		// Its exit status is of no use any more: thawed or not is known.
		var status *exec.ExitError
		if err := f.guard.Wait(); err != nil && !errors.As(err, &status) {
			errs = append(errs, fmt.Errorf("wait for thaw guard: %w", err))
		}
	}
	return errors.Join(append(errs, f.dir.Close())...)
}

// startGuard returns when the guard has said that it watches.
func (f *frozenFS) startGuard(command GuardCommand) (err error) {
	if len(command) == 0 {
		return errors.New("start thaw guard: no command")
	}
	orderRead, orderWrite, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start thaw guard: %w", err)
	}
	defer orderRead.Close()
	f.order = orderWrite
	readyRead, readyWrite, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start thaw guard: %w", err)
	}
	defer readyRead.Close()

	f.guard = exec.Command(command[0], command[1:]...)
	f.guard.ExtraFiles = []*os.File{
		guardDirFD - 3: f.dir, guardOrderFD - 3: orderRead, guardReadyFD - 3: readyWrite,
	}
	// A session of its own keeps the terminal's Ctrl-C and hang-up away.
	f.guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = f.guard.Start()
	if closeErr := readyWrite.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("start thaw guard %s: %w", command[0], err)
	}
	ready := make([]byte, 1)
	if _, err := io.ReadFull(readyRead, ready); err != nil || ready[0] != guardReady {
		return errors.Join(fmt.Errorf("start thaw guard %s: it does not answer", command[0]), err)
	}
	return nil
}

// RunThawGuard is the child's side of Settle: it thaws when the parent dies, or
// when the filesystem is still frozen after a minute, and does nothing when the
// parent has thawed. nil also means that there was nothing to thaw.
func RunThawGuard() error {
	// A service that is stopped signals all its processes, this one too.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	// Only a non-blocking descriptor takes a deadline.
	if err := syscall.SetNonblock(guardOrderFD, true); err != nil {
		return fmt.Errorf("watch frozen filesystem: %w", err)
	}
	dir, order := os.NewFile(guardDirFD, "frozen directory"), os.NewFile(guardOrderFD, "order")
	ready := os.NewFile(guardReadyFD, "ready")
	_, err := ready.Write([]byte{guardReady})
	if err := errors.Join(err, ready.Close()); err != nil {
		return fmt.Errorf("watch frozen filesystem: %w", err)
	}
	for {
		if err := order.SetReadDeadline(time.Now().Add(thawAfter)); err != nil {
			return errors.Join(fmt.Errorf("watch frozen filesystem: %w", err), thawIfFrozen(dir))
		}
		got := make([]byte, 1)
		n, err := order.Read(got)
		if n == 1 && got[0] == guardDone {
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return thawIfFrozen(dir)
		}
		// EINVAL: a slow disk is not frozen yet. Stay for what comes.
		if err := freezeIoctl(dir, ioctlFITHAW); !errors.Is(err, syscall.EINVAL) {
			return err
		}
	}
}

// thawIfFrozen tolerates EINVAL, "not frozen": the parent died before the freeze
// or after the thaw; and EOPNOTSUPP: it could not freeze this filesystem either.
func thawIfFrozen(dir *os.File) error {
	err := freezeIoctl(dir, ioctlFITHAW)
	if err == nil || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EOPNOTSUPP) {
		return nil
	}
	return fmt.Errorf("thaw filesystem: %w", err)
}

// freezeIoctl repeats after EINTR: freezing waits for writers, and Go's runtime
// sends itself signals to preempt.
func freezeIoctl(dir *os.File, request uint) error {
	for {
		err := unix.IoctlSetInt(int(dir.Fd()), request, 0)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
