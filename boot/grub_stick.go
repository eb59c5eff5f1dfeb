package boot

import (
	"fmt"
	"strings"
)

// StickMenu is the menu of a stick that starts the machine's own disk or replaces its
// system. It is read from the stick, whose GRUB has everything built in.
type StickMenu struct {
	// VolumeID is that of the stick's FAT, as in 1A2B-3C4D.
	VolumeID string
	// Title is the line of what replaces the system.
	Title string
	// Kernel and Initrd are absolute paths on the stick.
	Kernel, Initrd string
	// Cmdline has one kernel parameter per element.
	Cmdline []string
	// Gate is the absolute path of a Gate of RunID. While it says GateArmed the stick
	// replaces by itself, with Once as a further parameter. "": it never does.
	Gate, RunID, Once string
}

// stickSeconds is how long the menu waits for somebody.
const stickSeconds = 10

// stickDisks are where GRUB is looking for the machine's own disk, in the firmware's
// order: a stick that was booted is hd0 for most, but not for all.
const stickDisks = "hd0 hd1 hd2 hd3 hd4 hd5 hd6 hd7"

// startOwnDisk starts the machine's own disk: by its boot sector, with the drive numbers
// as they are without the stick; on UEFI by the loader that firmware falls back to. Where
// there is none, exit leaves it to the firmware, which goes on with its next boot option
// or shows its menu (UEFI 2.10, 3.1.2).
const startOwnDisk = `	if [ "$grub_platform" = efi ]; then
		for disk in ` + stickDisks + `; do
			for part in gpt1 gpt2 gpt3 gpt4 gpt5 gpt6 gpt7 gpt8 msdos1 msdos2 msdos3 msdos4; do
				if [ "$disk" != "$stick" -a -f "($disk,$part)/EFI/BOOT/BOOTX64.EFI" ]; then
					if chainloader "($disk,$part)/EFI/BOOT/BOOTX64.EFI"; then
						boot
					fi
				fi
			done
		done
		exit
	else
		for disk in ` + stickDisks + `; do
			if [ "$disk" != "$stick" ]; then
				set root=$disk
				if [ "$disk" != hd0 ]; then
					drivemap -s hd0 "$disk"
				fi
				if chainloader "($disk)+1"; then
					boot
				fi
				drivemap -r
			fi
		done
	fi
	echo "No disk of this machine has anything that boots."
`

// stickAgain shows the menu again.
const stickAgain = "\tsleep 10\n\tconfigfile $prefix/grub.cfg\n"

// Render returns grub.cfg, or says why GRUB could not boot it.
func (m StickMenu) Render() (string, error) {
	gate, run := m.Gate, m.RunID
	if gate == "" {
		gate, run = "/none", "none" // they are not used below
	}
	e := Entry{ID: "replace", Title: m.Title, FSUUID: m.VolumeID, FSType: "vfat", Kernel: m.Kernel, Initrd: m.Initrd, Gate: gate, RunID: run,
		Cmdline: append(append([]string(nil), m.Cmdline...), "reimager.once")}
	if err := e.check(); err != nil {
		return "", fmt.Errorf("write menu of the stick: %w", err)
	}
	lines := []string{
		"search --no-floppy --fs-uuid --set=root " + grubQuote(m.VolumeID),
		"regexp --set=1:stick '^([^,]*)' \"$root\"",
		"set default=local",
		fmt.Sprintf("set timeout=%d", stickSeconds),
	}
	if m.Gate != "" {
		lines = append(lines,
			"set "+gateVar+"=",
			"set "+gateRunVar+"=",
			"load_env --file \"($root)\""+grubQuote(m.Gate)+" "+gateVar+" "+gateRunVar,
			`if [ "$`+gateVar+`" = `+string(GateArmed)+` -a "$`+gateRunVar+`" = `+grubQuote(m.RunID)+` ]; then`,
			"set default=once",
			m.entry("once", m.Title+" (starts by itself)", m.Once),
			"fi")
	}
	lines = append(lines,
		"menuentry 'Start the own disk of this machine' --id local {\n"+startOwnDisk+stickAgain+"}",
		m.entry("replace", m.Title, ""))
	return strings.Join(lines, "\n") + "\n", nil
}

// entry starts the machine again where it fails: a kernel that is loaded after another
// loses its command line (see LifeboatScript).
func (m StickMenu) entry(id, title, more string) string {
	linux := "linux " + grubQuote(m.Kernel)
	for _, p := range m.Cmdline {
		linux += " " + grubQuote(p)
	}
	if more != "" {
		linux += " " + grubQuote(more)
	}
	return "menuentry " + grubQuote(title) + " --id " + id + " {\n" +
		"\tif " + linux + "; then\n" +
		"\t\tif initrd " + grubQuote(m.Initrd) + "; then\n" +
		"\t\t\tboot\n" +
		"\t\tfi\n" +
		"\tfi\n" +
		"\techo \"The stick cannot be read.\"\n\tsleep 10\n\treboot\n}"
}
