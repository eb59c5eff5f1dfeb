package boot

import (
	"fmt"
	"math"
	"strings"
)

// SectorBytes is the unit of a block list: GRUB_DISK_SECTOR_SIZE.
const SectorBytes = 512

// Blocks is a range of the boot disk in sectors of SectorBytes.
type Blocks struct{ Sector, Count int64 }

// String is GRUB's block list on the disk that was booted.
func (b Blocks) String() string { return fmt.Sprintf("($root)%d+%d", b.Sector, b.Count) }

func (b Blocks) check() error {
	// The first sector is never part of a lifeboat; Count is an unsigned long to GRUB,
	// of 32 bits, and a file's size in bytes fits 63.
	if b.Sector <= 0 || b.Count <= 0 || b.Count > math.MaxUint32 || b.Sector > math.MaxInt64/SectorBytes-b.Count {
		return fmt.Errorf("blocks %d+%d are none of a disk", b.Sector, b.Count)
	}
	return nil
}

// LifeboatParameter names the run and the first sector of its berth to a kernel that
// was started from there: reimager.lifeboat=RUNID@SECTOR.
const LifeboatParameter = "reimager.lifeboat"

// LifeboatScript is what a lifeboat's core runs: it boots the kernel with the initrd,
// from whichever copies can be read, and starts the machine again where none can. It
// waits for no key. A kernel whose initrd fails is never booted.
//
// Once a kernel is loaded no other is: GRUB frees the new kernel's command line when it
// drops the old kernel, and boots it with whatever lies at address 0
// (grub_linux_unload in grub-core/loader/i386/linux.c, called by grub_loader_set).
//
// The text is padded to whole sectors by newlines, so that a block list gives exactly
// this.
func LifeboatScript(kernels, initrds [2]Blocks, cmdline []string) (string, error) {
	for _, b := range append(kernels[:], initrds[:]...) {
		if err := b.check(); err != nil {
			return "", fmt.Errorf("write lifeboat's script: %w", err)
		}
	}
	longest := 0
	for _, k := range kernels {
		longest = max(longest, len(fmt.Sprintf("(hd127)%d+%d", k.Sector, k.Count)))
	}
	if err := checkCmdline(longest, cmdline); err != nil {
		return "", fmt.Errorf("write lifeboat's script: %w", err)
	}
	var linux strings.Builder
	for _, parameter := range cmdline {
		linux.WriteString(" " + grubQuote(parameter))
	}
	var text strings.Builder
	text.WriteString("function lifeboat {\n")
	for _, i := range initrds {
		fmt.Fprintf(&text, "\tif initrd %v; then\n\t\tboot\n\tfi\n", i)
	}
	text.WriteString("\treboot\n}\n")
	for _, k := range kernels {
		fmt.Fprintf(&text, "if linux %v%s; then\n\tlifeboat\nfi\n", k, linux.String())
	}
	text.WriteString("reboot\n")
	pad := sectors(text.Len())*SectorBytes - text.Len()
	return text.String() + strings.Repeat("\n", pad), nil
}
