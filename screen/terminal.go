package screen

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// terminal is a virtual terminal of the kernel. Keys that are pressed on it do nothing
// to the page, except that Alt and a function key bring another one to the front.
type terminal struct {
	// fd does not block: with Scroll Lock a terminal takes nothing.
	fd  int
	vcs *os.File // what is on it: vcs(4); nil if the kernel has none
	// seen is what was on it when we had drawn.
	seen []byte
	lost bool // it has not taken all that was written
}

// vtActivate brings a terminal to the front: VT_ACTIVATE of linux/vt.h.
const vtActivate = 0x5606

// openTerminal opens virtual terminal n and brings it to the front.
func openTerminal(n int) (*terminal, error) {
	name := fmt.Sprintf("/dev/tty%d", n)
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open screen %s: %w", name, err)
	}
	t := &terminal{fd: fd}
	// Without it damage is repaired by drawing everything now and then.
	t.vcs, _ = os.Open(fmt.Sprintf("/dev/vcs%d", n))
	if err := t.deaf(); err != nil {
		return t, fmt.Errorf("keep keys off %s: %w", name, err)
	}
	if err := unix.IoctlSetInt(fd, vtActivate, n); err != nil {
		return t, fmt.Errorf("bring %s to the front: %w", name, err)
	}
	return t, nil
}

// deaf keeps what is typed from being shown, and Ctrl-S from stopping the page.
func (t *terminal) deaf() error {
	settings, err := unix.IoctlGetTermios(t.fd, unix.TCGETS)
	if err != nil {
		return err
	}
	settings.Iflag &^= unix.IXON
	settings.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	return unix.IoctlSetTermios(t.fd, unix.TCSETS, settings)
}

// size is that of the terminal in characters: 80 by 25 in VGA text mode, and whatever
// fits on a frame buffer.
func (t *terminal) size() (width, height int) {
	const usualWidth, usualHeight, most = 80, 25, 1 << 10
	size, err := unix.IoctlGetWinsize(t.fd, unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 || size.Row == 0 {
		return usualWidth, usualHeight
	}
	return min(int(size.Col), most), min(int(size.Row), most)
}

// damaged tells whether something else is on the screen than what was drawn: a message
// of the kernel, or of whatever has the same terminal.
func (t *terminal) damaged() bool {
	return t.lost || t.seen != nil && !bytes.Equal(t.seen, t.look())
}

func (t *terminal) write(b []byte) {
	// Scroll Lock stops a terminal. TCOON starts only one that TCOOFF has stopped:
	// drivers/tty/tty_ioctl.c. What is no terminal is not stopped either.
	_ = unix.IoctlSetInt(t.fd, unix.TCXONC, unix.TCOOFF)
	_ = unix.IoctlSetInt(t.fd, unix.TCXONC, unix.TCOON)
	for len(b) > 0 {
		n, err := unix.Write(t.fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			break
		}
		b = b[n:]
	}
	t.lost = len(b) > 0
	t.seen = t.look()
}

// look returns the characters on the screen.
func (t *terminal) look() []byte {
	if t.vcs == nil {
		return nil
	}
	width, height := t.size()
	b := make([]byte, width*height)
	n, _ := t.vcs.ReadAt(b, 0) // short after a resize, which shows elsewhere
	return b[:n]
}
