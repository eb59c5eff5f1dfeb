package wake

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Console is a terminal that the kernel was told to use.
type Console struct {
	Name   string // tty1, ttyS0
	Screen bool   // a virtual terminal, which can redraw a line
}

// Consoles lists the kernel's consoles. tty0 means whichever terminal is in
// front; the first is meant, so that a diagnosis shell in front keeps its screen.
func Consoles() ([]Console, error) {
	text, err := os.ReadFile("/proc/consoles")
	if err != nil {
		return nil, fmt.Errorf("list consoles: %w", err)
	}
	var consoles []Console
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(line, " ")
		number, vt := strings.CutPrefix(name, "tty")
		vt = vt && strings.Trim(number, "0123456789") == ""
		if vt && number == "0" {
			name = "tty1"
		}
		consoles = append(consoles, Console{Name: name, Screen: vt})
	}
	return consoles, nil
}

// Open opens the console for writing.
func (c Console) Open() (*os.File, error) {
	return os.OpenFile("/dev/"+c.Name, os.O_WRONLY|unix.O_NOCTTY, 0)
}
