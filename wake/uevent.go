package wake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Uevents listens to what the kernel says of devices that come and go.
type Uevents struct {
	fd      int
	changed chan struct{} // holds a token when something was said since the last look
	alias   func(modalias string)
	look    func() // may be nil
}

// OnLook has f called each time that Await looks: it waits, and does not hang.
func (u *Uevents) OnLook(f func()) { u.look = f }

// receiveBuffer holds what a machine full of devices says while we are busy.
const receiveBuffer = 4 << 20

// ListenUevents opens the kernel's uevent socket. alias is called, from another
// goroutine, for each device that asks for a driver. It listens until the process
// ends.
func ListenUevents(alias func(modalias string)) (*Uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open uevent socket: %w", err)
	}
	// Group 1 is the kernel's own; 2 is udev's (lib/kobject_uevent.c).
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind uevent socket: %w", err), unix.Close(fd))
	}
	// A lost event costs only the time to the next look.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	u := &Uevents{fd: fd, changed: make(chan struct{}, 1), alias: alias}
	go u.receive()
	return u, nil
}

func (u *Uevents) receive() {
	buf := make([]byte, 16<<10)
	for {
		n, _, err := unix.Recvfrom(u.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) { // ENOBUFS: events were lost, so look
			return
		}
		if err == nil {
			if a := modalias(buf[:n]); a != "" {
				u.alias(a)
			}
		}
		select {
		case u.changed <- struct{}{}:
		default:
		}
	}
}

// modalias returns the alias of a device that was added: the message is
// "add@/devices/…" and then KEY=value strings, each ended by a zero byte.
func modalias(message []byte) string {
	if !bytes.HasPrefix(message, []byte("add@")) {
		return ""
	}
	for field := range strings.SplitSeq(string(message), "\x00") {
		if a, ok := strings.CutPrefix(field, "MODALIAS="); ok {
			return a
		}
	}
	return ""
}

// lookAnyway is how often a condition is tried although no event came, in case
// what it waits for says nothing (a filesystem that becomes readable).
const lookAnyway = 500 * time.Millisecond

// Await returns when found says so. It looks at once, then after each event.
// When the time is up the error names what did not come, and what found said
// last.
func (u *Uevents) Await(ctx context.Context, what string, timeout time.Duration, found func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(lookAnyway)
	defer tick.Stop()
	for {
		if u.look != nil {
			u.look()
		}
		ok, err := found()
		if ok {
			return nil
		}
		select {
		case <-u.changed:
		case <-tick.C:
		case <-ctx.Done():
			if err != nil {
				return fmt.Errorf("wait for %s: not there after %s: %w", what, timeout, err)
			}
			return fmt.Errorf("wait for %s: not there after %s", what, timeout)
		}
	}
}
