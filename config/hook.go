package config

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Hook is a program of the new system that is run in it while it is still held.
type Hook struct {
	When Choice `toml:"when"`
	// Run is the program, an absolute path in the new system, and its arguments. No
	// shell reads them.
	Run []string `toml:"run"`
	// Timeout ends it with all that it has started.
	Timeout Timeout `toml:"timeout"`
	// OnFailure is what it means that it failed.
	OnFailure Choice `toml:"on_failure"`
	// Env is added to the few variables that every hook gets.
	Env map[string]string `toml:"env"`
}

// String names a hook in logs and errors.
func (h Hook) String() string {
	var words []string
	for _, w := range h.Run {
		if w == "" || strings.ContainsFunc(w, func(c rune) bool { return c <= ' ' || strings.ContainsRune(`"'\`, c) || !strconv.IsPrint(c) }) {
			w = strconv.Quote(w)
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

// Rewrite replaces lines of a text file of the new system.
type Rewrite struct {
	// File is an absolute path in the new system.
	File string `toml:"file"`
	// Match is looked for in each line, without its ending; a line in which it is
	// found is replaced as a whole.
	Match Pattern `toml:"match"`
	// Replace is the new line; see Template.
	Replace Template `toml:"replace"`
	// Missing is what it means that no line matches.
	Missing Choice `toml:"missing"`
	// OnFailure is what it means that the file could not be rewritten.
	OnFailure Choice `toml:"on_failure"`
}

// String names a rule in logs and errors.
func (r Rewrite) String() string { return fmt.Sprintf("%s (match %q)", r.File, r.Match.Text) }

// The moments at which a hook runs: the image is on the disk and its filesystems
// are mounted; the retained files are not yet there, or are there and compared.
const (
	BeforeRestore Choice = "before-restore"
	AfterRestore  Choice = "after-restore"
)

// What a failed hook or rewrite means for the run: a warning in log and record, or
// the end of the attempt, so that failure.after_write decides.
const (
	Report Choice = "report"
	Fatal  Choice = "fatal"
)

// What a rewrite does when no line matches: it fails, it adds the line at the end of
// the file, or it leaves the file as it is.
const (
	MissingRefuse Choice = "refuse"
	MissingAppend Choice = "append"
	MissingIgnore Choice = "ignore"
)

// maxTimeout bounds how long a machine waits for a hook with nobody before it.
const maxTimeout = 24 * time.Hour

// Timeout is a Duration of more than nothing and at most a day.
type Timeout struct{ time.Duration }

// UnmarshalText reads a timeout such as "2m".
func (t *Timeout) UnmarshalText(text []byte) error {
	var d Duration
	if err := d.UnmarshalText(text); err != nil {
		return err
	}
	if d.Duration <= 0 || d.Duration > maxTimeout {
		return fmt.Errorf("%q: expected more than nothing and at most 24h", text)
	}
	t.Duration = d.Duration
	return nil
}

// MarshalText writes the timeout as UnmarshalText reads it.
func (t Timeout) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Pattern is a regular expression in Go's syntax (RE2): no backtracking, so that
// none takes for ever.
type Pattern struct{ Text string }

// UnmarshalText refuses what is no regular expression.
func (p *Pattern) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New(`"": expected a regular expression; "^$" matches empty lines`)
	}
	read := Pattern{string(text)}
	if _, err := read.Regexp(); err != nil {
		return err
	}
	*p = read
	return nil
}

// MarshalText writes the pattern as UnmarshalText reads it.
func (p Pattern) MarshalText() ([]byte, error) { return []byte(p.Text), nil }

// Regexp compiles the pattern.
func (p Pattern) Regexp() (*regexp.Regexp, error) {
	re, err := regexp.Compile(p.Text)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", p.Text, err)
	}
	return re, nil
}

// Variables are the names that a Template may use besides groups of its pattern.
func Variables() []string { return []string{"hostname", "machine_id", "root_uuid", "old_root_uuid"} }

// Template is a line with references: $1 or ${1} a group of the pattern, ${name}
// a named group or one of Variables, $$ a dollar sign.
type Template struct{ Text string }

// UnmarshalText refuses an unfinished reference, and what is more than a line.
func (t *Template) UnmarshalText(text []byte) error {
	if strings.ContainsAny(string(text), "\r\n\x00") {
		return fmt.Errorf("%q: expected one line", text)
	}
	read := Template{string(text)}
	if _, err := read.Parts(); err != nil {
		return err
	}
	*t = read
	return nil
}

// MarshalText writes the template as UnmarshalText reads it.
func (t Template) MarshalText() ([]byte, error) { return []byte(t.Text), nil }

// Part is a piece of a Template: a text, or else a reference.
type Part struct {
	Text string
	// Ref is a number or a name.
	Ref string
}

// Parts takes a template apart.
func (t Template) Parts() ([]Part, error) {
	var parts []Part
	rest := t.Text
	for {
		i := strings.IndexByte(rest, '$')
		if i < 0 {
			return append(parts, Part{Text: rest}), nil
		}
		parts = append(parts, Part{Text: rest[:i]})
		rest = rest[i+1:]
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		name, after, closed := strings.Cut(strings.TrimPrefix(rest, "{"), "}")
		switch {
		case strings.HasPrefix(rest, "$"):
			parts, rest = append(parts, Part{Text: "$"}), rest[1:]
		case digits > 0:
			parts, rest = append(parts, Part{Ref: rest[:digits]}), rest[digits:]
		case strings.HasPrefix(rest, "{") && closed && name != "":
			parts, rest = append(parts, Part{Ref: name}), after
		default:
			return nil, fmt.Errorf("%q: expected $1, ${name} or $$ at %q", t.Text, "$"+rest)
		}
	}
}

// check refuses a reference to what the pattern has not, and a group that hides a
// variable.
func (t Template) check(re *regexp.Regexp) error {
	names := re.SubexpNames()
	for _, v := range Variables() {
		if slices.Contains(names, v) {
			return fmt.Errorf("the pattern's group %q has the name of a variable", v)
		}
	}
	parts, err := t.Parts()
	if err != nil {
		return err
	}
	for _, p := range parts {
		if p.Ref == "" || slices.Contains(Variables(), p.Ref) || slices.Contains(names, p.Ref) {
			continue
		}
		if n, err := strconv.Atoi(p.Ref); err == nil && n <= re.NumSubexp() {
			continue
		}
		return fmt.Errorf("${%s}: the pattern has no such group, and the variables are %q", p.Ref, Variables())
	}
	return nil
}

// hookDefaults fills in what a [[hook]] or [[rewrite]] leaves out. A failure is
// reported and not fatal: when it comes, the old system is gone, the image is
// complete, and a machine that boots is worth more than one that holds.
func (c *Config) hookDefaults() {
	for i := range c.Hooks {
		h := &c.Hooks[i]
		h.When = orElse(h.When, AfterRestore)
		h.OnFailure = orElse(h.OnFailure, Report)
		h.Timeout = orElse(h.Timeout, Timeout{2 * time.Minute})
	}
	for i := range c.Rewrites {
		r := &c.Rewrites[i]
		r.Missing = orElse(r.Missing, MissingRefuse)
		r.OnFailure = orElse(r.OnFailure, Report)
	}
}

func orElse[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// checkHooks refuses hooks and rewrites that lack something; they are counted from 1.
func (c *Config) checkHooks() []error {
	var all []error
	choice := func(fail func(string, ...any), key string, got Choice, allowed ...Choice) {
		if !slices.Contains(allowed, got) {
			fail("%s = %q: expected one of %q", key, got, allowed)
		}
	}
	for i, h := range c.Hooks {
		fail := func(format string, args ...any) {
			all = append(all, fmt.Errorf("hook %d: %s", i+1, fmt.Sprintf(format, args...)))
		}
		choice(fail, "when", h.When, BeforeRestore, AfterRestore)
		choice(fail, "on_failure", h.OnFailure, Report, Fatal)
		if len(h.Run) == 0 || !cleanAbsolute(h.Run[0]) || h.Run[0] == "/" {
			fail("run = %q: expected the absolute path of a program in the new system, then its arguments", h.Run)
		}
		if strings.ContainsRune(strings.Join(h.Run, ""), 0) {
			fail("run = %q: no argument can contain a NUL", h.Run)
		}
		for _, name := range slices.Sorted(maps.Keys(h.Env)) {
			if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(h.Env[name], 0) {
				fail("env: %q = %q: expected a name without \"=\", and no NUL", name, h.Env[name])
			}
		}
	}
	for i, r := range c.Rewrites {
		fail := func(format string, args ...any) {
			all = append(all, fmt.Errorf("rewrite %d: %s", i+1, fmt.Sprintf(format, args...)))
		}
		choice(fail, "missing", r.Missing, MissingRefuse, MissingAppend, MissingIgnore)
		choice(fail, "on_failure", r.OnFailure, Report, Fatal)
		if !cleanAbsolute(r.File) || path.Base(r.File) == "/" || strings.ContainsRune(r.File, 0) {
			fail("file = %q: expected the absolute path of a file in the new system", r.File)
		}
		if r.Match.Text == "" {
			fail("match is missing")
			continue
		}
		re, err := r.Match.Regexp()
		if err == nil {
			err = r.Replace.check(re)
		}
		if err != nil {
			fail("replace = %q: %v", r.Replace.Text, err)
		}
		if r.Missing == MissingAppend && r.Replace.Text == "" {
			fail("replace is empty: missing = \"append\" would add an empty line")
		}
		if r.Missing == MissingAppend && usesGroup(r.Replace) {
			fail("replace = %q: a line that matches nothing has no groups, so missing = \"append\" cannot make it", r.Replace.Text)
		}
	}
	return all
}

func usesGroup(t Template) bool {
	parts, _ := t.Parts() // UnmarshalText has checked it
	return slices.ContainsFunc(parts, func(p Part) bool { return p.Ref != "" && !slices.Contains(Variables(), p.Ref) })
}

// HooksAt returns the hooks of one moment, in their order.
func (c *Config) HooksAt(when Choice) []Hook {
	var hooks []Hook
	for _, h := range c.Hooks {
		if h.When == when {
			hooks = append(hooks, h)
		}
	}
	return hooks
}
