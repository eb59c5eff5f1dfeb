package prove

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"reimager/image"
	"reimager/report"
	"reimager/retain"
)

// standIn is a file of the old system that the retention list keeps.
type standIn struct {
	path      string // absolute
	content   string
	mode      uint32
	uid, gid  uint32 // in the old system
	wantUID   uint32 // in the new one
	wantGID   uint32
	directory bool
}

// account is a user with a group of the same name, whose numbers differ between the
// two systems, so that mapping owners by name shows.
type account struct {
	name           string
	oldUID, oldGID uint32
	newUID, newGID uint32
}

// oldSystem is what the stand-in's root holds.
type oldSystem struct {
	files         []standIn
	passwd, group string
}

// planOld invents what the list requires. byName tells how owners are mapped.
func planOld(list retain.List, facts *image.SystemFacts, byName bool) (*oldSystem, error) {
	if facts == nil {
		facts = &image.SystemFacts{}
	}
	o := &oldSystem{}
	who := o.accounts(list, facts)
	kinds, err := paths(list, facts)
	if err != nil {
		return nil, err
	}
	for i, name := range slices.Sorted(maps.Keys(kinds)) {
		f := standIn{path: name, mode: 0o640, directory: kinds[name]}
		if f.directory {
			f.mode = 0o750
		} else if f.content, err = o.contentOf(name, facts); err != nil {
			return nil, err
		}
		if who != nil && i%2 == 1 && !strings.HasPrefix(name, "/etc/") {
			f.uid, f.gid, f.wantUID, f.wantGID = who.oldUID, who.oldGID, who.oldUID, who.oldGID
			if byName {
				f.wantUID, f.wantGID = who.newUID, who.newGID
			}
		}
		o.files = append(o.files, f)
	}
	return o, nil
}

// retained tells whether the list keeps one of these.
func retained(list retain.List, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return list.Match(name, false) })
}

// accounts makes the old system's account files. A list that keeps them gets those
// of the new system, as another one's would take its users away.
func (o *oldSystem) accounts(list retain.List, facts *image.SystemFacts) *account {
	if retained(list, "/etc/passwd", "/etc/group") {
		for _, name := range slices.Sorted(maps.Keys(facts.Users)) {
			o.passwd += passwdLine(name, facts.Users[name], facts.Users[name])
		}
		for _, name := range slices.Sorted(maps.Keys(facts.Groups)) {
			o.group += fmt.Sprintf("%s:x:%d:\n", name, facts.Groups[name])
		}
		return nil
	}
	o.passwd, o.group = passwdLine("root", 0, 0), "root:x:0:\n"
	for _, name := range slices.Sorted(maps.Keys(facts.Users)) {
		uid := facts.Users[name]
		gid, ok := facts.Groups[name]
		if !ok || uid < 100 || uid >= 60000 || gid < 100 || gid >= 60000 {
			continue // root's, or nobody's
		}
		who := &account{name: name, oldUID: otherNumber(facts.Users), oldGID: otherNumber(facts.Groups), newUID: uid, newGID: gid}
		o.passwd += passwdLine(name, who.oldUID, who.oldGID)
		o.group += fmt.Sprintf("%s:x:%d:\n", name, who.oldGID)
		return who
	}
	return nil
}

func passwdLine(name string, uid, gid uint32) string {
	return fmt.Sprintf("%s:x:%d:%d::/:/bin/sh\n", name, uid, gid)
}

// otherNumber is a number that nobody has.
func otherNumber(taken map[string]uint32) uint32 {
	used := slices.Collect(maps.Values(taken))
	n := uint32(4242)
	for slices.Contains(used, n) {
		n++
	}
	return n
}

// paths returns a path for each line of the list that requires one, and for each
// whether it is a directory.
func paths(list retain.List, facts *image.SystemFacts) (map[string]bool, error) {
	kinds := map[string]bool{}
	var all []error
	for _, p := range list.Patterns {
		if p.Exclude || p.Optional {
			continue
		}
		name, err := matchFor(list, p)
		if err != nil {
			all = append(all, err)
			continue
		}
		kinds[name] = kinds[name] || strings.HasSuffix(p.Text, "/") || facts.Paths[name] == "directory"
	}
	// What another line has something below is a directory, too.
	for name := range kinds {
		for _, p := range list.Patterns {
			if strings.HasPrefix(literalStart(p.Text), name+"/") {
				kinds[name] = true
			}
		}
	}
	for name, directory := range maps.Clone(kinds) {
		if inside := name + "/stand-in"; directory && list.Match(inside, false) {
			kinds[inside] = false
		}
	}
	return kinds, errors.Join(all...)
}

// literalStart is a pattern up to its first special character.
func literalStart(text string) string {
	if i := strings.IndexAny(text, `*?[\`); i >= 0 {
		text = text[:i]
	}
	return text
}

// matchFor invents a path that a line of the list keeps.
func matchFor(list retain.List, p retain.Pattern) (string, error) {
	alone := retain.List{Patterns: []retain.Pattern{p}}
	for _, q := range list.Patterns {
		if q.Exclude {
			alone.Patterns = append(alone.Patterns, q)
		}
	}
	for _, any := range []string{"prove", "0", "a", "prove-stand-in.conf", "Z9"} {
		name := path.Clean(expand(p.Text, any))
		if alone.Match(name, strings.HasSuffix(p.Text, "/")) && !strings.ContainsAny(name, "\n\r\x00") {
			return name, nil
		}
	}
	return "", report.Hint(fmt.Errorf("%s:%d: no path found that %q keeps", list.Name, p.Line, p.Text),
		"do its excludes leave anything? a name with a line break cannot be proven")
}

// expand replaces what matches several names by a name: any for * and **, one
// letter for ? and brackets.
func expand(text, any string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '*':
			if i+1 < len(text) && text[i+1] == '*' {
				i++
			}
			b.WriteString(any)
		case c == '?':
			b.WriteByte('x')
		case c == '[':
			class := classAt(text[i:])
			b.WriteString(fromClass(class))
			i += len(class) + 1
		case c == '\\' && i+1 < len(text):
			c, n := escaped(text[i+1:])
			b.WriteByte(c)
			i += n
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// escaped reads what follows a backslash, and how long it is; the list was parsed.
func escaped(s string) (c byte, n int) {
	switch s[0] {
	case 'n':
		return '\n', 1
	case 't':
		return '\t', 1
	case 'r':
		return '\r', 1
	case 'x':
		if len(s) >= 3 {
			v, _ := strconv.ParseUint(s[1:3], 16, 8)
			return byte(v), 3
		}
	}
	return s[0], 1
}

// classAt returns what is between the brackets at the start of s: a ] that comes
// first, or behind a backslash, does not end it (POSIX.1, 2.13.1).
func classAt(s string) string {
	i := 1
	if s[i] == '!' || s[i] == '^' {
		i++
	}
	for first := i; i < len(s) && (s[i] != ']' || i == first); i++ {
		if s[i] == '\\' {
			i++
		}
	}
	return s[1:min(i, len(s))]
}

// fromClass picks a character that a bracket expression matches.
func fromClass(class string) string {
	if class[0] == '\\' && len(class) > 1 {
		c, _ := escaped(class[1:])
		return string([]byte{c})
	}
	if class[0] != '!' && class[0] != '^' {
		first, n := utf8.DecodeRuneInString(class)
		if first == utf8.RuneError {
			return class[:n] // a byte that is not UTF-8 stands for itself
		}
		return string(first)
	}
	for _, c := range "x0X_é" {
		one, err := retain.ParseList("", strings.NewReader("/["+class+"]/x"))
		if err == nil && one.Match("/"+string(c)+"/x", false) {
			return string(c)
		}
	}
	return "x"
}

// contentOf is content that does a booting system no harm: what it needs to read is
// right, and everything else is a comment in most languages.
func (o *oldSystem) contentOf(name string, facts *image.SystemFacts) (string, error) {
	switch name {
	case "/etc/machine-id":
		return strings.ReplaceAll(newUUID(), "-", "") + "\n", nil
	case "/etc/hostname":
		return "stand-in-" + strings.ToLower(rand.Text()[:6]) + "\n", nil
	case "/etc/hosts":
		return "127.0.0.1 localhost\n", nil
	case "/etc/passwd":
		return o.passwd, nil
	case "/etc/group":
		return o.group, nil
	case "/etc/shadow":
		return shadow(facts.Users, ":*:19700:0:99999:7:::\n"), nil
	case "/etc/gshadow":
		return shadow(facts.Groups, ":!::\n"), nil
	case "/etc/fstab":
		return "", report.Hint(errors.New("the retention list keeps /etc/fstab, whose content only a real machine has"),
			"a new system has an fstab of its own; leave it out, or name the machine's filesystems in [new] mounts")
	}
	return "# stand-in of imagebuild prove for " + path.Base(name) + "\n# " + rand.Text() + "\n", nil
}

func shadow(names map[string]uint32, rest string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(names)) {
		b.WriteString(name + rest)
	}
	return b.String()
}
