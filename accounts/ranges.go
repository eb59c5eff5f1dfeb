package accounts

import (
	"slices"
	"strconv"
)

// owned is a range of subordinate numbers.
type owned struct {
	owner       string
	start, last uint64
}

func (o owned) String() string {
	return strconv.FormatUint(o.start, 10) + "-" + strconv.FormatUint(o.last, 10)
}

// putRanges keeps the ranges of subuid or subgid.
func (m *merger) putRanges(k kind) {
	what, ids := SubUID, passwd
	low, high := uint64(m.is.SubUIDMin), uint64(m.is.SubUIDMax)
	if k == subgid {
		what, ids = SubGID, group
		low, high = uint64(m.is.SubGIDMin), uint64(m.is.SubGIDMax)
	}
	was, is := m.owned(k, m.old, false), m.owned(k, m.new, true)
	owners, has := map[string]bool{}, map[owned]bool{}
	for _, r := range is {
		owners[r.owner], has[r] = true, true
	}
	used := m.spans(k)
	inUse := m.accountNumbers(ids)
	clear := m.clearOf(was, used)
	seen := map[owned]bool{}
	for _, r := range was {
		e := Entry{What: what, Did: Skipped, Name: reportName(r.owner), Old: r.String()}
		ok, why := m.allows(r.owner)
		if r.owner == "root" && !m.excluded[r.owner] {
			ok, why = true, ""
		}
		size := r.last - r.start + 1
		switch {
		case r.owner == "":
			e.Name, e.Why = "?", "its owner has no account in the old system"
		case seen[r]:
			e.Why = "a second line that says the same"
		case has[r]:
			e.Did, e.New = Kept, r.String()
		case !ok:
			e.Why = why
		case owners[r.owner]:
			e.Why = "the new system gives it others"
		default:
			now, fits := r, true
			if used.overlaps(r.start, r.last+1) || inUse.overlaps(r.start, r.last+1) {
				now.start, fits = clear.room(size, low, high)
				now.last = now.start + size - 1
			}
			if !fits {
				e.Why = "no room is left for it in the new system"
				break
			}
			used.add(now.start, now.last+1)
			clear.add(now.start, now.last+1)
			m.new[k].added = append(m.new[k].added, now.owner+":"+strconv.FormatUint(now.start, 10)+":"+strconv.FormatUint(size, 10))
			e.Did, e.New = Added, now.String()
			if now != r {
				e.Did, e.Why = Renumbered, "the numbers are in use; what containers left keeps the old ones"
			}
		}
		seen[r] = true
		m.rep.add(e)
	}
	for _, r := range is {
		if _, known := m.userAt[r.owner]; known && !seen[r] {
			m.rep.add(Entry{What: what, Did: Differs, Name: r.owner, New: r.String(), Why: "the new system's doing"})
		}
	}
}

// owned lists the ranges of a system. An owner may be a name or a number
// (subuid(5)); "" is one that nobody is.
func (m *merger) owned(k kind, of [kinds]*table, merged bool) []owned {
	byID := map[uint32]string{}
	each(of[passwd], func(l *line) {
		if _, taken := byID[l.id(fID)]; !taken {
			byID[l.id(fID)] = l.fields[fName]
		}
	})
	if merged {
		for _, s := range m.users {
			if _, taken := byID[s.now]; !taken && s.fate == added {
				byID[s.now] = s.name
			}
		}
	}
	var all []owned
	for _, l := range of[k].lines {
		if l.odd != "" {
			continue
		}
		r := owned{owner: l.fields[fName], start: uint64(l.id(1))}
		r.last = r.start + uint64(l.id(2)) - 1
		if id, ok := number(r.owner); ok {
			r.owner = byID[id]
		}
		all = append(all, r)
	}
	return all
}

// accountNumbers returns the numbers of the merged passwd or group.
func (m *merger) accountNumbers(k kind) *spans {
	var all []span
	subjects := m.users
	if k == group {
		subjects = m.groups
	}
	add := func(id uint32) { all = append(all, span{uint64(id), uint64(id) + 1}) }
	each(m.new[k], func(l *line) { add(l.id(fID)) })
	for _, s := range subjects {
		if s.fate == added {
			add(s.now)
		}
	}
	return spansOf(all)
}

// clearOf returns what a range that moves has to keep clear of: all of both
// systems, so that one which can stay finds its place free.
func (m *merger) clearOf(was []owned, used *spans) *spans {
	all := slices.Concat(used.all, m.accountNumbers(passwd).all, m.accountNumbers(group).all)
	for _, r := range was {
		all = append(all, span{r.start, r.last + 1})
	}
	return spansOf(all)
}
