package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf16"

	"reimager/report"
)

// ErrNoGRUB says that a system has no GRUB at all, as opposed to one that is not read.
var ErrNoGRUB = errors.New("neither boot/grub/grub.cfg nor boot/grub2/grub.cfg is there")

// FindGRUB finds GRUB's directory, the one with the grub.cfg that the machine is booted
// by, in the system whose "/" is root: /boot/grub as Debian has it, /boot/grub2 as Red
// Hat has it, or, on UEFI before RHEL 9, the one on the EFI system partition. What lies
// there elsewhere leads to one of the others.
func FindGRUB(root string) (*GRUB, error) {
	const object = "find GRUB"
	system, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", object, err)
	}
	defer system.Close()
	found, err := withConfig(system, "boot/grub", "boot/grub2")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", object, err)
	}
	if _, err := system.Stat("sys/firmware/efi"); err == nil {
		if found, err = narrow(system, found); err != nil {
			return nil, fmt.Errorf("%s in %s: %w", object, root, err)
		}
	}
	switch len(found) {
	case 0:
		return nil, report.Hint(
			fmt.Errorf("%s in %s: %w", object, root, ErrNoGRUB),
			"mount /boot, and /boot/efi on UEFI, if they are partitions of their own")
	case 1:
		return &GRUB{root: root, dir: found[0]}, nil
	}
	return nil, report.Hint(
		fmt.Errorf("%s in %s: both %s/grub.cfg and %s/grub.cfg are there", object, root, found[0], found[1]),
		"remove the one that the machine is not booted by")
}

// withConfig returns those directories that have a grub.cfg.
func withConfig(system *os.Root, dirs ...string) ([]string, error) {
	var found []string
	for _, dir := range dirs {
		config, err := resolveBeneath(system, dir+"/grub.cfg")
		if err != nil {
			return nil, err
		}
		switch info, err := system.Stat(config); {
		case err == nil && info.Mode().IsRegular():
			found = append(found, dir)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return found, nil
}

// espVendors is where each system has its loader on the EFI system partition.
const espVendors = "boot/efi/EFI"

// narrow asks the EFI system partition which of the directories the machine is booted
// by. Where its grub.cfgs disagree, the one beside the loader that firmware has started
// counts.
func narrow(system *os.Root, plain []string) ([]string, error) {
	name, err := resolveBeneath(system, espVendors)
	if err != nil {
		return nil, err
	}
	entries, err := fs.ReadDir(system.FS(), name)
	if errors.Is(err, fs.ErrNotExist) {
		return plain, nil // GRUB's image may know its directory itself
	}
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, e := range entries {
		dirs = append(dirs, path.Join(name, e.Name()))
	}
	dirs, err = withConfig(system, dirs...)
	if err != nil || len(dirs) == 0 {
		return plain, err
	}
	leads := map[string]string{}
	var distinct []string
	for _, dir := range dirs {
		to, err := leadsTo(system, dir, plain)
		if err != nil {
			return nil, err
		}
		leads[strings.ToLower(path.Base(dir))] = to
		if !slices.Contains(distinct, to) {
			distinct = append(distinct, to)
		}
	}
	if len(distinct) > 1 {
		if to, ok := leads[bootedVendor(system)]; ok {
			distinct = []string{to}
		}
	}
	return distinct, nil
}

// leadsTo tells which directory a grub.cfg on the EFI system partition makes GRUB's own:
// another one if it is a stub of the kind that grub-install and Red Hat's packages write.
func leadsTo(system *os.Root, dir string, plain []string) (string, error) {
	name, err := resolveBeneath(system, dir+"/grub.cfg")
	if err != nil {
		return "", err
	}
	config, err := system.ReadFile(name)
	if err != nil {
		return "", err
	}
	if !regexp.MustCompile(`(?m)^\s*configfile\s+"?\$\{?prefix\}?/grub\.cfg"?\s*;?\s*$`).Match(config) || regexp.MustCompile(`(?m)^\s*(menuentry|blscfg|load_env)\b`).Match(config) {
		return dir, nil
	}
	prefix := regexp.MustCompile(`(?m)^\s*set\s+prefix="?\(\$\{?\w+\}?\)'?(/[^\s'";]*)`).FindSubmatch(config)
	if prefix != nil {
		if to := "boot/" + path.Base(string(prefix[1])); slices.Contains(plain, to) {
			return to, nil
		}
	}
	return "", report.Hint(fmt.Errorf("%s leads to a grub.cfg that is not here", name), "mount the filesystem that it is on, on /boot perhaps")
}

// efiGlobal is EFI_GLOBAL_VARIABLE: UEFI 2.10, 3.3.
const efiGlobal = "8be4df61-93ca-11d2-aa0d-00e098032b8c"

// bootedVendor is the folder, in small letters, of the loader that firmware has started,
// by its variables; "" if they do not say.
func bootedVendor(system *os.Root) string {
	read := func(name string) []byte {
		b, err := system.ReadFile("sys/firmware/efi/efivars/" + name + "-" + efiGlobal)
		if err != nil || len(b) < 4 {
			return nil
		}
		return b[4:] // attributes: Documentation/filesystems/efivarfs.rst
	}
	current := read("BootCurrent")
	if len(current) != 2 {
		return ""
	}
	loader := strings.ToLower(loaderPath(read(fmt.Sprintf("Boot%04X", binary.LittleEndian.Uint16(current)))))
	parts := strings.Split(loader, `\`)
	if len(parts) != 4 || parts[1] != "efi" {
		return ""
	}
	return parts[2]
}

// loaderPath returns the file of a boot entry, such as \EFI\redhat\shimx64.efi; "" if it
// names none. EFI_LOAD_OPTION: UEFI 2.10, 3.1.3; file path device path: 10.3.5.4.
func loaderPath(option []byte) string {
	if len(option) < 6 {
		return ""
	}
	pathBytes := int(binary.LittleEndian.Uint16(option[4:]))
	rest := option[6:]
	for len(rest) >= 2 && (rest[0] != 0 || rest[1] != 0) { // the description
		rest = rest[2:]
	}
	if len(rest) < 2+pathBytes {
		return ""
	}
	for rest = rest[2 : 2+pathBytes]; len(rest) >= 4; {
		n := int(binary.LittleEndian.Uint16(rest[2:]))
		if n < 4 || n > len(rest) {
			return ""
		}
		if rest[0] == 4 && rest[1] == 4 {
			var units []uint16
			for b := rest[4:n]; len(b) >= 2 && (b[0] != 0 || b[1] != 0); b = b[2:] {
				units = append(units, binary.LittleEndian.Uint16(b))
			}
			return string(utf16.Decode(units))
		}
		rest = rest[n:]
	}
	return ""
}

// Dir is GRUB's directory, root included.
func (g *GRUB) Dir() string { return filepath.Join(g.root, g.dir) }

// Beside is a folder in which GRUB can surely read what a menu entry needs: that of the
// system's own kernels, since an EFI system partition may have no room.
func (g *GRUB) Beside() string { return filepath.Join(g.root, "boot") }
