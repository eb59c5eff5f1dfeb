package kmod

import (
	"iter"
	"maps"
	"slices"
	"strings"
)

// normalize makes `-` and `_` equal in a module's name: the kernel replaces the
// one by the other when it builds (KBUILD_MODNAME), files keep either.
func normalize(name string) string { return strings.ReplaceAll(name, "-", "_") }

// maxName is MODULE_NAME_LEN of linux/module.h on 64 bit, with its final NUL.
const maxName = 56

func validName(name string) bool {
	if name == "" || len(name) >= maxName {
		return false
	}
	for _, c := range []byte(name) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && c != '_' && c != '+' && c != '.' {
			return false
		}
	}
	return name[0] != '.'
}

// validAlias refuses what would not survive a line of the index.
func validAlias(alias string) bool {
	return alias != "" && !strings.ContainsFunc(alias, func(r rune) bool { return r <= ' ' || r == 0x7f })
}

// lines yields the lines that are neither empty nor a comment, with their numbers
// from 1.
func lines(data []byte) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		n := 0
		for line := range strings.Lines(string(data)) {
			n++
			line = strings.TrimSpace(line)
			if line == "" || line[0] == '#' {
				continue
			}
			if !yield(n, line) {
				return
			}
		}
	}
}

// clip keeps a damaged line from filling the screen.
func clip(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// unique drops repetitions and keeps the order.
func unique(list []string) []string {
	seen := make(map[string]bool, len(list))
	var out []string
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}
