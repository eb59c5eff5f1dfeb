package boot

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"reimager/report"
)

// Entry is a GRUB menu entry that boots one Linux kernel with one initrd.
type Entry struct {
	// ID is what next_entry names: letters, digits, '.', '_' and '-', starting
	// with a letter.
	ID string
	// Title is the line in the menu.
	Title string
	// FSUUID is the UUID of the filesystem that holds Kernel and Initrd. There
	// is no way around it: searching by file would take the first disk with such
	// a path, a USB stick included.
	FSUUID string
	// FSType is that filesystem's type as in /proc/self/mountinfo.
	FSType string
	// Kernel and Initrd are absolute paths in that filesystem, which are not
	// those in the system when /boot is a partition of its own.
	Kernel, Initrd string
	// Cmdline has one kernel parameter per element.
	Cmdline []string
	// Gate is the absolute path of a Gate of RunID on the same filesystem: the entry
	// exists only while that says GateArmed.
	Gate, RunID string
}

// kernelCmdlineMax is COMMAND_LINE_SIZE on x86 without the final NUL. The
// kernel cuts what is longer without a word.
const kernelCmdlineMax = 2047

// grubFSModules names the GRUB module that reads each filesystem.
func grubFSModules() map[string]string {
	return map[string]string{
		"ext2": "ext2", "ext3": "ext2", "ext4": "ext2",
		"xfs": "xfs", "btrfs": "btrfs", "f2fs": "f2fs", "jfs": "jfs",
		"vfat": "fat", "msdos": "fat",
	}
}

// grubFailedVar is exported to the second reading of grub.cfg.
const grubFailedVar = "reimager_failed"

// Render returns the entry as GRUB script, or says why GRUB could not boot it.
//
// A failing command in a menu entry prints its error, waits for a key for ten
// seconds and goes back to the menu, without a time-out this time
// (grub-core/normal/menu.c unsets it): an unattended machine would stay there.
// And a kernel whose initrd failed would be booted all the same, as the end of
// an entry boots whatever is loaded. So whatever fails ends in reading grub.cfg
// again, with a variable set that hides this entry. By then GRUB has cleared
// next_entry, and the default is the usual one; where it could not write, the
// default names an entry that is not there, and GRUB takes the first. A plain
// reboot would come back here for ever on such a machine; it is only what
// follows when grub.cfg cannot be read any more, and when the initrd has failed: then a
// kernel is loaded, and the next one would lose its command line (see LifeboatScript).
// The gate is closed before, and where that fails, too, grub.cfg is read again.
//
// The gate is read into variables that were emptied before, and each failure on the
// way (no such filesystem, no file, no block, no command) leaves them empty: then
// there is no entry. GRUB prints the error and goes on, since nobody waits for a key
// while grub.cfg is read. $root is not touched, as entries that follow may use it.
func (e Entry) Render() (string, error) {
	if err := e.check(); err != nil {
		return "", fmt.Errorf("write GRUB entry %q: %w", e.ID, err)
	}
	linux := []string{"linux", grubQuote(e.Kernel)}
	for _, parameter := range e.Cmdline {
		linux = append(linux, grubQuote(parameter))
	}
	lines := []string{
		"insmod part_msdos",
		"insmod part_gpt",
		"insmod " + grubFSModules()[e.FSType],
		"set " + gateVar + "=",
		"set " + gateRunVar + "=",
		"set " + gateBerthVar + "=",
		"set " + gateDiskVar + "=",
		"if search --no-floppy --fs-uuid --set=" + gateDiskVar + " " + grubQuote(e.FSUUID) + "; then",
		"\tload_env --file " + e.gateOn(gateDiskVar) + " " + gateVar + " " + gateRunVar + " " + gateBerthVar,
		"fi",
		e.prove(),
		`if [ "${` + grubFailedVar + `}" != 1 -a "${` + gateVar + `}" = ` + string(GateArmed) + ` -a "${` + gateRunVar + `}" = ` + grubQuote(e.RunID) + ` ]; then`,
		"menuentry " + grubQuote(e.Title) + " --id " + grubQuote(e.ID) + " --unrestricted {",
		"\tinsmod part_msdos",
		"\tinsmod part_gpt",
		"\tinsmod " + grubFSModules()[e.FSType],
		"\tif search --no-floppy --fs-uuid --set=root " + grubQuote(e.FSUUID) + "; then",
		"\t\tif " + strings.Join(linux, " ") + "; then",
		"\t\t\tif initrd " + grubQuote(e.Initrd) + "; then",
		"\t\t\t\tboot",
		"\t\t\tfi",
		indent(3, e.closeGate("root")...),
		`			if [ "${` + gateVar + `}" = ` + string(GateTried) + ` ]; then`,
		"\t\t\t\treboot",
		"\t\t\tfi",
		"\t\tfi",
		"\tfi",
		"\tset " + grubFailedVar + "=1",
		"\texport " + grubFailedVar,
		"\tconfigfile $prefix/grub.cfg",
		"\treboot",
		"}",
		"fi",
	}
	return strings.Join(lines, "\n") + "\n", nil
}

// gateOn is the gate in GRUB's words, on the device that a variable names.
func (e Entry) gateOn(device string) string { return `"(${` + device + `})"` + grubQuote(e.Gate) }

// closeGate are commands that overwrite the gate, and leave in its variable what was
// read back: GRUB takes a command that it does not know for true, but one that has not
// set a variable has not.
func (e Entry) closeGate(device string) []string {
	return []string{
		"insmod loadenv",
		"set " + gateVar + "=" + string(GateTried),
		"save_env --file " + e.gateOn(device) + " " + gateVar,
		"set " + gateVar + "=",
		"load_env --file " + e.gateOn(device) + " " + gateVar,
	}
}

// indent makes lines of commands that are inside of others.
func indent(depth int, commands ...string) string {
	tabs := strings.Repeat("\t", depth)
	return tabs + strings.Join(commands, "\n"+tabs)
}

// prove starts the lifeboat once, while grub.cfg is read and before there is a menu.
//
// The gate must be closed before: what is started may hang.
//
// A block list of a disk that is none of the BIOS's (LVM, RAID) would be read inside of
// that, and a filesystem without a partition is not on the disk of any berth. The
// chainloader hands over the drive number of $root; where it fails $root is put back.
func (e Entry) prove() string {
	return strings.Join([]string{
		`if [ "${grub_platform}" = pc -a "${` + gateVar + `}" = ` + string(GateProve) + ` -a "${` + gateRunVar + `}" = ` + grubQuote(e.RunID) + ` ]; then`,
		indent(1, e.closeGate(gateDiskVar)...),
		"\tinsmod regexp",
		"\tinsmod chain",
		"\tset reimager_whole=",
		"\tregexp --set=1:reimager_whole '^(hd[0-9]+),' \"${" + gateDiskVar + "}\"",
		`	if [ "${` + gateVar + `}" = ` + string(GateTried) + ` -a -n "${reimager_whole}" ]; then`,
		"\t\tset reimager_root=\"${root}\"",
		"\t\tset root=\"${reimager_whole}\"",
		"\t\tif chainloader \"(${reimager_whole})${" + gateBerthVar + "}+1\"; then",
		"\t\t\tboot",
		"\t\tfi",
		"\t\tset root=\"${reimager_root}\"",
		"\tfi",
		"fi",
	}, "\n")
}

func (e Entry) check() error {
	if err := checkEntryID(e.ID); err != nil {
		return err
	}
	if e.Title == "" || hasControl(e.Title) {
		return fmt.Errorf("title %q is empty or has control characters", e.Title)
	}
	if !regexp.MustCompile(`^[0-9A-Za-z-]+$`).MatchString(e.FSUUID) {
		return report.Hint(fmt.Errorf("filesystem UUID %q is none", e.FSUUID),
			"GRUB finds the filesystem of kernel and initrd by its UUID; give it one (tune2fs -U random DEVICE)")
	}
	if grubFSModules()[e.FSType] == "" {
		return report.Hint(fmt.Errorf("filesystem type %q: GRUB may not read it", e.FSType),
			"put kernel and initrd on ext4, xfs or vfat")
	}
	if err := CheckRunID(e.RunID); err != nil {
		return err
	}
	for _, file := range []string{e.Kernel, e.Initrd, e.Gate} {
		if !path.IsAbs(file) || path.Clean(file) != file || hasControl(file) {
			return fmt.Errorf("path %q is not absolute and clean", file)
		}
	}
	return checkCmdline(len(e.Kernel), e.Cmdline)
}

// checkCmdline makes sure that a kernel gets each parameter as it is. kernel is the
// length of its file's name in bytes, which GRUB puts before them.
func checkCmdline(kernel int, cmdline []string) error {
	length := len("BOOT_IMAGE=") + kernel
	for _, parameter := range cmdline {
		// GRUB's linux command puts a backslash before each of these
		// (grub-core/lib/cmdline.c), and the kernel takes it as it is.
		if parameter == "" || hasControl(parameter) || strings.ContainsAny(parameter, `'"\`) {
			return fmt.Errorf("kernel parameter %q is empty or has a quote, a backslash or a control character", parameter)
		}
		length += 1 + len(parameter)
		if strings.Contains(parameter, " ") {
			length += 2
		}
	}
	if length > kernelCmdlineMax {
		return fmt.Errorf("kernel command line has %d bytes, the kernel reads %d", length, kernelCmdlineMax)
	}
	return nil
}

// checkEntryID keeps out what GRUB gives a meaning: '>' parts a submenu from
// its entry, and a number is a place in the menu.
func checkEntryID(id string) error {
	if !regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*$`).MatchString(id) {
		return fmt.Errorf("entry id %q: want letters, digits, '.', '_', '-', starting with a letter", id)
	}
	return nil
}

// grubQuote makes one word of GRUB script of s. As in a shell, nothing is
// special between single quotes but the closing one.
func grubQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f })
}
