package wake

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Watchdog is a hardware watchdog: it resets the machine unless it is fed in time.
// Documentation/watchdog/watchdog-api.rst.
type Watchdog struct {
	Name string // as its driver calls it
	// Timeout is how long it waits for the next feeding.
	Timeout time.Duration
	f       *os.File
	ran     bool // before it was opened
}

// OpenWatchdog opens a watchdog, such as "watchdog0", which starts it, and asks it to
// wait that long, to the second. A watchdog that cannot wait so long, or cannot be
// asked, keeps its own time; so does one that waits longer, since it may have to last
// until the next system is up. One that is not there is os.ErrNotExist.
func OpenWatchdog(name string, timeout time.Duration) (_ *Watchdog, err error) {
	state, _ := os.ReadFile(filepath.Join("/sys/class/watchdog", name, "state")) // CONFIG_WATCHDOG_SYSFS may be off
	w := &Watchdog{ran: strings.TrimSpace(string(state)) == "active"}
	if w.f, err = os.OpenFile("/dev/"+name, os.O_WRONLY, 0); err != nil {
		return nil, fmt.Errorf("open watchdog: %w", err)
	}
	fd := int(w.f.Fd())
	w.Name = name
	if info, err := unix.IoctlGetWatchdogInfo(fd); err == nil {
		w.Name = unix.ByteSliceToString(info.Identity[:])
	}
	if w.Timeout = waits(fd); w.Timeout < timeout {
		// EINVAL: longer than it can. EOPNOTSUPP: it has one time only.
		_ = unix.IoctlSetPointerInt(fd, unix.WDIOC_SETTIMEOUT, int(timeout.Seconds()))
		w.Timeout = waits(fd)
	}
	if err := w.Feed(); err != nil {
		// Better none than one that nobody can feed.
		return nil, errors.Join(err, w.stop())
	}
	return w, nil
}

// waits is how long a watchdog waits; 0 if that is not known.
func waits(fd int) time.Duration {
	seconds, err := unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// Feed makes it wait anew.
func (w *Watchdog) Feed() error {
	if unix.IoctlWatchdogKeepalive(int(w.f.Fd())) == nil {
		return nil
	}
	// A driver without WDIOF_KEEPALIVEPING is fed by any write but that of a V.
	if _, err := w.f.Write([]byte{0}); err != nil {
		return fmt.Errorf("feed watchdog %s: %w", w.Name, err)
	}
	return nil
}

// Release leaves it as it was found. One that did not run is stopped, by the letter V
// before it is closed: the system that starts next may know nothing of it, and may take
// longer than its time. One that ran is fed a last time: the next system is used to it.
// A watchdog that cannot be stopped (nowayout) runs on.
//
// runs tells whether it goes on, and can be fed again.
func (w *Watchdog) Release() (runs bool, err error) {
	if w.ran {
		return true, w.Feed() // closed it would be stopped, or complain
	}
	return false, w.stop()
}

func (w *Watchdog) stop() error {
	_, err := w.f.WriteString("V")
	if err := errors.Join(err, w.f.Close()); err != nil {
		return fmt.Errorf("stop watchdog %s: %w", w.Name, err)
	}
	return nil
}
