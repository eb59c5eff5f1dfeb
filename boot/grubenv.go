package boot

import (
	"bytes"
	"fmt"
	"strings"

	"reimager/report"
)

// EnvSize is the size of a GRUB environment block in bytes. GRUB rewrites the
// block in place, through a list of its disk sectors, so the size never changes.
const EnvSize = 1024

const envHeader = "# GRUB Environment Block\n"

// Env is a GRUB environment block, in the format of GRUB's
// grub-core/lib/envblk.c: a header line, comment lines, name=value lines in
// which a backslash precedes each backslash and newline of a value, and '#' up
// to the end. What is not changed keeps its bytes and its place.
type Env struct {
	lines []envLine
}

// envLine is one line with its final newline; name is empty for a comment.
type envLine struct {
	name string
	raw  string
}

// ParseEnv reads an environment block. A block that GRUB would read differently
// than it is written (no header, another size, a line without an end, a line
// that is no assignment) is an error.
func ParseEnv(block []byte) (*Env, error) {
	if len(block) != EnvSize {
		return nil, envError("block has %d bytes, want %d", len(block), EnvSize)
	}
	rest, ok := strings.CutPrefix(string(block), envHeader)
	if !ok {
		return nil, envError("block does not start with %q", envHeader)
	}
	if at := strings.IndexByte(rest, 0); at >= 0 {
		return nil, envError("NUL at byte %d", len(envHeader)+at)
	}
	env := &Env{}
	for strings.Trim(rest, "#") != "" {
		n := envLineLen(rest)
		if n == 0 {
			return nil, envError("line at byte %d has no end", EnvSize-len(rest))
		}
		line := envLine{raw: rest[:n]}
		if rest[0] != '#' {
			name, _, found := strings.Cut(line.raw, "=")
			if !found {
				return nil, envError("line at byte %d has no '='", EnvSize-len(rest))
			}
			if err := checkEnvName(name); err != nil {
				return nil, envError("line at byte %d: %w", EnvSize-len(rest), err)
			}
			line.name = name
		}
		env.lines = append(env.lines, line)
		rest = rest[n:]
	}
	return env, nil
}

// envLineLen is the length of the line that s starts with, including its
// newline, or 0 when it has no end. A newline behind a backslash is no end.
func envLineLen(s string) int {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '\n':
			return i + 1
		}
	}
	return 0
}

func envError(format string, args ...any) error {
	return fmt.Errorf("parse GRUB environment: %w", fmt.Errorf(format, args...))
}

// checkEnvName refuses names that envblk.c would read back as something else.
func checkEnvName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("empty variable name")
	case name[0] == '#':
		return fmt.Errorf("variable name %q starts a comment", name)
	case strings.ContainsAny(name, "=\\\n\x00"):
		return fmt.Errorf("variable name %q has a character that GRUB cannot store", name)
	}
	return nil
}

// Get returns a variable's value. Of a name that is there twice the last one
// counts, as it does for GRUB's load_env.
func (e *Env) Get(name string) (value string, ok bool) {
	for _, line := range e.lines {
		if line.name == name && name != "" {
			raw := strings.TrimSuffix(line.raw[len(name)+1:], "\n")
			value, ok = unescapeEnv(raw), true
		}
	}
	return value, ok
}

// Set gives a variable a value: in its place where it is there already, behind
// the last line otherwise. It changes nothing when the block would overflow.
func (e *Env) Set(name, value string) error {
	if err := checkEnvName(name); err != nil {
		return fmt.Errorf("set GRUB variable: %w", err)
	}
	if strings.IndexByte(value, 0) >= 0 {
		return fmt.Errorf("set GRUB variable %s: value holds a NUL", name)
	}
	escaped := strings.NewReplacer(`\`, `\\`, "\n", "\\\n").Replace(value)
	line := envLine{name: name, raw: name + "=" + escaped + "\n"}

	changed := &Env{}
	placed := false
	for _, old := range e.lines {
		switch {
		case old.name != name:
			changed.lines = append(changed.lines, old)
		case !placed:
			changed.lines = append(changed.lines, line)
			placed = true
		}
	}
	if !placed {
		changed.lines = append(changed.lines, line)
	}
	if over := changed.used() - EnvSize; over > 0 {
		return report.Hint(
			fmt.Errorf("set GRUB variable %s: %d bytes more than the block of %d holds", name, over, EnvSize),
			"grub-editenv shows (list) and removes (unset) variables that nobody needs")
	}
	e.lines = changed.lines
	return nil
}

// Unset removes a variable; one that is not there is no error.
func (e *Env) Unset(name string) {
	var kept []envLine
	for _, line := range e.lines {
		if line.name != name || name == "" {
			kept = append(kept, line)
		}
	}
	e.lines = kept
}

// Encode returns the block, always EnvSize bytes.
func (e *Env) Encode() []byte {
	block := bytes.NewBuffer(make([]byte, 0, EnvSize))
	block.WriteString(envHeader)
	for _, line := range e.lines {
		block.WriteString(line.raw)
	}
	block.Write(bytes.Repeat([]byte("#"), max(0, EnvSize-block.Len())))
	return block.Bytes()
}

func (e *Env) used() int {
	n := len(envHeader)
	for _, line := range e.lines {
		n += len(line.raw)
	}
	return n
}

func unescapeEnv(raw string) string {
	var value strings.Builder
	for i := 0; i < len(raw); i++ {
		if raw[i] == '\\' && i+1 < len(raw) {
			i++
		}
		value.WriteByte(raw[i])
	}
	return value.String()
}
