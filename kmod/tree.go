// Package kmod is the contract about kernel modules between the builder of the
// initrd and PID 1: on the build host a Tree is resolved into a Selection, the
// Selection is baked in as an Index beside the decompressed modules, and on the
// machine a Loader does what the Index says. Nothing is resolved on the machine.
package kmod

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"reimager/report"
)

// Module is one loadable module of a Tree.
type Module struct {
	// Name is the module's name as the kernel writes it, with `_` for `-`.
	Name string
	// Path is the file below the tree's directory, as modules.dep has it.
	Path string
	// Depends are the names of all modules that must be loaded before this one,
	// direct and indirect.
	Depends []string
	// Pre and Post are the names of the modules that should be loaded before and
	// after it where they exist. Filled in by Resolve.
	Pre, Post []string
	// Aliases are the patterns of modules.alias that ask for this module.
	Aliases []string
}

// BuiltIn is a module that is part of the kernel itself.
type BuiltIn struct {
	Name    string
	Aliases []string
}

// Tree is what depmod(8) wrote about one kernel's modules.
type Tree struct {
	// Version is the kernel's release, as uname -r prints it.
	Version string

	dir      string
	modules  map[string]*Module
	builtIns map[string]*BuiltIn
	softDeps map[string]softDep
	aliases  *matcher // of modules
	builtIn  *matcher // of built-in modules
}

// softDep holds names or aliases, as modules.softdep has them.
type softDep struct{ pre, post []string }

// OpenTree reads the text files that depmod(8) and `make modules_install` left in
// dir, which is /lib/modules/VERSION or a copy of it under another root. Only
// modules.dep has to exist: the others are left out where they would be empty.
func OpenTree(dir string) (*Tree, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open module tree %s: %w", dir, err)
	}
	t := &Tree{
		Version:  filepath.Base(abs),
		dir:      abs,
		modules:  map[string]*Module{},
		builtIns: map[string]*BuiltIn{},
		softDeps: map[string]softDep{},
	}
	if err := t.readDep(); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name  string
		parse func(name string, data []byte) error
	}{
		{"modules.builtin", t.parseBuiltIn},
		{"modules.builtin.modinfo", t.parseBuiltInInfo},
		{"modules.softdep", t.parseSoftDep},
		{"modules.alias", t.parseAlias},
	} {
		name := filepath.Join(abs, f.name)
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read module tree: %w", err)
		}
		if err := f.parse(name, data); err != nil {
			return nil, err
		}
	}
	t.indexAliases()
	return t, nil
}

func (t *Tree) readDep() error {
	name := filepath.Join(t.dir, "modules.dep")
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return report.Hint(fmt.Errorf("open module tree %s: no modules.dep in it", t.dir),
			"%s", t.depmodHint())
	}
	if err != nil {
		return fmt.Errorf("open module tree: %w", err)
	}
	modules, err := parseDep(name, t.Version, data)
	if err != nil {
		return report.Hint(err, "%s", t.depmodHint())
	}
	t.modules = modules
	return nil
}

// depmodHint names the -b that makes depmod look under another root.
func (t *Tree) depmodHint() string {
	root := filepath.Dir(t.dir)
	for _, suffix := range []string{"/usr/lib/modules", "/lib/modules"} {
		if base, ok := strings.CutSuffix(root, suffix); ok {
			if base == "" {
				return "run `depmod " + t.Version + "`"
			}
			if suffix == "/usr/lib/modules" {
				// depmod -b looks in BASE/lib/modules; below usr that is our directory.
				base += "/usr"
			}
			return fmt.Sprintf("run `depmod -b %s %s`", base, t.Version)
		}
	}
	return fmt.Sprintf("give the directory as …/lib/modules/VERSION and run `depmod -b ROOT %s`", t.Version)
}

// parseDep reads modules.dep(5): `PATH: PATH PATH…` per module, the paths relative
// to the directory of modules.dep. Errors name file and line.
func parseDep(file, version string, data []byte) (map[string]*Module, error) {
	modules := map[string]*Module{}
	seenAt := map[string]int{}
	depends := map[string]int{} // name → first line that needs it
	for n, line := range lines(data) {
		target, rest, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("read %s: line %d: no colon in %q", file, n, clip(line))
		}
		p, name, err := modulePath(version, strings.TrimSpace(target))
		if err != nil {
			return nil, fmt.Errorf("read %s: line %d: %w", file, n, err)
		}
		if first, dup := seenAt[name]; dup {
			return nil, fmt.Errorf("read %s: line %d: module %s is already on line %d", file, n, name, first)
		}
		m := &Module{Name: name, Path: p}
		for _, field := range strings.Fields(rest) {
			_, dep, err := modulePath(version, field)
			if err != nil {
				return nil, fmt.Errorf("read %s: line %d: %w", file, n, err)
			}
			if dep == name {
				return nil, fmt.Errorf("read %s: line %d: module %s depends on itself", file, n, name)
			}
			if _, ok := depends[dep]; !ok {
				depends[dep] = n
			}
			m.Depends = append(m.Depends, dep)
		}
		modules[name], seenAt[name] = m, n
	}
	return modules, missingDep(file, modules, depends)
}

func missingDep(file string, modules map[string]*Module, depends map[string]int) error {
	worst, at := "", 0
	for dep, n := range depends {
		if modules[dep] != nil {
			continue
		}
		if worst == "" || n < at || n == at && dep < worst {
			worst, at = dep, n
		}
	}
	if worst == "" {
		return nil
	}
	return fmt.Errorf("read %s: line %d: dependency %s has no line of its own", file, at, worst)
}

// modulePath returns the path below the tree and the module's name.
func modulePath(version, p string) (rel, name string, err error) {
	// module-init-tools wrote absolute paths; depmod still does for files elsewhere.
	if path.IsAbs(p) {
		_, inside, ok := strings.Cut(p, "/lib/modules/"+version+"/")
		if !ok {
			return "", "", fmt.Errorf("module %q lies outside the tree", clip(p))
		}
		p = inside
	}
	if !filepath.IsLocal(p) || strings.ContainsRune(p, 0) {
		return "", "", fmt.Errorf("module %q lies outside the tree", clip(p))
	}
	base, compression, ok := strings.Cut(path.Base(p), ".ko")
	if !ok || compression != "" && compression[0] != '.' || !validName(normalize(base)) {
		return "", "", fmt.Errorf("%q is no module's file", clip(p))
	}
	return p, normalize(base), nil
}

// parseBuiltIn reads modules.builtin: the path that each built-in module would have.
func (t *Tree) parseBuiltIn(file string, data []byte) error {
	for n, line := range lines(data) {
		_, name, err := modulePath(t.Version, line)
		if err != nil {
			return fmt.Errorf("read %s: line %d: %w", file, n, err)
		}
		t.builtIns[name] = &BuiltIn{Name: name}
	}
	return nil
}

// parseBuiltInInfo reads modules.builtin.modinfo: NUL-terminated `MODULE.KEY=VALUE`
// (Documentation/kbuild/kbuild.rst). Only aliases of known built-ins are taken.
func (t *Tree) parseBuiltInInfo(_ string, data []byte) error {
	for entry := range bytes.SplitSeq(data, []byte{0}) {
		key, value, _ := strings.Cut(string(entry), "=")
		name, ok := strings.CutSuffix(key, ".alias")
		if !ok {
			continue
		}
		if b := t.builtIns[normalize(name)]; b != nil && validAlias(value) {
			b.Aliases = append(b.Aliases, value)
		}
	}
	return nil
}

// parseSoftDep reads modules.softdep: `softdep MODULE pre: NAME… post: NAME…`.
// Names before any `pre:` or `post:` are ignored, as libkmod does (cifs has such).
func (t *Tree) parseSoftDep(file string, data []byte) error {
	for n, line := range lines(data) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "softdep" {
			return fmt.Errorf("read %s: line %d: want `softdep MODULE …`, got %q", file, n, clip(line))
		}
		name := normalize(fields[1])
		dep := t.softDeps[name]
		var list *[]string
		for _, f := range fields[2:] {
			switch {
			case f == "pre:":
				list = &dep.pre
			case f == "post:":
				list = &dep.post
			case list != nil:
				*list = append(*list, f)
			}
		}
		t.softDeps[name] = dep
	}
	return nil
}

// parseAlias reads modules.alias: `alias PATTERN MODULE`.
func (t *Tree) parseAlias(file string, data []byte) error {
	for n, line := range lines(data) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[0] != "alias" {
			return fmt.Errorf("read %s: line %d: want `alias PATTERN MODULE`, got %q", file, n, clip(line))
		}
		// A module that has gone since depmod ran has no line in modules.dep.
		if m := t.modules[normalize(fields[2])]; m != nil && validAlias(fields[1]) {
			m.Aliases = append(m.Aliases, fields[1])
		}
	}
	return nil
}

func (t *Tree) indexAliases() {
	t.aliases, t.builtIn = newMatcher(), newMatcher()
	for _, name := range sortedKeys(t.modules) {
		m := t.modules[name]
		m.Aliases = unique(m.Aliases)
		t.aliases.add(name, m.Aliases...)
	}
	for _, name := range sortedKeys(t.builtIns) {
		b := t.builtIns[name]
		b.Aliases = unique(b.Aliases)
		t.builtIn.add(name, b.Aliases...)
	}
}
