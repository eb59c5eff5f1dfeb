//go:build linux

package kmod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"reimager/report"
)

// Outcome is what became of a module that was to be loaded.
type Outcome int

// Only Failed is an error.
const (
	Waiting    Outcome = iota // for its dependencies, or in the kernel
	Loaded                    // by us, or it was there already
	NoHardware                // the driver, or one that it needs, found nothing to drive
	Failed
)

func (o Outcome) String() string {
	switch o {
	case Loaded:
		return "loaded"
	case NoHardware:
		return "no hardware"
	case Failed:
		return "failed"
	default:
		return "waiting"
	}
}

// Result is the account of one module.
type Result struct {
	Name, File string
	Outcome    Outcome
	// Err is the reason of NoHardware and Failed.
	Err error
	// Took is the time within finit_module(2).
	Took time.Duration
}

// Insert hands the module in file to the kernel, with its parameters. It returns
// finit_module's errno unwrapped, an error about the file itself as *fs.PathError.
type Insert func(file, params string) error

// Option changes a Loader.
type Option func(*Loader)

// WithInsert replaces finit_module(2).
func WithInsert(insert Insert) Option { return func(l *Loader) { l.insert = insert } }

// WithBlacklist names modules that are loaded neither at start, nor for a modalias,
// nor as a soft dependency; by name and for what depends on them they are, as with
// modprobe.
func WithBlacklist(names ...string) Option {
	return func(l *Loader) {
		for _, name := range names {
			l.blacklist[normalize(name)] = true
		}
	}
}

// Loader loads the modules of an index, each at most once, what is independent at
// the same time. It may be used from several goroutines.
type Loader struct {
	index     *Index
	dir       string
	params    map[string]string
	insert    Insert
	blacklist map[string]bool
	slots     chan struct{}

	mu      sync.Mutex
	loading map[string]*load
}

// load is a module that somebody asked for. The result may be read when done is closed.
type load struct {
	done   chan struct{}
	result Result
}

// maxParallel bounds the threads that wait in finit_module(2). Most drivers are
// through at once; the few that scan a bus first must not hold up the others.
const maxParallel = 16

// NewLoader returns a Loader for the modules of index, whose files are below dir.
// params are by module name, see ParamsFromCmdline.
func NewLoader(index *Index, dir string, params map[string]string, options ...Option) *Loader {
	index.prepare()
	l := &Loader{
		index:     index,
		dir:       dir,
		params:    make(map[string]string, len(params)),
		insert:    finitModule,
		blacklist: map[string]bool{},
		slots:     make(chan struct{}, maxParallel),
		loading:   map[string]*load{},
	}
	for name, p := range params {
		l.params[normalize(name)] = p
	}
	for _, o := range options {
		o(l)
	}
	return l
}

// LoadFirst loads what the index wants loaded at start.
func (l *Loader) LoadFirst(ctx context.Context) error {
	return l.load(ctx, l.allowed(l.index.First))
}

// Load loads modules by name or alias (fs-ext4), with all that they need, and waits
// for them. A wanted built-in is there already; what is neither is an error. All
// errors are reported, joined; one module's failure stops only what depends on it.
// When ctx ends, Load returns an error with the names of those that are still
// under way: the kernel cannot be interrupted, they go on.
func (l *Loader) Load(ctx context.Context, names ...string) error {
	var targets []string
	var errs []error
	for _, name := range names {
		found, err := l.find(name)
		targets, errs = append(targets, found...), append(errs, err)
	}
	return errors.Join(append(errs, l.load(ctx, targets))...)
}

// LoadFor loads the modules that devices ask for by their modalias. A modalias that
// no module has is no error: most devices carry no disk.
func (l *Loader) LoadFor(ctx context.Context, modaliases ...string) error {
	var targets []string
	for _, modalias := range modaliases {
		targets = append(targets, l.allowed(l.index.Match(modalias))...)
	}
	return l.load(ctx, targets)
}

// Results returns the account of all modules so far, in the order of the index.
func (l *Loader) Results() []Result {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []Result
	for i := range l.index.Modules {
		m := &l.index.Modules[i]
		ld := l.loading[m.Name]
		if ld == nil {
			continue
		}
		select {
		case <-ld.done:
			all = append(all, ld.result)
		default:
			all = append(all, Result{Name: m.Name, File: l.file(m)})
		}
	}
	return all
}

// find returns the modules of a name, or else of an alias.
func (l *Loader) find(name string) ([]string, error) {
	if m := l.index.byName[normalize(name)]; m != nil {
		return []string{m.Name}, nil
	}
	found := l.index.Match(name)
	allowed := l.allowed(found)
	switch {
	case len(allowed) > 0 || l.index.isBuiltIn(name):
		return allowed, nil
	case len(found) > 0:
		return nil, fmt.Errorf("load module %s: blacklisted on the kernel command line: %s", name, strings.Join(found, ", "))
	}
	return nil, report.Hint(fmt.Errorf("load module %s: not in this initrd", name),
		"add it to `modules` in reimager.toml and build the initrd again")
}

// allowed drops what is blacklisted.
func (l *Loader) allowed(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return l.blacklist[name] })
}

func (l *Loader) file(m *IndexModule) string { return filepath.Join(l.dir, filepath.FromSlash(m.File)) }

// load waits for targets and everything that comes with them, and returns the errors
// of the targets and of what they depend on; soft dependencies may fail.
func (l *Loader) load(ctx context.Context, targets []string) error {
	hard, seen := map[string]bool{}, map[string]bool{}
	l.reach(targets, hard, func(m *IndexModule) []string { return m.Depends })
	var errs []error
	var late []string
	for round := targets; len(round) > 0; {
		// Post dependencies come in a later round: they may depend on anything here.
		batch := map[string]bool{}
		l.reach(round, batch, func(m *IndexModule) []string { return append(l.allowed(m.Pre), m.Depends...) })
		for name := range batch {
			l.start(name)
		}
		round = nil
		for i := range l.index.Modules {
			m := &l.index.Modules[i]
			if !batch[m.Name] || seen[m.Name] {
				continue
			}
			seen[m.Name] = true
			r, ok := l.await(ctx, m.Name)
			switch {
			case !ok:
				late = append(late, m.Name)
			case r.Outcome == Failed && hard[m.Name]:
				errs = append(errs, r.Err)
			case r.Outcome == Loaded:
				round = append(round, l.allowed(m.Post)...)
			}
		}
		round = slices.DeleteFunc(round, func(name string) bool { return seen[name] })
	}
	if len(late) > 0 {
		errs = append(errs, report.Hint(
			fmt.Errorf("load modules: still under way: %s: %w", strings.Join(late, ", "), context.Cause(ctx)),
			"a driver that hangs can be left out with modprobe.blacklist=NAME on the kernel command line"))
	}
	return errors.Join(errs...)
}

// reach adds names to set, and what next leads to from them.
func (l *Loader) reach(names []string, set map[string]bool, next func(*IndexModule) []string) {
	for _, name := range names {
		if !set[name] {
			set[name] = true
			l.reach(next(l.index.byName[name]), set, next)
		}
	}
}

// await waits for a module that was started; what is done counts even when ctx has
// ended as well.
func (l *Loader) await(ctx context.Context, name string) (r Result, ok bool) {
	ld := l.start(name)
	select {
	case <-ld.done:
		return ld.result, true
	case <-ctx.Done():
	}
	select {
	case <-ld.done:
		return ld.result, true
	default:
		return Result{}, false
	}
}

// start begins to load a module unless that has been done.
func (l *Loader) start(name string) *load {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ld := l.loading[name]; ld != nil {
		return ld
	}
	ld := &load{done: make(chan struct{})}
	l.loading[name] = ld
	go func() {
		m := l.index.byName[name]
		ld.result = l.loadOne(m)
		close(ld.done)
		if ld.result.Outcome != Loaded {
			return
		}
		for _, post := range l.allowed(m.Post) {
			l.start(post)
		}
	}()
	return ld
}

// loadOne waits for what must come before m and loads it. The index has no cycles
// in depends and pre, so that the waiting ends.
func (l *Loader) loadOne(m *IndexModule) Result {
	r := Result{Name: m.Name, File: l.file(m)}
	var before []*load
	for _, dep := range l.allowed(m.Pre) {
		before = append(before, l.start(dep))
	}
	depends := make([]*load, 0, len(m.Depends))
	for _, dep := range m.Depends {
		depends = append(depends, l.start(dep))
	}
	for _, ld := range append(before, depends...) {
		<-ld.done
	}
	for _, ld := range depends {
		if dep := ld.result; dep.Outcome != Loaded {
			// Without it the kernel would only say that a symbol is unknown.
			r.Outcome = dep.Outcome
			r.Err = fmt.Errorf("load module %s: it needs %s, which is not loaded", m.Name, dep.Name)
			if dep.Outcome == Failed {
				return r
			}
		}
	}
	if r.Err != nil {
		return r
	}
	l.slots <- struct{}{}
	defer func() { <-l.slots }()
	begin := time.Now()
	err := l.insert(r.File, l.params[m.Name])
	r.Took = time.Since(begin)
	r.Outcome, r.Err = l.judge(m, r.File, err)
	return r
}

// finitModule is the default Insert.
func finitModule(file, params string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), params, 0)
}
