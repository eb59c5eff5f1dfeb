package kmod

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"reimager/report"
)

// Want is a module that the configuration asks for.
type Want struct {
	// Name is a module's name, or an alias such as fs-ext4, crypto-crc32c or
	// pci:v00008086d….
	Name string
	// Optional says that a tree without it will do.
	Optional bool
	// OnDemand says that it is taken along, but loaded only when the hardware's
	// modalias or a mount asks for it.
	OnDemand bool
}

// State is what became of a Want.
type State int

// A module that is built into the kernel needs no file, a missing one has none.
const (
	Missing State = iota
	Included
	BuiltInto
)

func (s State) String() string {
	switch s {
	case Included:
		return "included"
	case BuiltInto:
		return "built in"
	default:
		return "missing"
	}
}

// Wanted is a Want with its answer. Modules and BuiltIns have more than one
// element where several modules carry the alias.
type Wanted struct {
	Want
	State    State
	Modules  []string
	BuiltIns []string
}

// Selection is what goes into the initrd. It is the same for the same tree and
// the same wants.
type Selection struct {
	Version string
	// Modules are in an order in which they can be loaded one after another.
	Modules []Module
	Wanted  []Wanted

	builtIns []BuiltIn
}

// Resolve finds what the wants need: modules, their dependencies, and, where they
// exist, their soft dependencies. It reports all wants that are missing and not
// optional in one error.
func (t *Tree) Resolve(wanted []Want) (*Selection, error) {
	s := &Selection{Version: t.Version}
	w := &walk{tree: t, state: map[string]visit{}, taken: map[string]*Module{}}
	var missing []string
	for _, want := range wanted {
		modules, builtIns := t.lookup(want.Name)
		answer := Wanted{Want: want, Modules: modules, BuiltIns: builtIns}
		switch {
		case len(modules) > 0:
			answer.State = Included
		case len(builtIns) > 0:
			answer.State = BuiltInto
		case !want.Optional:
			missing = append(missing, want.Name)
		}
		s.Wanted = append(s.Wanted, answer)
		for _, name := range builtIns {
			s.addBuiltIn(t.builtIns[name])
		}
		w.roots = append(w.roots, modules...)
	}
	if len(missing) > 0 {
		return nil, report.Hint(
			fmt.Errorf("resolve modules for kernel %s: neither in %s nor built in: %s",
				t.Version, t.dir, strings.Join(unique(missing), ", ")),
			"check their names, and whether the kernel's package has them all: kernels for clouds leave out drivers of real hardware")
	}
	if err := w.run(); err != nil {
		return nil, fmt.Errorf("resolve modules for kernel %s: %w", t.Version, err)
	}
	for _, name := range w.order {
		s.Modules = append(s.Modules, *w.taken[name])
	}
	return s, nil
}

func (s *Selection) addBuiltIn(b *BuiltIn) {
	if !slices.ContainsFunc(s.builtIns, func(have BuiltIn) bool { return have.Name == b.Name }) {
		s.builtIns = append(s.builtIns, *b)
	}
}

// lookup finds a module by name or else by alias. As with libkmod's lookup, a
// module of that name hides aliases, and an alias gives every module that has it.
func (t *Tree) lookup(name string) (modules, builtIns []string) {
	switch n := normalize(name); {
	case t.modules[n] != nil:
		return []string{n}, nil
	case t.builtIns[n] != nil:
		return nil, []string{n}
	}
	return t.aliases.match(name), t.builtIn.match(name)
}

// visit is how far the walk is with a module.
type visit int

const (
	unseen visit = iota
	open         // its dependencies are being visited
	done
)

// walk orders modules so that everything comes after what it needs.
type walk struct {
	tree  *Tree
	roots []string
	state map[string]visit
	taken map[string]*Module
	order []string
}

// run visits the roots; soft dependencies that must come afterwards become roots
// of their own, so that they may depend on anything that is still being visited.
func (w *walk) run() error {
	for len(w.roots) > 0 {
		name := w.roots[0]
		w.roots = w.roots[1:]
		if err := w.visit(name); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) visit(name string) error {
	switch w.state[name] {
	case done:
		return nil
	case open:
		return report.Hint(fmt.Errorf("module %s: its dependencies lead back to it", name),
			"%s", w.tree.depmodHint())
	}
	from := w.tree.modules[name]
	if from == nil {
		return errors.New("no module " + name)
	}
	w.state[name] = open
	m := *from
	pre, post := w.softDeps(&m)
	for _, dep := range m.Depends {
		if err := w.visit(dep); err != nil {
			return err
		}
	}
	for _, dep := range pre {
		if w.wouldCycle(dep) {
			post = append(post, dep)
			continue
		}
		if err := w.visit(dep); err != nil {
			return err
		}
		m.Pre = append(m.Pre, dep)
	}
	m.Post = unique(post)
	w.roots = append(w.roots, m.Post...)
	w.state[name] = done
	w.taken[name] = &m
	w.order = append(w.order, name)
	return nil
}

// wouldCycle reports whether a soft dependency needs something that is waiting for
// it. Two modules may name each other softly; only hard dependencies form a tree.
func (w *walk) wouldCycle(dep string) bool {
	if w.state[dep] == open {
		return true
	}
	return slices.ContainsFunc(w.tree.modules[dep].Depends, func(d string) bool { return w.state[d] == open })
}

// softDeps returns the modules that m names softly and that exist, without what
// it needs anyway.
func (w *walk) softDeps(m *Module) (pre, post []string) {
	dep := w.tree.softDeps[m.Name]
	find := func(names []string) (found []string) {
		for _, name := range names {
			modules, _ := w.tree.lookup(name)
			found = append(found, modules...)
		}
		return slices.DeleteFunc(unique(found), func(name string) bool {
			return name == m.Name || slices.Contains(m.Depends, name)
		})
	}
	pre = find(append(slices.Clone(dep.pre), impliedSoftDeps(m.Name)...))
	post = slices.DeleteFunc(find(dep.post), func(name string) bool { return slices.Contains(pre, name) })
	return pre, post
}
