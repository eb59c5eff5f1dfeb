package accounts

import (
	"slices"
	"strings"
)

// noPassword is a field that no password matches: crypt(3) never returns it.
const noPassword = "!"

// putUsers adds the old system's users and keeps passwords.
func (m *merger) putUsers() {
	for i := range m.users {
		s := &m.users[i]
		e := Entry{What: User, Name: s.name, Old: decimal(s.old), New: decimal(s.now), Why: s.why}
		switch s.fate {
		case absent:
			e.Did, e.New = Skipped, ""
			m.rep.add(e)
		case present:
			e.Did = Kept
			m.rep.add(e)
			m.compareUser(s)
			m.keepPassword(s)
		case added:
			e.Did = Added
			if s.now != s.old {
				e.Did = Renumbered
			}
			m.rep.add(e)
			m.addUser(s)
		}
	}
}

func (m *merger) addUser(s *subject) {
	g, _ := m.primary(s)
	fields := slices.Clone(m.old[passwd].lines[s.line].fields)
	fields[fPassword], fields[fID], fields[fGID] = "x", decimal(s.now), decimal(g.now)
	if gid := m.old[passwd].lines[s.line].id(fGID); g.now != gid {
		why := "its group " + g.name + " has this number now"
		if g.line < 0 {
			why = "its group has no name, and its number is in use"
		}
		m.rep.add(Entry{What: User, Did: Renumbered, Name: s.name, Field: "gid", Old: decimal(gid), New: decimal(g.now), Why: why})
	}
	if other := m.new[group].nameOf(g.now); g.fate == present && other != g.name {
		m.rep.add(Entry{What: User, Did: Differs, Name: s.name, Field: "gid", New: decimal(g.now), Why: "in the new system " + other + " has the number of its group " + g.name + " too"})
	}
	m.new[passwd].put(fields)

	was, ok := m.secret(m.old, s.name)
	e := Entry{What: Password, Did: Kept, Name: s.name, Old: was.kind(), New: was.kind()}
	if !ok {
		was = secret{password: noPassword}
		e = Entry{What: Password, Did: Skipped, Name: s.name, New: was.kind(), Why: "the old system has no readable line for it in shadow"}
	}
	m.rep.add(e)
	if m.putSecret(s.name, was) {
		m.rep.add(Entry{What: Password, Did: Added, Name: s.name, Why: "in place of a line of shadow that had no account in the new system"})
	}
}

// compareUser reports what an account of both systems no longer is.
func (m *merger) compareUser(s *subject) {
	was, is := &m.old[passwd].lines[s.line], &m.new[passwd].lines[m.new[passwd].first[s.name]]
	add := func(field, old, new string) {
		m.rep.add(Entry{What: User, Did: Differs, Name: s.name, Field: field, Old: old, New: new})
	}
	if s.old != s.now {
		add("uid", decimal(s.old), decimal(s.now))
	}
	if was.id(fGID) != is.id(fGID) || m.old[group].nameOf(was.id(fGID)) != m.new[group].nameOf(is.id(fGID)) {
		add("gid", decimal(was.id(fGID)), decimal(is.id(fGID)))
	}
	if was.fields[fGecos] != is.fields[fGecos] {
		add("comment", "", "") // whatever it was, it is nobody else's business
	}
	for _, f := range []struct {
		field int
		name  string
	}{{fHome, "home"}, {fShell, "shell"}} {
		if old, new := was.fields[f.field], is.fields[f.field]; old != new || f.field == fShell && is.cr {
			add(f.name, quotePath(old), quotePath(new))
		}
	}
}

// nameOf returns the name that libc finds for a number.
func (t *table) nameOf(id uint32) string {
	if t.byID == nil {
		t.byID = map[uint32]string{}
		each(t, func(l *line) {
			if _, taken := t.byID[l.id(fID)]; !taken {
				t.byID[l.id(fID)] = l.fields[fName]
			}
		})
	}
	return t.byID[id]
}

// quotePath returns a path for a report, or "" for what is not one and might be
// anything.
func quotePath(path string) string {
	if !strings.HasPrefix(path, "/") || strings.ContainsRune(path, '$') {
		return ""
	}
	return strings.ToValidUTF8(path, "?")
}

// secret is the password of a user, and the fields behind it in shadow.
type secret struct {
	password string
	ageing   [7]string
}

// secret returns what lets a user in. It is in passwd if the field there is not
// "x", as pam_unix and login(1) see it. ok is false if there is nothing to read.
func (m *merger) secret(of [kinds]*table, name string) (s secret, ok bool) {
	if field := of[passwd].get(name)[fPassword]; field != "x" {
		return secret{password: field}, true
	}
	fields := of[shadow].get(name)
	if fields == nil {
		return secret{}, false
	}
	s.password = fields[fPassword]
	copy(s.ageing[:], fields[fAgeing:])
	return s, true
}

// keepPassword decides for an account of both systems.
func (m *merger) keepPassword(s *subject) {
	was, had := m.secret(m.old, s.name)
	is, has := m.secret(m.new, s.name)
	e := Entry{What: Password, Name: s.name, Old: was.kind(), New: is.kind()}
	if !had {
		e.Old = "none"
	}
	if !has {
		e.New = "none"
	}
	allowed, why := m.allows(s.name)
	if s.name == "root" && !m.excluded[s.name] {
		allowed, why = true, ""
	}
	switch {
	case was == is && had == has:
		e.Did = Kept
		m.rep.add(e)
		if allowed && had && m.new[passwd].get(s.name)[fPassword] == "x" {
			m.putSecret(s.name, was) // libc may not read the line that says so: see put
		}
		return
	case allowed && !had:
		allowed, why = false, "the old system has no readable line for it in shadow"
	case allowed && was.password == "":
		allowed, why = false, "it was empty; an open account is not made of one that the new system may have closed"
	}
	if allowed {
		e.Did, e.New = Kept, e.Old
		m.rep.add(e)
		m.putSecret(s.name, was)
		return
	}
	e.Did, e.Why = Skipped, why
	if was.password == is.password && had == has {
		e.Did, e.Why = Kept, ""
	}
	m.rep.add(e)
	if was.ageing != is.ageing {
		m.rep.add(Entry{What: Ageing, Did: Skipped, Name: s.name, Why: why})
	}
}

// putSecret writes a password and says whether that replaced a line of shadow.
func (m *merger) putSecret(name string, s secret) (replaced bool) {
	if fields := m.new[passwd].get(name); fields != nil && fields[fPassword] != "x" {
		fields = slices.Clone(fields)
		fields[fPassword] = "x"
		m.new[passwd].put(fields)
	}
	return m.new[shadow].put(append([]string{name, s.password}, s.ageing[:]...))
}

// kind says what kind of password it is, and nothing of the password (crypt(5)).
func (s secret) kind() string {
	switch p := s.password; {
	case p == "":
		return "empty"
	case p[0] == '!' || p[0] == '*':
		return "locked"
	case len(p) == 13 && !strings.Contains(p, "$"):
		return "descrypt"
	default:
		for _, scheme := range [][2]string{{"$1$", "md5crypt"}, {"$5$", "sha256crypt"}, {"$6$", "sha512crypt"}, {"$y$", "yescrypt"},
			{"$gy$", "gost-yescrypt"}, {"$7$", "scrypt"}, {"$2", "bcrypt"}, {"$sha1$", "sha1crypt"}, {"_", "bsdicrypt"}} {
			if strings.HasPrefix(p, scheme[0]) {
				return scheme[1]
			}
		}
		return "unknown"
	}
}
