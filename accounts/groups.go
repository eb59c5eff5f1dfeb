package accounts

import (
	"slices"
	"strings"
)

// putGroups adds the old system's groups, with no members yet.
func (m *merger) putGroups() {
	for i := range m.groups {
		s := &m.groups[i]
		if s.line < 0 {
			continue // its users' entries name the number
		}
		e := Entry{What: Group, Name: s.name, Old: decimal(s.old), New: decimal(s.now), Why: s.why}
		switch s.fate {
		case absent:
			e.Did, e.New = Skipped, ""
		case present:
			e.Did = Kept
		case added:
			e.Did = Added
			if s.now != s.old {
				e.Did = Renumbered
			}
		}
		m.rep.add(e)
		m.groupPassword(s)
	}
}

// groupSecret returns the password of a group, "!" if there is none to read.
func groupSecret(of [kinds]*table, name string) string {
	field := of[group].get(name)[fPassword]
	if field != "x" {
		return field
	}
	if g := of[gshadow].get(name); g != nil {
		return g[fPassword]
	}
	return noPassword
}

// groupPassword reports a group's password that does not come along. One that
// does is written by putMembers.
func (m *merger) groupPassword(s *subject) {
	was := secret{password: groupSecret(m.old, s.name)}
	e := Entry{What: GroupPassword, Did: Skipped, Name: s.name, Old: was.kind()}
	switch {
	case s.fate == present:
		is := secret{password: groupSecret(m.new, s.name)}
		e.New, e.Why = is.kind(), "the new system's stands"
		if was == is {
			return
		}
	case s.fate == added && m.new[gshadow].present:
		return
	case s.fate == added:
		// "x" without gshadow matches no password.
		e.New, e.Why = "locked", "the new system has no gshadow"
		if was.password == noPassword {
			return
		}
	default:
		return
	}
	m.rep.add(e)
}

// roster is who belongs to a group.
type roster struct{ members, admins []string }

// rosters returns the members and administrators of each group. initgroups(3)
// reads all lines of a group, so that second ones with its number count.
func rosters(of [kinds]*table) map[string]*roster {
	all := map[string]*roster{}
	seen := map[[2]string]bool{}
	each(of[group], func(l *line) {
		name := l.fields[fName]
		first := of[group].lines[of[group].first[name]]
		if first.id(fID) != l.id(fID) {
			return
		}
		r := all[name]
		if r == nil {
			r = new(roster)
			all[name] = r
			if g := of[gshadow].get(name); g != nil {
				r.admins = names(g[fAdmins])
			}
		}
		for _, member := range names(l.fields[fMembers]) {
			if !seen[[2]string{name, member}] {
				seen[[2]string{name, member}] = true
				r.members = append(r.members, member)
			}
		}
	})
	return all
}

// putMembers keeps who was in which group.
func (m *merger) putMembers() {
	was, is := rosters(m.old), rosters(m.new)
	primary := m.primaries()
	for i := range m.groups {
		s := &m.groups[i]
		if s.line < 0 {
			continue
		}
		r := was[s.name]
		members := append(slices.Clone(r.members), primary[s.name]...)
		if s.fate == absent {
			m.leftOut(Member, s, members, "the group is left out")
			m.leftOut(Administrator, s, r.admins, "the group is left out")
			continue
		}
		has := is[s.name]
		if has == nil {
			has = new(roster)
		}
		more := m.admit(Member, s, members, has.members)
		admins := r.admins
		if s.fate == added && !m.new[gshadow].present || s.fate == present && m.new[gshadow].get(s.name) == nil {
			m.leftOut(Administrator, s, admins, "the new system has no line for the group in gshadow")
			admins = nil
		}
		admins = m.admit(Administrator, s, admins, has.admins)
		if s.fate == present {
			m.gained(Member, s.name, append(members, m.oldPrimaries(s)...), has.members)
			m.gained(Administrator, s.name, r.admins, has.admins)
		}
		m.writeGroup(s, more, admins)
		m.strays(s, r)
	}
	for _, l := range m.new[group].lines {
		if l.odd != "" {
			continue
		}
		name := l.fields[fName]
		if _, known := m.groupAt[name]; !known && is[name] != nil {
			m.gained(Member, name, nil, is[name].members)
			m.gained(Administrator, name, nil, is[name].admins)
		}
	}
}

func (m *merger) leftOut(what What, s *subject, names []string, why string) {
	for _, name := range names {
		m.rep.add(Entry{What: what, Did: Skipped, Name: reportName(name), Group: s.name, Why: why})
	}
}

// primaries returns, for each group, the people of both systems whose primary
// group it was and no longer is.
func (m *merger) primaries() map[string][]string {
	all := map[string][]string{}
	for i := range m.users {
		s := &m.users[i]
		g, ok := m.primary(s)
		if s.fate != present || !ok || g.line < 0 {
			continue
		}
		is := m.new[passwd].lines[m.new[passwd].first[s.name]].id(fGID)
		if g.fate == absent || g.now != is {
			all[g.name] = append(all[g.name], s.name)
		}
	}
	return all
}

// oldPrimaries returns the users whose primary group it was, so that a
// membership which names them is nothing new.
func (m *merger) oldPrimaries(s *subject) []string {
	if m.byPrimary == nil {
		m.byPrimary = map[uint32][]string{}
		for i := range m.users {
			gid := m.old[passwd].lines[m.users[i].line].id(fGID)
			m.byPrimary[gid] = append(m.byPrimary[gid], m.users[i].name)
		}
	}
	return m.byPrimary[s.old]
}

// admit returns those of the old names that are to be added to the new ones.
func (m *merger) admit(what What, s *subject, old, new []string) []string {
	var more []string
	listed := setOf(new)
	for _, name := range old {
		e := Entry{What: what, Name: reportName(name), Group: s.name}
		ok, why := m.allows(name)
		switch {
		case listed[name]:
			continue
		case m.excluded[s.name]:
			e.Did, e.Why = Skipped, "excluded"
		case !ok:
			e.Did, e.Why = Skipped, why
		default:
			e.Did = Added
			more = append(more, name)
			listed[name] = true
		}
		m.rep.add(e)
	}
	return more
}

// gained reports accounts of the old system that the new one lets into a group in
// which they were not.
func (m *merger) gained(what What, group string, old, new []string) {
	had := setOf(old)
	for _, name := range new {
		if _, known := m.userAt[name]; known && !had[name] {
			m.rep.add(Entry{What: what, Did: Differs, Name: name, Group: group, Why: "the new system's doing"})
		}
	}
}

// writeGroup writes the lines of a group that is added, or whose members are more.
func (m *merger) writeGroup(s *subject, members, admins []string) {
	line, hidden := m.new[group].get(s.name), m.new[gshadow].get(s.name)
	if s.fate == added {
		line = []string{s.name, "x", decimal(s.now), ""}
		// A line without its group is left of a merge that was interrupted, or of a
		// group that was removed: it counts for nothing.
		hidden = nil
		if m.new[gshadow].present {
			hidden = []string{s.name, groupSecret(m.old, s.name), "", ""}
		}
	}
	if s.fate == added || len(members) > 0 {
		m.new[group].put(extend(line, fMembers, members))
	}
	if hidden != nil && (s.fate == added || len(members)+len(admins) > 0) {
		if m.new[gshadow].put(extend(extend(hidden, fAdmins, admins), fMembers, members)) && s.fate == added {
			m.rep.add(Entry{What: GroupPassword, Did: Added, Name: s.name, Why: "in place of a line of gshadow that had no group in the new system"})
		}
	}
}

// strays reports members that the old gshadow names and group does not: only
// group counts to the kernel.
func (m *merger) strays(s *subject, r *roster) {
	g := m.old[gshadow].get(s.name)
	if g == nil {
		return
	}
	listed := setOf(r.members)
	for _, name := range names(g[fMembers]) {
		if !listed[name] {
			m.rep.add(Entry{What: Member, Did: Skipped, Name: reportName(name), Group: s.name, Why: "only the old gshadow names it"})
		}
	}
}

// extend returns a line with names added to one of its lists.
func extend(fields []string, field int, more []string) []string {
	fields = slices.Clone(fields)
	listed := setOf(names(fields[field]))
	more = slices.DeleteFunc(slices.Clone(more), func(name string) bool { return listed[name] })
	if len(more) == 0 {
		return fields
	}
	list := strings.TrimSuffix(fields[field], ",")
	if list != "" {
		list += ","
	}
	fields[field] = list + strings.Join(more, ",")
	return fields
}

func setOf(names []string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}

// reportName returns a name for a report, or "?" for what no account can be
// called and might be anything.
func reportName(name string) string {
	if !validName(name) {
		return "?"
	}
	return name
}
