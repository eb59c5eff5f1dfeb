package retain

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"reimager/report"
)

// List is a parsed retention list.
type List struct {
	Name     string // where it came from, for messages
	Patterns []Pattern
	// Accounts asks for the accounts to be merged: SetAccounts.
	Accounts bool
}

// ParseList reads a retention list. name is used in errors only.
//
// Each line holds one absolute path or glob:
//
//	# a comment, on a line of its own
//	/etc/ssh              a directory: it and everything below
//	/etc/ssh/*.pub        * ? [a-z] [!a-z] match within one name, dot files too
//	/srv/**/*.key         ** as a whole component: any number of directories
//	/srv/data/            a trailing slash: only if it is a real directory
//	-/etc/hostname        a leading -: may be missing
//	!/etc/ssh/moduli      a leading !: not this, nor what is below
//	@identity             a set: machine-id, SSH host keys, host name, time zone,
//	                      locale, network configuration, as far as they are there
//	@accounts             people and services, merged into the new system's
//
// Excludes win over everything else, wherever they stand. A glob follows
// symbolic links to directories where it names them (inside the root), ** does
// not; a link that is itself matched is kept as a link.
//
// Spaces are part of a name, and so are other bytes, valid UTF-8 or not. A
// backslash takes the meaning from any punctuation mark or space; \n, \t, \r
// and \xHH stand for bytes that can't be typed. A line that ends in an
// unescaped blank, or has an unescaped blank before a #, is refused: it is
// nearly always an accident, and would name another file. Blanks before a path,
// blank lines, a final CR and a byte order mark are skipped.
//
// All faulty lines are reported at once, each with name and line.
func ParseList(name string, r io.Reader) (List, error) {
	list := List{Name: name}
	var faults []error
	lines := bufio.NewReader(r)
	for number := 1; ; number++ {
		line, err := lines.ReadString('\n')
		if err != nil && err != io.EOF {
			return List{}, fmt.Errorf("read retention list %s: %w", name, err)
		}
		if number == 1 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		var pattern *Pattern
		var fault error
		if set := strings.TrimLeft(line, " \t"); isSet(set) {
			fault = list.addSet(set, number)
		} else {
			pattern, fault = parseLine(line)
		}
		switch {
		case fault != nil:
			faults = append(faults, fmt.Errorf("parse retention list %s:%d: %w", name, number, fault))
		case pattern != nil:
			pattern.Line = number
			list.Patterns = append(list.Patterns, *pattern)
		}
		if err == io.EOF {
			break
		}
	}
	if len(faults) > 0 {
		return List{}, errors.Join(faults...)
	}
	return list, nil
}

// parseLine returns nil without an error for a line that names nothing.
func parseLine(line string) (*Pattern, error) {
	if strings.IndexByte(line, 0) >= 0 {
		return nil, errors.New("NUL byte, which no file name contains")
	}
	line = strings.TrimLeft(line, " \t")
	if line == "" || line[0] == '#' {
		return nil, nil
	}
	var p Pattern
	switch line[0] {
	case '!':
		p.Exclude = true
	case '-':
		p.Optional = true
	}
	if p.Exclude || p.Optional {
		line = strings.TrimLeft(line[1:], " \t")
	}
	if !strings.HasPrefix(line, "/") {
		return nil, report.Hint(fmt.Errorf("relative path %q", line), "a path starts with /, after at most one of - and !")
	}
	p.Text = line
	var err error
	if p.parts, p.dirOnly, err = parseParts(line); err != nil {
		return nil, fmt.Errorf("%q: %w", line, err)
	}
	return &p, checkWhole(p)
}

// checkWhole refuses a pattern that is the whole root: keeping it would put the
// old system over the new one, and excluding it would keep nothing.
func checkWhole(p Pattern) error {
	for _, part := range p.parts {
		if !part.anyDepth && !part.isAnyName() {
			return nil
		}
		if !part.anyDepth && len(p.parts) == 1 {
			return nil // "/*" is spelt out on purpose; "/**" comes here as two parts
		}
	}
	return report.Hint(fmt.Errorf("%q is the whole root", p.Text), "name the directories that are to be kept")
}

// Match says whether the list keeps the file at path, an absolute path or one
// relative to the root: a pattern matches it or a directory above it, and no
// exclude does. It looks at names alone, so links are not followed.
func (l List) Match(path string, isDir bool) bool {
	names := splitPath(path)
	kept := false
	for i := range l.Patterns {
		p := &l.Patterns[i]
		if (p.Exclude || !kept) && p.covers(names, isDir) {
			if p.Exclude {
				return false
			}
			kept = true
		}
	}
	return kept
}

// excludes says whether an exclude matches exactly these names: enough while
// walking down, as what is above was asked before.
func (l List) excludes(names []string, isDir bool) bool {
	for i := range l.Patterns {
		if p := &l.Patterns[i]; p.Exclude && p.matches(names, isDir) {
			return true
		}
	}
	return false
}

// excludesAbove says whether an exclude matches the names or a directory above.
func (l List) excludesAbove(names []string, isDir bool) bool {
	for i := range l.Patterns {
		if p := &l.Patterns[i]; p.Exclude && p.covers(names, isDir) {
			return true
		}
	}
	return false
}

func splitPath(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}
