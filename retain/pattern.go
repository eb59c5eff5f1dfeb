package retain

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Pattern is one line of a retention list.
type Pattern struct {
	Text     string // as written, without its mark
	Line     int    // counted from 1
	Optional bool   // may be missing
	Exclude  bool
	Set      string // that it belongs to; "" for a line of its own

	dirOnly bool
	parts   []part
}

// part matches one name, or, with anyDepth, any number of directories.
type part struct {
	anyDepth bool
	tokens   []token
}

// token matches a piece of a name.
type token struct {
	kind    tokenKind
	literal string
	negated bool
	ranges  []runeRange
}

type tokenKind int

const (
	tokenLiteral tokenKind = iota
	tokenAnyOne            // ?
	tokenAnyRun            // *
	tokenClass             // [...]
)

type runeRange struct{ low, high rune }

func (p part) isAnyName() bool { return len(p.tokens) == 1 && p.tokens[0].kind == tokenAnyRun }

// literal returns the one name that the part matches, if it is only one.
func (p part) literal() (string, bool) {
	if p.anyDepth || len(p.tokens) != 1 || p.tokens[0].kind != tokenLiteral {
		return "", false
	}
	return p.tokens[0].literal, true
}

// covers says whether the pattern matches the names or a directory above them.
func (p *Pattern) covers(names []string, isDir bool) bool {
	for n := 1; n < len(names); n++ {
		if matchParts(p.parts, names[:n]) {
			return true
		}
	}
	return p.matches(names, isDir)
}

func (p *Pattern) matches(names []string, isDir bool) bool {
	return (isDir || !p.dirOnly) && matchParts(p.parts, names)
}

// matchParts is the usual matching with a single point of return: only the last
// ** has to be tried again, as an earlier one could gain nothing by it.
func matchParts(parts []part, names []string) bool {
	i, n := 0, 0
	retry, retryName := -1, 0
	for n < len(names) {
		switch {
		case i < len(parts) && parts[i].anyDepth:
			retry, retryName = i, n
			i++
		case i < len(parts) && matchName(parts[i].tokens, names[n]):
			i++
			n++
		case retry >= 0:
			retryName++
			i, n = retry+1, retryName
		default:
			return false
		}
	}
	for i < len(parts) && parts[i].anyDepth {
		i++
	}
	return i == len(parts)
}

func matchName(tokens []token, name string) bool {
	t, rest := 0, name
	retry, retryRest := -1, ""
	for t < len(tokens) || rest != "" {
		if t < len(tokens) {
			if tokens[t].kind == tokenAnyRun {
				retry, retryRest = t, rest
				t++
				continue
			}
			if n := tokens[t].match(rest); n > 0 {
				rest = rest[n:]
				t++
				continue
			}
		}
		if retry < 0 || retryRest == "" {
			return false
		}
		_, n := decodeRune(retryRest)
		retryRest = retryRest[n:]
		t, rest = retry+1, retryRest
	}
	return true
}

// match returns the length of what the token matches at the start of s, or 0.
func (t token) match(s string) int {
	if t.kind == tokenLiteral {
		if strings.HasPrefix(s, t.literal) {
			return len(t.literal)
		}
		return 0
	}
	if s == "" {
		return 0
	}
	r, n := decodeRune(s)
	if t.kind == tokenAnyOne {
		return n
	}
	for _, rr := range t.ranges {
		if rr.low <= r && r <= rr.high {
			return n * b2i(!t.negated)
		}
	}
	return n * b2i(t.negated)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// decodeRune takes a byte that is not UTF-8 as a character of its own, with a
// number that no character has.
func decodeRune(s string) (rune, int) {
	r, n := utf8.DecodeRuneInString(s)
	if r == utf8.RuneError && n == 1 {
		return -rune(s[0]), 1
	}
	return r, n
}

// parseParts reads a pattern that starts with a slash. Empty components and "."
// vanish.
func parseParts(text string) (parts []part, dirOnly bool, err error) {
	var tokens []token
	for i := 0; i <= len(text); {
		if i == len(text) || text[i] == '/' {
			if parts, err = appendPart(parts, tokens); err != nil {
				return nil, false, err
			}
			tokens = nil
			i++
			continue
		}
		t, n, err := parseToken(text, i)
		if err != nil {
			return nil, false, err
		}
		if last := len(tokens) - 1; t.kind == tokenLiteral && last >= 0 && tokens[last].kind == tokenLiteral {
			tokens[last].literal += t.literal
		} else {
			tokens = append(tokens, t)
		}
		i += n
	}
	if last := len(parts) - 1; last >= 0 && parts[last].anyDepth {
		// At the end ** is everything below, and not the directory itself.
		parts = append(parts, part{tokens: []token{{kind: tokenAnyRun}}})
	}
	return parts, strings.HasSuffix(text, "/"), nil
}

func appendPart(parts []part, tokens []token) ([]part, error) {
	p := part{tokens: tokens}
	name, isLiteral := p.literal()
	switch {
	case len(tokens) == 0, isLiteral && name == ".":
		return parts, nil
	case isLiteral && name == "..":
		return nil, errors.New("has a .. component")
	}
	for i := 1; i < len(tokens); i++ {
		if tokens[i].kind == tokenAnyRun && tokens[i-1].kind == tokenAnyRun {
			if len(tokens) != 2 {
				return nil, errors.New("has ** inside a name; it must stand alone between slashes")
			}
			p = part{anyDepth: true}
		}
	}
	if p.anyDepth && len(parts) > 0 && parts[len(parts)-1].anyDepth {
		return parts, nil
	}
	return append(parts, p), nil
}

// parseToken reads the token at text[i:] and returns its length.
func parseToken(text string, i int) (token, int, error) {
	switch c := text[i]; c {
	case '*':
		return token{kind: tokenAnyRun}, 1, nil
	case '?':
		return token{kind: tokenAnyOne}, 1, nil
	case '[':
		return parseClass(text[i:])
	case '\\':
		b, n, err := unescape(text[i:])
		return token{literal: string([]byte{b})}, n, err
	case ' ', '\t':
		if i+1 == len(text) {
			return token{}, 0, errors.New(`ends in a blank; remove it, or write it as "\ "`)
		}
		if text[i+1] == '#' {
			return token{}, 0, errors.New(`has a comment behind the path; give it a line of its own, or write \# where it is part of the name`)
		}
		fallthrough
	default:
		return token{literal: text[i : i+1]}, 1, nil
	}
}

// unescape reads the escape at the start of s.
func unescape(s string) (b byte, n int, err error) {
	if len(s) < 2 {
		return 0, 0, errors.New(`ends in a lone backslash; write \\ for one in a name`)
	}
	switch c := s[1]; {
	case c == 'n':
		return '\n', 2, nil
	case c == 't':
		return '\t', 2, nil
	case c == 'r':
		return '\r', 2, nil
	case c == 'x' && len(s) >= 4:
		v, err := strconv.ParseUint(s[2:4], 16, 8)
		if err != nil {
			return 0, 0, fmt.Errorf("has a bad escape %q", s[:4])
		}
		b, n = byte(v), 4
	case c >= ' ' && c < 0x7f && !isAlphanumeric(c):
		b, n = c, 2
	default:
		return 0, 0, fmt.Errorf("has an unknown escape %q", s[:2])
	}
	if b == 0 || b == '/' {
		return 0, 0, fmt.Errorf("has the escape %q for a byte that no name contains", s[:n])
	}
	return b, n, nil
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// parseClass reads a bracket expression as in POSIX.1 2.13.1, with ! or ^ to
// negate and without named classes, which depend on a locale.
func parseClass(s string) (token, int, error) {
	unclosed := errors.New("has a [ without its ]; write \\[ for one in a name")
	t := token{kind: tokenClass}
	i := 1
	if i < len(s) && (s[i] == '!' || s[i] == '^') {
		t.negated = true
		i++
	}
	for first := true; ; first = false {
		if i >= len(s) || s[i] == '/' {
			return token{}, 0, unclosed
		}
		if s[i] == ']' && !first {
			return t, i + 1, nil
		}
		if s[i] == '[' && i+1 < len(s) && strings.IndexByte(":.=", s[i+1]) >= 0 {
			return token{}, 0, errors.New("has a named class in brackets, which is not supported")
		}
		low, n, err := classRune(s[i:])
		if err != nil {
			return token{}, 0, err
		}
		i += n
		high := low
		if i+1 < len(s) && s[i] == '-' && s[i+1] != ']' && s[i+1] != '/' {
			if high, n, err = classRune(s[i+1:]); err != nil {
				return token{}, 0, err
			}
			i += 1 + n
		}
		if high < low || (low < 0) != (high < 0) {
			return token{}, 0, errors.New("has a range in brackets that runs backwards")
		}
		t.ranges = append(t.ranges, runeRange{low, high})
	}
}

func classRune(s string) (rune, int, error) {
	if s[0] != '\\' {
		r, n := decodeRune(s)
		return r, n, nil
	}
	b, n, err := unescape(s)
	if b >= utf8.RuneSelf {
		return -rune(b), n, err
	}
	return rune(b), n, err
}
