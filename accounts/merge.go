package accounts

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
)

// Options of a merge.
type Options struct {
	// Exclude are accounts and groups of the old system that are not carried over;
	// of those that the new system has too, all stays as the new system has it.
	Exclude []string
}

// Merged is what the account files of the new system are to be. Like Set it is
// secret and prints as a word.
type Merged struct {
	// UIDs and GIDs map the old system's numbers to those that the same names
	// have in the new one. Where names shared a number it is that of the first,
	// which is the name of files with that owner. What has no number afterwards has
	// no key.
	UIDs, GIDs map[uint32]uint32

	was, is Set
}

// Format keeps the hashes out of logs.
func (m Merged) Format(f fmt.State, _ rune) { io.WriteString(f, redactedFmt) }

// Set returns the merged files, as Read would once they are applied.
func (m *Merged) Set() *Set {
	s := m.is
	return &s
}

// Changed returns the paths of the files that Apply will write, in its order.
func (m *Merged) Changed() []string {
	var paths []string
	for k := range kinds {
		if m.was.files[k] != m.is.files[k] {
			paths = append(paths, k.path())
		}
	}
	return paths
}

// Merge puts the accounts of the old system into the files of the new one. The
// rules are in the comment of the package. It changes neither Set.
func Merge(old, new *Set, o Options) (*Merged, Report) {
	m := &merger{excluded: map[string]bool{}, userAt: map[string]int{}, groupAt: map[string]int{}, groupOf: map[uint32]int{}}
	for _, name := range o.Exclude {
		m.excluded[name] = true
	}
	for k := range kinds {
		m.old[k] = parse(k, old.files[k].present, old.files[k].text)
		m.new[k] = parse(k, new.files[k].present, new.files[k].text)
	}
	m.was, _ = parseLimits(old.defs)
	var bad []string
	m.is, bad = parseLimits(new.defs)
	for _, name := range bad {
		m.rep.add(Entry{What: Limit, Did: Skipped, Name: name, Why: "makes no sense; the default is used"})
	}
	m.oddLines()
	m.collect()
	m.number()
	m.putGroups()
	m.putUsers()
	m.putMembers()
	m.putRanges(subuid)
	m.putRanges(subgid)
	return m.result(new), m.rep
}

type merger struct {
	old, new      [kinds]*table
	was, is       Limits // of the old system, of the new one
	excluded      map[string]bool
	users, groups []subject // in the old order; primary groups without a line last
	userAt        map[string]int
	groupAt       map[string]int
	groupOf       map[uint32]int      // old number to the group that libc finds
	byPrimary     map[uint32][]string // made by oldPrimaries
	rep           Report
}

// oddLines reports what of the old files is not used.
func (m *merger) oddLines() {
	for _, k := range []kind{passwd, group, shadow, gshadow, subuid, subgid} {
		for i, l := range m.old[k].lines {
			e := Entry{What: Line, Did: Skipped, Name: k.path(), Line: i + 1, Why: l.odd}
			if l.odd == "" && l.cr {
				e.Did, e.Why = Kept, oddCR+", which is dropped"
			}
			if k == group && l.odd == oddTwice && m.continues(&l) {
				e.Did, e.Why = Kept, "second line of a group: its members are added to the first"
			}
			if e.Why != "" {
				m.rep.add(e)
			}
		}
	}
}

// continues says whether a line of the old group file repeats name and number of
// an earlier one: glibc's initgroups reads the members of both.
func (m *merger) continues(l *line) bool {
	first := m.old[group].first[l.fields[fName]]
	return m.old[group].lines[first].id(fID) == l.id(fID)
}

// collect lists the old system's groups and users and says which are to be added.
func (m *merger) collect() {
	start := func(k kind, i int, l *line) subject {
		s := subject{name: l.fields[fName], line: i, old: l.id(fID)}
		switch at, ok := m.new[k].first[s.name]; {
		case ok:
			s.fate, s.now = present, m.new[k].lines[at].id(fID)
		case m.excluded[s.name]:
			s.why = "excluded"
		case m.new[k].claimed[s.name]:
			s.why = "the new system has it on a line that is malformed"
		}
		return s
	}
	for i := range m.old[group].lines {
		l := &m.old[group].lines[i]
		if l.odd == "" {
			s := start(group, i, l)
			m.groupAt[s.name] = len(m.groups)
			m.groups = append(m.groups, s)
		} else if l.odd != oddTwice {
			continue
		}
		// A second line of a group with another number gives that its name too.
		if _, taken := m.groupOf[l.id(fID)]; !taken {
			m.groupOf[l.id(fID)] = m.groupAt[l.fields[fName]]
		}
	}
	for i := range m.old[passwd].lines {
		l := &m.old[passwd].lines[i]
		if l.odd != "" {
			continue
		}
		s := start(passwd, i, l)
		m.userAt[s.name] = len(m.users)
		m.users = append(m.users, s)
		if _, named := m.groupOf[l.id(fGID)]; !named && s.fate == absent && s.why == "" {
			m.groupOf[l.id(fGID)] = len(m.groups)
			m.groups = append(m.groups, subject{line: -1, old: l.id(fGID)})
		}
	}
}

// number gives every subject its number, groups first.
func (m *merger) number() {
	uids, gids := map[uint32]bool{}, map[uint32]bool{}
	for _, id := range m.new[passwd].reserved {
		uids[id] = true
	}
	for _, id := range slices.Concat(m.new[group].reserved, m.new[passwd].reservedGID) {
		gids[id] = true
	}
	sharedUID, sharedGID := maps.Clone(uids), map[uint32]bool{}
	each(m.new[passwd], func(l *line) {
		sharedUID[l.id(fID)] = uids[l.id(fID)]
		uids[l.id(fID)], gids[l.id(fGID)] = true, true
	})
	named := map[uint32]bool{}
	each(m.new[group], func(l *line) {
		sharedGID[l.id(fID)] = named[l.id(fID)]
		named[l.id(fID)], gids[l.id(fID)] = true, true
	})

	avoided := map[uint32]bool{}
	for _, t := range []*table{m.old[passwd], m.old[group], m.new[passwd], m.new[group]} {
		each(t, func(l *line) {
			avoided[l.id(fID)] = true
			if t.kind == passwd {
				avoided[l.id(fGID)] = true
			}
		})
	}
	(&numbering{
		taken: gids, shared: sharedGID, avoided: avoided, ranges: m.spans(subgid), next: map[search]uint32{},
		people: [2]uint32{m.is.GIDMin, m.is.GIDMax}, system: [2]uint32{m.is.SysGIDMin, m.is.SysGIDMax},
		joins:  func(now uint32) bool { return now >= m.is.GIDMin && now <= m.is.GIDMax },
		person: func(old uint32) bool { return old >= m.was.GIDMin && !overflow(old) },
	}).assign(m.groups)

	for i := range m.users {
		s := &m.users[i]
		g, ok := m.primary(s)
		switch {
		case s.fate != absent || s.why != "":
		case !ok || g.fate == absent:
			s.why = "its primary group is left out"
		case g.name == s.name:
			s.beside = g.now
		}
	}
	for _, g := range m.groups {
		if g.fate != absent {
			avoided[g.now] = true
		}
	}
	(&numbering{
		taken: uids, shared: sharedUID, avoided: avoided, ranges: m.spans(subuid), next: map[search]uint32{},
		people: [2]uint32{m.is.UIDMin, m.is.UIDMax}, system: [2]uint32{m.is.SysUIDMin, m.is.SysUIDMax},
		joins:  m.is.person,
		person: func(old uint32) bool { return old >= m.was.UIDMin && !overflow(old) },
	}).assign(m.users)
}

// each calls f with every line that has its numbers, names twice included.
func each(t *table, f func(l *line)) {
	for i := range t.lines {
		if l := &t.lines[i]; l.odd == "" || l.odd == oddTwice {
			f(l)
		}
	}
}

// spans returns the subordinate numbers that the new system has given away.
func (m *merger) spans(k kind) *spans {
	var all []span
	for _, l := range m.new[k].lines {
		if l.odd == "" {
			all = append(all, span{uint64(l.id(1)), uint64(l.id(1)) + uint64(l.id(2))})
		}
	}
	return spansOf(all)
}

// primary returns the primary group that a user had in the old system.
func (m *merger) primary(s *subject) (*subject, bool) {
	i, ok := m.groupOf[m.old[passwd].lines[s.line].id(fGID)]
	if !ok {
		return nil, false
	}
	return &m.groups[i], true
}

// allows says whether an account may have what the old system gave it: it was
// added, or is one of the people of the new system.
func (m *merger) allows(name string) (ok bool, why string) {
	i, had := m.userAt[name]
	at, has := m.new[passwd].first[name]
	switch {
	case m.excluded[name]:
		return false, "excluded"
	case had && m.users[i].fate == added:
		return true, ""
	case !has && had:
		return false, "the account is left out"
	case !has:
		return false, "no account has this name"
	case name == "root":
		return false, "root needs no group, and its own are the new system's"
	case !m.is.person(m.new[passwd].lines[at].id(fID)):
		return false, "a service of the new system, which says itself what it may do"
	}
	return true, ""
}

func (m *merger) result(new *Set) *Merged {
	r := &Merged{UIDs: map[uint32]uint32{}, GIDs: map[uint32]uint32{}, was: *new, is: *new}
	for k := range kinds {
		t := m.new[k]
		text := t.text()
		if text != new.files[k].text {
			if !t.present {
				m.rep.add(Entry{What: File, Did: Added, Name: k.path()})
			}
			r.is.files[k] = content{true, text}
		}
	}
	seen := map[uint32]bool{}
	each(m.old[passwd], func(l *line) {
		if s := m.users[m.userAt[l.fields[fName]]]; !seen[l.id(fID)] && s.fate != absent {
			r.UIDs[l.id(fID)] = s.now
		}
		seen[l.id(fID)] = true
	})
	for old, i := range m.groupOf {
		if m.groups[i].fate != absent {
			r.GIDs[old] = m.groups[i].now
		}
	}
	return r
}

// decimal writes a number for a report.
func decimal(id uint32) string { return strconv.FormatUint(uint64(id), 10) }
