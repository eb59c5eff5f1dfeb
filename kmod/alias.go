package kmod

import (
	"slices"
	"strings"
)

// matcher finds the modules whose alias patterns match a modalias. Patterns are
// grouped by bus (`pci:`) and, within it, by the text before their first
// wildcard, so that a modalias is compared with a handful of thousands.
type matcher struct {
	exact map[string][]int
	buses map[string]*bus
	names []string
}

// bus holds the patterns of one bus; lengths are those of the keys of byPrefix.
type bus struct {
	lengths  []int
	byPrefix map[string][]pattern
}

type pattern struct {
	rest   string // what follows the literal prefix
	owners []int  // indices into matcher.names: class patterns are shared by many drivers
}

func newMatcher() *matcher {
	return &matcher{exact: map[string][]int{}, buses: map[string]*bus{}}
}

// add makes name an answer to whatever matches one of the patterns.
func (m *matcher) add(name string, patterns ...string) {
	owner := len(m.names)
	m.names = append(m.names, name)
	for _, p := range patterns {
		p = normalizePattern(p)
		wild := strings.IndexAny(p, `*?[\`)
		if wild < 0 {
			m.exact[p] = append(m.exact[p], owner)
			continue
		}
		prefix := p[:wild]
		// A pattern like acpi*:PNP0501:* belongs to no bus: everything is compared with it.
		key := busOf(prefix)
		b := m.buses[key]
		if b == nil {
			b = &bus{byPrefix: map[string][]pattern{}}
			m.buses[key] = b
		}
		if !slices.Contains(b.lengths, wild) {
			b.lengths = append(b.lengths, wild)
		}
		b.add(prefix, p[wild:], owner)
	}
}

func (b *bus) add(prefix, rest string, owner int) {
	list := b.byPrefix[prefix]
	for i := range list {
		if list[i].rest == rest {
			list[i].owners = append(list[i].owners, owner)
			return
		}
	}
	b.byPrefix[prefix] = append(list, pattern{rest: rest, owners: []int{owner}})
}

// match returns the names in the order in which they were added, each once.
func (m *matcher) match(modalias string) []string {
	modalias = normalize(modalias)
	owners := slices.Clone(m.exact[modalias])
	owners = m.buses[""].match(owners, modalias)
	if key := busOf(modalias); key != "" {
		owners = m.buses[key].match(owners, modalias)
	}
	if len(owners) == 0 {
		return nil
	}
	slices.Sort(owners)
	names := make([]string, 0, len(owners))
	for _, o := range slices.Compact(owners) {
		names = append(names, m.names[o])
	}
	return names
}

func (b *bus) match(owners []int, modalias string) []int {
	if b == nil {
		return owners
	}
	for _, n := range b.lengths {
		if n > len(modalias) {
			continue
		}
		for _, p := range b.byPrefix[modalias[:n]] {
			if fnmatch(p.rest, modalias[n:]) {
				owners = append(owners, p.owners...)
			}
		}
	}
	return owners
}

// busOf returns what comes before and with the first colon, "" without one.
func busOf(s string) string { return s[:strings.IndexByte(s, ':')+1] }

// normalizePattern makes `-` and `_` equal outside brackets, where `-` is a range
// (libkmod's alias_normalize).
func normalizePattern(p string) string {
	if !strings.Contains(p, "-") {
		return p
	}
	out := []byte(p)
	for i := 0; i < len(out); i++ {
		switch out[i] {
		case '-':
			out[i] = '_'
		case '[':
			if end := bracketEnd(p, i); end > 0 {
				i = end - 1
			}
		}
	}
	return string(out)
}

// fnmatch reports whether s matches p as fnmatch(3) without flags does, which is
// what modprobe uses: `*` also matches `/`, `[!…]` and `[^…]` are complements, `\`
// quotes, and a `[` that is never closed stands for itself. It takes len(p)·len(s)
// steps at most: only the last star is ever tried again, for whatever an earlier
// one could take instead, the last one can.
func fnmatch(p, s string) bool {
	i, j := 0, 0
	star, again := -1, 0
	for j < len(s) {
		if i < len(p) && p[i] == '*' {
			star, again = i, j
			i++
			continue
		}
		if next, ok := matchOne(p, i, s[j]); ok {
			i, j = next, j+1
			continue
		}
		if star < 0 {
			return false
		}
		again++
		i, j = star+1, again
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// matchOne matches c with the pattern's element at i, which is no star, and
// returns where the next element starts.
func matchOne(p string, i int, c byte) (next int, ok bool) {
	if i >= len(p) {
		return i, false
	}
	switch p[i] {
	case '?':
		return i + 1, true
	case '[':
		if end := bracketEnd(p, i); end > 0 {
			return end, inBracket(p[i+1:end-1], c)
		}
	case '\\':
		// A final backslash quotes nothing and matches nothing, as in glibc.
		return i + 2, i+1 < len(p) && p[i+1] == c
	}
	return i + 1, p[i] == c
}

// bracketEnd returns the index after the bracket expression that opens at i, or 0
// when it is never closed. A `]` that comes first is a member.
func bracketEnd(p string, i int) int {
	j := i + 1
	if j < len(p) && (p[j] == '!' || p[j] == '^') {
		j++
	}
	for first := j; j < len(p); j++ {
		if p[j] == ']' && j > first {
			return j + 1
		}
	}
	return 0
}

func inBracket(set string, c byte) bool {
	not := set[0] == '!' || set[0] == '^'
	if not {
		set = set[1:]
	}
	for k := 0; k < len(set); k++ {
		lo, hi := set[k], set[k]
		if k+2 < len(set) && set[k+1] == '-' {
			hi = set[k+2]
			k += 2
		}
		if lo <= c && c <= hi {
			return !not
		}
	}
	return not
}
