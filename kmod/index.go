package kmod

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"reimager/report"
)

// Index says what modules an initrd has and how to load them. Its text form is
// baked in beside them, one fact per line:
//
//	reimager-modules 1
//	kernel VERSION
//	first NAME…           loaded at start, in this order
//	builtin NAME          wanted, and part of the kernel; its alias lines follow
//	module NAME FILE      after all that it depends on; its lines follow
//	depends NAME…         must be loaded before it
//	pre NAME…             should be loaded before it
//	post NAME…            should be loaded after it
//	alias PATTERN         asks for it, as in modules.alias
//	end COUNT             how many modules there were: nothing was cut off
type Index struct {
	// Kernel is the release that all modules were built for.
	Kernel string
	// First are the modules to load at start, in order.
	First    []string
	BuiltIns []BuiltIn
	// Modules are in an order in which they can be loaded one after another.
	Modules []IndexModule

	once   sync.Once
	lookup *matcher
	byName map[string]*IndexModule
}

// IndexModule is one module of the initrd. All names are normalized, and all are
// in the index.
type IndexModule struct {
	Name string
	// File is relative to the directory of the index.
	File               string
	Depends, Pre, Post []string
	Aliases            []string
}

const (
	indexMagic = "reimager-modules 1"
	// maxIndex bounds an index in bytes: with every module of Debian it has 2 MiB.
	maxIndex = 16 << 20
)

// Index returns the index of the selection's modules. Module m is to be stored
// decompressed as m.File() beside it.
func (s *Selection) Index() *Index {
	x := &Index{Kernel: s.Version, BuiltIns: s.builtIns}
	for _, w := range s.Wanted {
		if !w.OnDemand {
			x.First = append(x.First, w.Modules...)
		}
	}
	x.First = unique(x.First)
	for _, m := range s.Modules {
		x.Modules = append(x.Modules, IndexModule{
			Name: m.Name, File: m.File(),
			Depends: m.Depends, Pre: m.Pre, Post: m.Post, Aliases: m.Aliases,
		})
	}
	return x
}

// File is the name of the decompressed module in the initrd.
func (m Module) File() string { return m.Name + ".ko" }

// Encode writes the index. An index that DecodeIndex would refuse is an error.
func (x *Index) Encode(w io.Writer) error {
	if err := x.validate(); err != nil {
		return fmt.Errorf("encode module index: %w", err)
	}
	var b bytes.Buffer
	list := func(key string, names []string) {
		if len(names) > 0 {
			fmt.Fprintf(&b, "%s %s\n", key, strings.Join(names, " "))
		}
	}
	aliases := func(patterns []string) {
		for _, p := range patterns {
			fmt.Fprintf(&b, "alias %s\n", p)
		}
	}
	fmt.Fprintf(&b, "%s\nkernel %s\n", indexMagic, x.Kernel)
	list("first", x.First)
	for _, m := range x.BuiltIns {
		fmt.Fprintf(&b, "builtin %s\n", m.Name)
		aliases(m.Aliases)
	}
	for _, m := range x.Modules {
		fmt.Fprintf(&b, "module %s %s\n", m.Name, m.File)
		list("depends", m.Depends)
		list("pre", m.Pre)
		list("post", m.Post)
		aliases(m.Aliases)
	}
	fmt.Fprintf(&b, "end %d\n", len(x.Modules))
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write module index: %w", err)
	}
	return nil
}

// DecodeIndex reads an index as Encode writes it. Whatever Encode would not have
// written is an error: unknown, repeated or missing fields, names that are not in
// the index, files outside its directory, modules before their dependencies.
func DecodeIndex(r io.Reader) (*Index, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxIndex+1))
	if err != nil {
		return nil, fmt.Errorf("read module index: %w", err)
	}
	if len(data) > maxIndex {
		return nil, fmt.Errorf("read module index: larger than %d bytes", maxIndex)
	}
	d := &indexDecoder{index: &Index{}}
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		if err := d.line(n, line); err != nil {
			return nil, fmt.Errorf("read module index: line %d: %w", n, err)
		}
	}
	if !d.ended {
		return nil, fmt.Errorf("read module index: line %d: cut off, no end line", n)
	}
	if err := d.index.validate(); err != nil {
		return nil, fmt.Errorf("read module index: %w", err)
	}
	return d.index, nil
}

// indexDecoder takes the lines in their only valid order.
type indexDecoder struct {
	index   *Index
	builtIn *BuiltIn
	module  *IndexModule
	rank    int // of the last field within its module or within the head
	ended   bool
}

func (d *indexDecoder) line(n int, line string) error {
	line, ok := strings.CutSuffix(line, "\n")
	switch {
	case !ok:
		return errors.New("cut off, no newline")
	case d.ended:
		return errors.New("text after the end line")
	case n == 1 && line != indexMagic:
		return fmt.Errorf("want %q, got %q", indexMagic, clip(line))
	case n == 1:
		return nil
	}
	key, value, _ := strings.Cut(line, " ")
	if value == "" {
		return fmt.Errorf("field %q has no value", clip(key))
	}
	if n == 2 && key != "kernel" {
		return fmt.Errorf("want the kernel's release, got %q", clip(line))
	}
	switch key {
	case "kernel", "first", "builtin":
		return d.head(n, key, value)
	case "module":
		name, file, _ := strings.Cut(value, " ")
		d.index.Modules = append(d.index.Modules, IndexModule{Name: name, File: file})
		d.module, d.builtIn, d.rank = &d.index.Modules[len(d.index.Modules)-1], nil, 0
		return nil
	case "end":
		d.ended = true
		if value != fmt.Sprint(len(d.index.Modules)) {
			return fmt.Errorf("%d modules, the end line counts %q", len(d.index.Modules), clip(value))
		}
		return nil
	}
	return d.field(key, value)
}

func (d *indexDecoder) head(n int, key, value string) error {
	switch {
	case d.module != nil:
		return fmt.Errorf("field %q after the first module", key)
	case key == "kernel" && n == 2:
		d.index.Kernel = value
	case key == "first" && n == 3:
		d.index.First = strings.Split(value, " ")
	case key == "builtin":
		d.index.BuiltIns = append(d.index.BuiltIns, BuiltIn{Name: value})
		d.builtIn = &d.index.BuiltIns[len(d.index.BuiltIns)-1]
	default:
		return fmt.Errorf("field %q does not belong here", key)
	}
	return nil
}

func (d *indexDecoder) field(key, value string) error {
	rank := slices.Index([]string{"", "depends", "pre", "post", "alias"}, key)
	switch {
	case rank < 0:
		return fmt.Errorf("unknown field %q", clip(key))
	case key == "alias" && d.builtIn != nil:
		d.builtIn.Aliases = append(d.builtIn.Aliases, value)
		return nil
	case d.module == nil:
		return fmt.Errorf("field %q before a module", key)
	case rank < d.rank || rank == d.rank && key != "alias":
		return fmt.Errorf("field %q repeated or out of order", key)
	}
	d.rank = rank
	switch key {
	case "depends":
		d.module.Depends = strings.Split(value, " ")
	case "pre":
		d.module.Pre = strings.Split(value, " ")
	case "post":
		d.module.Post = strings.Split(value, " ")
	default:
		d.module.Aliases = append(d.module.Aliases, value)
	}
	return nil
}

// validate checks what both directions promise. Modules that come after all that
// they depend on cannot form a cycle.
func (x *Index) validate() error {
	if x.Kernel == "" || strings.ContainsFunc(x.Kernel, func(r rune) bool { return r <= ' ' || r == '/' }) {
		return fmt.Errorf("%q is no kernel release", clip(x.Kernel))
	}
	position := make(map[string]int, len(x.Modules))
	files := make(map[string]string, len(x.Modules))
	for i, m := range x.Modules {
		if err := checkName(m.Name, position); err != nil {
			return err
		}
		position[m.Name] = i
		if err := checkFile(m); err != nil {
			return err
		}
		if other, dup := files[m.File]; dup {
			return fmt.Errorf("module %s: its file %s is that of %s", m.Name, m.File, other)
		}
		files[m.File] = m.Name
	}
	for _, b := range x.BuiltIns {
		if err := checkName(b.Name, position); err != nil {
			return fmt.Errorf("built in: %w", err)
		}
		if err := checkAliases(b.Name, b.Aliases); err != nil {
			return err
		}
		position[b.Name] = -1
	}
	if err := checkRefs("first", x.First, position, len(x.Modules)); err != nil {
		return err
	}
	for i, m := range x.Modules {
		err := errors.Join(
			checkRefs("depends", m.Depends, position, i),
			checkRefs("pre", m.Pre, position, i),
			checkRefs("post", m.Post, position, len(x.Modules)),
		)
		if err != nil {
			return fmt.Errorf("module %s: %w", m.Name, err)
		}
		if err := checkAliases(m.Name, m.Aliases); err != nil {
			return err
		}
	}
	return nil
}

func checkName(name string, taken map[string]int) error {
	if !validName(name) || name != normalize(name) {
		return fmt.Errorf("%q is no module's name", clip(name))
	}
	if _, dup := taken[name]; dup {
		return fmt.Errorf("module %s is there twice", name)
	}
	return nil
}

func checkFile(m IndexModule) error {
	if !filepath.IsLocal(m.File) || filepath.Clean(m.File) != m.File || m.File == "." || !validAlias(m.File) {
		return fmt.Errorf("module %s: file %q is not a plain path below the index", m.Name, clip(m.File))
	}
	return nil
}

func checkAliases(name string, patterns []string) error {
	for _, p := range patterns {
		if !validAlias(p) {
			return fmt.Errorf("module %s: alias %q is empty or has spaces", name, clip(p))
		}
	}
	return nil
}

// checkRefs accepts names of modules before the given position, each once.
func checkRefs(field string, names []string, position map[string]int, before int) error {
	if len(unique(names)) != len(names) {
		return fmt.Errorf("%s: a name is there twice", field)
	}
	for _, name := range names {
		p, ok := position[name]
		if !ok || p < 0 {
			return fmt.Errorf("%s: module %q is not in the index", field, clip(name))
		}
		if p >= before {
			return fmt.Errorf("%s: module %s comes later: a cycle or a wrong order", field, name)
		}
	}
	return nil
}

// Match returns the names of the modules that have an alias for modalias, in the
// order of the index. Patterns match as with modprobe: fnmatch(3), `-` equal to `_`.
func (x *Index) Match(modalias string) []string {
	x.prepare()
	return x.lookup.match(modalias)
}

// CheckKernel returns an error with a remedy when the modules were not built for
// release, which is that of the running kernel (uname -r).
func (x *Index) CheckKernel(release string) error {
	if release == x.Kernel {
		return nil
	}
	return report.Hint(fmt.Errorf("check modules: built for kernel %s, running is %s", x.Kernel, release),
		"build the initrd again with --modules /lib/modules/%s, or boot it with the kernel %s", release, x.Kernel)
}

func (x *Index) prepare() {
	x.once.Do(func() {
		x.lookup = newMatcher()
		x.byName = make(map[string]*IndexModule, len(x.Modules))
		for i := range x.Modules {
			m := &x.Modules[i]
			x.lookup.add(m.Name, m.Aliases...)
			x.byName[m.Name] = m
		}
	})
}

// isBuiltIn reports whether name is a wanted built-in module or an alias of one.
func (x *Index) isBuiltIn(name string) bool {
	m := newMatcher()
	for _, b := range x.BuiltIns {
		if b.Name == normalize(name) {
			return true
		}
		m.add(b.Name, b.Aliases...)
	}
	return len(m.match(name)) > 0
}

// Has tells whether a module is in the index, or wanted and part of the kernel.
func (x *Index) Has(name string) bool {
	return slices.ContainsFunc(x.Modules, func(m IndexModule) bool { return m.Name == name }) ||
		slices.ContainsFunc(x.BuiltIns, func(b BuiltIn) bool { return b.Name == name })
}
