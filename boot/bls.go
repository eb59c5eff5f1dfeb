package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"reimager/report"
)

// blsEntries is where the blscfg command of Red Hat's GRUB looks for menu entries, each
// in a file of its own: the Boot Loader Specification, type 1.
const blsEntries = "boot/loader/entries"

// blsMark begins the name of our file, which is the entry's id. Entries are sorted by it
// as RPM sorts versions, where '~' comes before all else and the newest is the first of
// the menu (grub-core/commands/blscfg.c, Red Hat's patch): so ours is its last.
const blsMark = "~"

func blsName(id string) string { return path.Join(blsEntries, blsMark+id+".conf") }

// RenderBLS returns the entry as a file of the Boot Loader Specification. Its paths are
// counted from where GRUB finds the entries. It names no grub_users, without which an
// entry needs no password.
func (e Entry) RenderBLS() (string, error) {
	err := e.check()
	if err == nil && strings.ContainsAny(strings.Join(e.Cmdline, ""), "$ ") {
		err = errors.New("kernel parameters with a space or a $, which GRUB would expand")
	}
	if err == nil && strings.ContainsAny(e.Kernel+e.Initrd, " $'\"\\") {
		err = fmt.Errorf("paths %q and %q need quoting", e.Kernel, e.Initrd)
	}
	if err != nil {
		return "", fmt.Errorf("write boot loader entry %q: %w", e.ID, err)
	}
	return fmt.Sprintf("title %s\nversion 0\nlinux %s\ninitrd %s\noptions %s\ngrub_arg --unrestricted\ngrub_class kernel\n",
		e.Title, e.Kernel, e.Initrd, strings.Join(e.Cmdline, " ")), nil
}

// checkBLS makes sure that entries are where ours would be seen.
func checkBLS(system *os.Root) error {
	name, err := resolveBeneath(system, blsEntries)
	if err != nil {
		return err
	}
	entries, err := fs.Glob(system.FS(), path.Join(name, "*.conf"))
	if err == nil && len(entries) == 0 {
		err = report.Hint(fmt.Errorf("no boot loader entries in /%s, and no command source …/custom.cfg", name),
			"restore /etc/grub.d/41_custom from the distribution's package and run grub2-mkconfig -o grub.cfg")
	}
	return err
}

func (g *GRUB) installBLS(e Entry) error {
	text, err := e.RenderBLS()
	if err != nil {
		return err
	}
	return g.beneath("install boot loader entry", func(system *os.Root) error {
		name, err := resolveBeneath(system, blsName(e.ID))
		if err != nil {
			return err
		}
		return replaceFile(system, name, []byte(text))
	})
}

// removeBLS takes away all entries that have our mark and id.
func (g *GRUB) removeBLS() error {
	return g.beneath("remove boot loader entry", func(system *os.Root) error {
		name, err := resolveBeneath(system, blsEntries)
		if err != nil {
			return err
		}
		ours, err := fs.Glob(system.FS(), path.Join(name, blsMark+"reimager*.conf"))
		if err != nil {
			return err
		}
		for _, name := range ours {
			if err := removeFile(system, name); err != nil {
				return err
			}
		}
		return nil
	})
}

// Settle puts what was written where GRUB reads it: its directory, and the boot loader
// entries, which may be on another filesystem.
func (g *GRUB) Settle(guard GuardCommand) error {
	err := Settle(g.Dir(), guard)
	if _, statErr := os.Stat(filepath.Join(g.root, blsEntries)); statErr == nil {
		err = errors.Join(err, Settle(filepath.Join(g.root, blsEntries), guard))
	}
	return err
}
