package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"reimager/report"
)

// GRUB is the GRUB 2 installation of one system, by its files.
type GRUB struct {
	root string // where the system's "/" is
	dir  string // GRUB's directory below it, without a leading slash
}

// CheckConfig reads grub.cfg and makes sure that a menu entry of ours is seen, in
// custom.cfg or as a boot loader entry, and that next_entry is honoured and cleared, as
// the stock 00_header, 41_custom and 10_linux of GRUB's grub-mkconfig do it. It reads
// commands, not their conditions.
func (g *GRUB) CheckConfig() error {
	_, err := g.ReadsBLS()
	return err
}

// ReadsBLS is CheckConfig, and tells whether ours has to be a boot loader entry, since
// custom.cfg is not read.
func (g *GRUB) ReadsBLS() (bls bool, err error) {
	err = g.beneath("check GRUB", func(system *os.Root) error {
		name, err := resolveBeneath(system, path.Join(g.dir, "grub.cfg"))
		if err != nil {
			return err
		}
		config, err := system.ReadFile(name)
		if err != nil {
			return err
		}
		if bls, err = checkGRUBConfig(string(config)); err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(g.root, name), err)
		}
		if bls {
			return checkBLS(system)
		}
		return nil
	})
	return bls, err
}

func checkGRUBConfig(config string) (bls bool, err error) {
	const regenerate = "restore /etc/grub.d/%s from the distribution's package and run update-grub (grub2-mkconfig -o grub.cfg on Red Hat)"
	has := func(command string) bool {
		return regexp.MustCompile(`(?m)^([^#\n]*[\s;])?` + command).MatchString(config)
	}
	for _, want := range []struct{ command, pattern, script string }{
		{"load_env", `load_env(\s|;|$)`, "00_header"},
		{`set default="${next_entry}"`, `set\s+default="?\$(\{next_entry\}|next_entry\b)"?`, "00_header"},
		{"save_env next_entry", `save_env\s(.*\s)?next_entry(\s|;|$)`, "00_header"},
		{"source …/custom.cfg", `(source|\.)\s+"?\$\{?(config_directory|prefix)\}?/custom\.cfg"?(\s|;|$)`, "41_custom"},
	} {
		if has(want.pattern) {
			continue
		}
		if want.script == "41_custom" && has(`blscfg(\s|;|$)`) {
			return true, nil
		}
		return false, report.Hint(fmt.Errorf("no command %s", want.command), regenerate, want.script)
	}
	return false, nil
}

// CheckEntry makes sure that InstallEntry will take an entry, and tells whether it makes
// a boot loader entry of it. It changes nothing.
func (g *GRUB) CheckEntry(e Entry) (bls bool, err error) {
	if _, err = e.Render(); err != nil {
		return false, err
	}
	if bls, err = g.ReadsBLS(); err == nil && bls {
		_, err = e.RenderBLS()
	}
	return bls, err
}

// InstallEntry puts the entry into custom.cfg, in the place of one that was
// installed before. Every other byte of that file stays. Where custom.cfg is not read it
// becomes a boot loader entry.
func (g *GRUB) InstallEntry(e Entry) error {
	bls, err := g.CheckEntry(e)
	if err != nil {
		return err
	}
	if bls {
		return g.installBLS(e)
	}
	body, err := e.Render()
	if err != nil {
		return err
	}
	return g.editCustom("install GRUB entry", func(old customFile) (customFile, error) {
		return installBlock(old, body)
	})
}

// RemoveEntry takes back what InstallEntry did: custom.cfg is as it was, or
// gone if there was none. An entry that is not there is no error.
func (g *GRUB) RemoveEntry() error {
	return errors.Join(g.editCustom("remove GRUB entry", removeBlock), g.removeBLS())
}

func (g *GRUB) editCustom(object string, edit func(customFile) (customFile, error)) error {
	return g.beneath(object, func(system *os.Root) error {
		name, err := resolveBeneath(system, path.Join(g.dir, "custom.cfg"))
		if err != nil {
			return err
		}
		var old customFile
		switch content, err := system.ReadFile(name); {
		case err == nil:
			old = customFile{exists: true, text: string(content)}
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		changed, err := edit(old)
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", filepath.Join(g.root, name), err)
		case changed == old:
			return nil
		case !changed.exists:
			return removeFile(system, name)
		}
		return replaceFile(system, name, []byte(changed.text))
	})
}

// SetNextEntry makes GRUB boot the entry with this id once. A next_entry that
// names another one is somebody else's and an error.
func (g *GRUB) SetNextEntry(id string) error {
	if err := checkEntryID(id); err != nil {
		return fmt.Errorf("set GRUB's next entry: %w", err)
	}
	bls, err := g.ReadsBLS()
	if err != nil {
		return err
	}
	if bls {
		id = blsMark + id
	}
	return g.editEnv("set GRUB's next entry", true, func(env *Env, file string) error {
		if next, _ := env.Get(nextEntry); next != "" && strings.TrimPrefix(next, blsMark) != strings.TrimPrefix(id, blsMark) {
			return report.Hint(fmt.Errorf("%s: next_entry is already %q", file, next),
				"something else wants to boot once; let it, or run: grub-editenv %s unset next_entry", file)
		}
		return env.Set(nextEntry, id)
	})
}

// ClearNextEntry takes SetNextEntry back. A next_entry that names another entry
// than id stays. It also works on a block that GRUB itself cannot write.
func (g *GRUB) ClearNextEntry(id string) error {
	return g.editEnv("clear GRUB's next entry", false, func(env *Env, _ string) error {
		if next, _ := env.Get(nextEntry); strings.TrimPrefix(next, blsMark) == id {
			env.Unset(nextEntry)
		}
		return nil
	})
}

// NextEntry is the id of the entry that GRUB will boot once, "" for none.
func (g *GRUB) NextEntry() (string, error) {
	var next string
	err := g.editEnv("read GRUB's next entry", false, func(env *Env, _ string) error {
		next, _ = env.Get(nextEntry)
		return nil
	})
	return strings.TrimPrefix(next, blsMark), err
}

const nextEntry = "next_entry"

// editEnv applies edit to grubenv and writes the file if that changed it. With
// forGRUB the file must be there and GRUB must be able to write it; otherwise
// there is nothing to edit in a missing one.
func (g *GRUB) editEnv(object string, forGRUB bool, edit func(env *Env, file string) error) error {
	return g.beneath(object, func(system *os.Root) error {
		// Red Hat on UEFI: grubenv is a symlink onto the EFI system partition.
		// Replacing the link would leave GRUB with the old file.
		name, err := resolveBeneath(system, path.Join(g.dir, "grubenv"))
		if err != nil {
			return err
		}
		file := filepath.Join(g.root, name)
		block, err := readWhole(system, name, EnvSize, forGRUB)
		if errors.Is(err, fs.ErrNotExist) && !forGRUB {
			return nil
		}
		var env *Env
		if err == nil {
			env, err = ParseEnv(block)
		}
		if err != nil {
			return report.Hint(fmt.Errorf("%s: %w", file, err),
				"make a new one, which GRUB can write: rm -f %s; grub-editenv %s create (grub2-editenv on Red Hat)", file, file)
		}
		if err := edit(env, file); err != nil {
			return err
		}
		changed := env.Encode()
		if string(changed) == string(block) {
			return nil
		}
		return replaceFile(system, name, changed)
	})
}

func (g *GRUB) beneath(object string, do func(*os.Root) error) error {
	system, err := os.OpenRoot(g.root)
	if err != nil {
		return fmt.Errorf("%s: %w", object, err)
	}
	defer system.Close()
	if err := do(system); err != nil {
		return fmt.Errorf("%s: %w", object, err)
	}
	return nil
}

// customFile is custom.cfg as it is or shall be.
type customFile struct {
	exists bool
	text   string
}

// The lines around what is ours in custom.cfg. The first also says what has to
// be undone beyond removing the lines.
const (
	blockBegin   = "### BEGIN reimager"
	blockEnd     = "### END reimager ###"
	blockCreated = "file created"
	blockNewline = "newline added"
)

// installedBlock is where our lines are in custom.cfg.
type installedBlock struct {
	start, end int // of the lines, with the final newline
	begin      string
}

func (b installedBlock) note(what string) bool {
	return strings.Contains(b.begin, ": "+what+" ")
}

func findBlock(text string) (block installedBlock, found bool, err error) {
	offset, open, ends := 0, false, 0
	for line := range strings.Lines(text) {
		bare := strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(bare, blockBegin):
			if open || ends > 0 {
				return block, false, errBlock("a second line %q", bare)
			}
			block.start, block.begin, open = offset, bare, true
		case bare == blockEnd:
			if !open {
				return block, false, errBlock("line %q without the one before", bare)
			}
			block.end, open, ends = offset+len(line), false, ends+1
		}
		offset += len(line)
	}
	if open {
		return block, false, errBlock("line %q without the one that ends it", block.begin)
	}
	return block, ends == 1, nil
}

func errBlock(format string, args ...any) error {
	return report.Hint(fmt.Errorf(format, args...), "remove what is left of the reimager's entry by hand")
}

func installBlock(old customFile, body string) (customFile, error) {
	block, found, err := findBlock(old.text)
	if err != nil {
		return old, err
	}
	if found {
		text := old.text[:block.start] + block.begin + "\n" + body + blockEnd + "\n" + old.text[block.end:]
		return customFile{exists: true, text: text}, nil
	}
	before, begin := old.text, blockBegin+" ###"
	switch {
	case !old.exists:
		begin = blockBegin + ": " + blockCreated + " ###"
	case before != "" && !strings.HasSuffix(before, "\n"):
		before += "\n"
		begin = blockBegin + ": " + blockNewline + " ###"
	}
	return customFile{exists: true, text: before + begin + "\n" + body + blockEnd + "\n"}, nil
}

func removeBlock(old customFile) (customFile, error) {
	block, found, err := findBlock(old.text)
	if err != nil || !found {
		return old, err
	}
	before, after := old.text[:block.start], old.text[block.end:]
	// With text behind it, the newline that was added parts two lines now.
	if block.note(blockNewline) && after == "" {
		before = strings.TrimSuffix(before, "\n")
	}
	text := before + after
	return customFile{exists: text != "" || !block.note(blockCreated), text: text}, nil
}
