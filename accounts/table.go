package accounts

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// kind is one of the account files.
type kind int

// In the order in which Apply writes them: a name is in passwd only when all else
// about it is in place.
const (
	shadow kind = iota
	gshadow
	subuid
	subgid
	group
	passwd
	kinds
)

// path is the file's path beneath a root.
func (k kind) path() string {
	return [kinds]string{"etc/shadow", "etc/gshadow", "etc/subuid", "etc/subgid", "etc/group", "etc/passwd"}[k]
}

// width is the number of fields, from the manual page of each file.
func (k kind) width() int { return [kinds]int{9, 4, 3, 3, 4, 7}[k] }

// numbers are the fields that have to be numbers.
func (k kind) numbers() []int {
	switch k {
	case passwd:
		return []int{2, 3}
	case group:
		return []int{2}
	case subuid, subgid:
		return []int{1, 2}
	}
	return nil
}

// Fields of the files.
const (
	fName     = 0
	fPassword = 1 // passwd, group, shadow, gshadow
	fID       = 2 // passwd, group
	fGID      = 3 // passwd
	fGecos    = 4 // passwd
	fHome     = 5 // passwd
	fShell    = 6 // passwd
	fAgeing   = 2 // shadow, to the end
	fAdmins   = 2 // gshadow
	fMembers  = 3 // group, gshadow
)

// line is one line of a file. An odd one has odd set and may lack fields.
type line struct {
	raw    string // without the newline
	fields []string
	odd    string // why it is not used
	cr     bool   // ended in a carriage return, which fields lacks
}

// id returns a field that parse found to be a number.
func (l *line) id(field int) uint32 {
	n, _ := number(l.fields[field])
	return n
}

// table is one file.
type table struct {
	kind    kind
	present bool
	lines   []line
	first   map[string]int // name to the line that libc finds; not of subuid, subgid
	// claimed are names on odd lines that libc would find all the same: it
	// takes lines with fields missing, or too many.
	claimed map[string]bool
	// broken are odd lines of shadow and gshadow by name: libc takes some of them,
	// and would find them before a line that is added.
	broken map[string]int
	// reserved are numbers on odd lines, of passwd's primary groups apart.
	reserved, reservedGID []uint32
	open                  bool              // the last line has no newline
	byID                  map[uint32]string // of group, made by nameOf
	added                 []string
}

// parse reads a file. It takes any bytes.
func parse(k kind, present bool, text string) *table {
	t := &table{kind: k, present: present, first: map[string]int{}, claimed: map[string]bool{}, broken: map[string]int{}}
	if text == "" {
		return t
	}
	t.open = !strings.HasSuffix(text, "\n")
	for raw := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		l := parseLine(k, raw)
		named := k != subuid && k != subgid
		if l.odd == "" && named {
			if _, twice := t.first[l.fields[fName]]; twice {
				l.odd = oddTwice
			} else {
				t.first[l.fields[fName]] = len(t.lines)
			}
		}
		if l.odd != "" {
			t.salvage(l)
		}
		t.lines = append(t.lines, l)
	}
	return t
}

// Why a line is odd.
const (
	oddEmpty   = "empty line"
	oddComment = "comment"
	oddNIS     = "line of NIS compatibility"
	oddControl = "control character"
	oddFields  = "wrong number of fields"
	oddName    = "name that no account can have"
	oddNumber  = "not a number where one belongs"
	oddRange   = "range beyond 32 bits, or empty"
	oddTwice   = "name that an earlier line has"
	oddCR      = "carriage return at its end"
)

func parseLine(k kind, raw string) line {
	l := line{raw: raw}
	text, cr := strings.CutSuffix(raw, "\r")
	l.cr = cr
	switch {
	case strings.TrimSpace(text) == "":
		l.odd = oddEmpty
		return l
	case strings.HasPrefix(strings.TrimLeft(text, " \t"), "#"):
		l.odd = oddComment
		return l
	case text[0] == '+' || text[0] == '-':
		l.odd = oddNIS
		return l
	}
	l.fields = strings.Split(text, ":")
	switch {
	case strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0:
		l.odd = oddControl
	case len(l.fields) != k.width():
		l.odd = oddFields
	case (k == subuid || k == subgid) && isNumber(l.fields[fName]):
	case !validName(l.fields[fName]):
		l.odd = oddName
	}
	if l.odd != "" {
		return l
	}
	for _, f := range k.numbers() {
		if !isNumber(l.fields[f]) {
			l.odd = oddNumber
			return l
		}
	}
	if k == subuid || k == subgid {
		if count := uint64(l.id(2)); count == 0 || uint64(l.id(1))+count > maxID+1 {
			l.odd = oddRange
		}
	}
	return l
}

// salvage notes what libc might make of an odd line: it skips white space before
// a name, and needs nothing behind the numbers (LINE_PARSER of nss/nss_files).
func (t *table) salvage(l line) {
	if l.fields == nil || l.odd == oddTwice {
		return
	}
	name := strings.TrimLeftFunc(l.fields[fName], unicode.IsSpace)
	if t.kind == shadow || t.kind == gshadow {
		if _, twice := t.broken[name]; !twice {
			t.broken[name] = len(t.lines)
		}
		return
	}
	if t.kind != passwd && t.kind != group || len(l.fields) <= fID {
		return
	}
	id, ok := number(strings.TrimSpace(l.fields[fID]))
	if !ok {
		return
	}
	t.reserved = append(t.reserved, id)
	if t.kind == passwd {
		if len(l.fields) <= fGID {
			return
		}
		gid, ok := number(strings.TrimSpace(l.fields[fGID]))
		if !ok {
			return
		}
		t.reservedGID = append(t.reservedGID, gid)
	}
	t.claimed[name] = true
}

// get returns the fields of the line that libc finds, or nil.
func (t *table) get(name string) []string {
	if i, ok := t.first[name]; ok {
		return t.lines[i].fields
	}
	return nil
}

// put replaces the line of a name, or adds one. It says whether it replaced
// something.
func (t *table) put(fields []string) (replaced bool) {
	name, raw := fields[fName], strings.Join(fields, ":")
	i, ok := t.first[name]
	if j, broken := t.broken[name]; broken && (!ok || j < i) {
		t.lines[j] = line{raw: raw, fields: fields}
		t.first[name] = j
		delete(t.broken, name)
		return true
	}
	if !ok {
		t.added = append(t.added, raw)
		return false
	}
	l := &t.lines[i]
	// libc reads a number before a carriage return as no number.
	if slices.Equal(l.fields, fields) && (!l.cr || t.kind != shadow) {
		return false
	}
	*l = line{raw: raw, fields: fields}
	return true
}

// text returns the file with what was put.
func (t *table) text() string {
	at := len(t.lines)
	if t.kind != subuid && t.kind != subgid {
		if i := slices.IndexFunc(t.lines, func(l line) bool { return l.odd == oddNIS }); i >= 0 {
			at = i
		}
	}
	var b strings.Builder
	for i := range len(t.lines) + 1 {
		if i == at {
			for _, raw := range t.added {
				b.WriteString(raw + "\n")
			}
		}
		if i == len(t.lines) {
			break
		}
		b.WriteString(t.lines[i].raw)
		if i < len(t.lines)-1 || !t.open || at == len(t.lines) && len(t.added) > 0 {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// maxID is the largest number of an account: (uid_t)-1 means "leave as it is" to
// chown(2).
const maxID = 1<<32 - 2

func number(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n <= maxID
}

func isNumber(s string) bool { _, ok := number(s); return ok }

// maxName is LOGIN_NAME_MAX of limits.h.
const maxName = 256

// validName says whether a name can stand in all the files and be told from a
// number, an option and a hash. What else makes a good name is not ours to say:
// useradd's rules differ from one distribution to the next.
func validName(name string) bool {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsAny(name[:1], "+-#") ||
		strings.ContainsAny(name, ":,/") || strings.Contains(strings.TrimSuffix(name, "$"), "$") {
		return false
	}
	digits := true
	for _, r := range name {
		if unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return false
		}
		digits = digits && r >= '0' && r <= '9'
	}
	return !digits
}

// names splits a list of members.
func names(list string) []string {
	var all []string
	seen := map[string]bool{}
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name != "" && !seen[name] {
			seen[name] = true
			all = append(all, name)
		}
	}
	return all
}
