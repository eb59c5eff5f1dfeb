package accounts

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// checker looks for what a merge did and did not say.
type checker struct {
	was, had, is system // old, new, merged
	rep          Report
	low, high    int // people of the new system
	faults       []string
}

func (c *checker) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Sprintf(format, args...))
}

// said wants an entry that has all fields of e which are not empty, and one of the
// outcomes.
func (c *checker) said(e Entry, did ...Did) {
	for _, r := range c.rep.Entries {
		if r.What == e.What && r.Name == e.Name && (e.Group == "" || r.Group == e.Group) && r.Field == e.Field &&
			(e.Old == "" || r.Old == e.Old) && (e.New == "" || r.New == e.New) && slices.Contains(did, r.Did) {
			return
		}
	}
	c.fault("silent: nothing says %+v %v", e, did)
}

func check(p pair, m *Merged, rep Report) []string {
	c := &checker{was: see(p.old), had: see(p.new), is: see(m.Set()), rep: rep, low: 1000, high: 60000}
	if p.new.hasDefs {
		c.low = 500
	}
	for _, name := range c.was.order {
		c.user(name)
	}
	for _, name := range slices.Sorted(maps.Keys(c.was.groups)) {
		c.group(name)
	}
	for _, name := range c.had.order {
		c.own(name)
	}
	c.numbers()
	c.ranges()
	c.lines(p.new, m.Set())
	c.secrets(p)
	for name, u := range c.was.users {
		if c.was.userIDs[u.uid] == name {
			if is, ok := c.is.users[name]; ok && m.UIDs[uint32(u.uid)] != uint32(is.uid) {
				c.fault("UIDs[%d] = %d; want %d, which %s has", u.uid, m.UIDs[uint32(u.uid)], is.uid, name)
			}
		}
	}
	return c.faults
}

// trusted says whether the old system's password and memberships are to stand.
func (c *checker) trusted(name string) bool {
	u, both := c.had.users[name]
	return !both || name == "root" || u.uid >= c.low && u.uid <= c.high
}

func (c *checker) user(name string) {
	was, is := c.was.users[name], c.is.users[name]
	if _, ok := c.is.users[name]; !ok {
		c.said(Entry{What: User, Name: name}, Skipped)
		return
	}
	_, both := c.had.users[name]
	if was.uid != is.uid {
		c.said(Entry{What: User, Name: name, Old: fmt.Sprint(was.uid), New: fmt.Sprint(is.uid)}, Kept, Renumbered)
	}
	for _, f := range []struct {
		field    string
		old, new string
	}{
		{"gid", fmt.Sprint(was.gid, was.primary), fmt.Sprint(is.gid, is.primary)},
		{"comment", was.gecos, is.gecos}, {"home", was.home, is.home}, {"shell", was.shell, is.shell},
	} {
		if f.old == f.new {
			continue
		}
		if !both && f.field != "gid" {
			c.fault("%s was added with another %s", name, f.field)
		}
		c.said(Entry{What: User, Name: name, Field: f.field}, Differs, Renumbered)
	}
	c.password(name, both)
	for g := range was.supplementary {
		if !is.supplementary[g] {
			c.said(Entry{What: Member, Name: name, Group: g}, Skipped)
			if _, ok := c.is.groups[g]; ok && c.trusted(name) && name != "root" {
				c.fault("%s may be in %s, and is not", name, g)
			}
		}
	}
	if g, ok := c.is.groups[was.primary]; was.primary != "" && (!ok || g.gid != is.gid) && !is.supplementary[was.primary] {
		c.said(Entry{What: Member, Name: name, Group: was.primary}, Skipped)
	}
	for g := range is.supplementary {
		if !was.supplementary[g] {
			if w, ok := c.was.groups[g]; !ok || w.gid != was.gid && was.primary != g {
				c.said(Entry{What: Member, Name: name, Group: g}, Differs)
			}
		}
	}
	for g := range was.admin {
		if !is.admin[g] {
			c.said(Entry{What: Administrator, Name: name, Group: g}, Skipped)
		}
	}
	for g := range is.admin {
		if !was.admin[g] {
			c.said(Entry{What: Administrator, Name: name, Group: g}, Differs)
		}
	}
}

func (c *checker) password(name string, both bool) {
	was, is := c.was.users[name], c.is.users[name]
	if was.password != is.password || was.readable != is.readable {
		c.said(Entry{What: Password, Name: name}, Skipped)
	}
	if was.ageing != is.ageing && was.readable && is.readable {
		c.said(Entry{What: Ageing, Name: name}, Skipped)
	}
	switch must := c.trusted(name) && was.readable && (was.password != "" || !both); {
	case must && (was.password != is.password || was.ageing != is.ageing):
		c.fault("%s has not the password of the old system", name)
	case both && !must && is.password != c.had.users[name].password:
		c.fault("%s has another password than in the new system", name)
	case !both && !was.readable && is.password != "!":
		c.fault("%s had no password and is not locked", name)
	}
}

func (c *checker) group(name string) {
	was := c.was.groups[name]
	is, ok := c.is.groups[name]
	if !ok {
		c.said(Entry{What: Group, Name: name}, Skipped)
		return
	}
	if was.gid != is.gid {
		c.said(Entry{What: Group, Name: name, Old: fmt.Sprint(was.gid), New: fmt.Sprint(is.gid)}, Kept, Renumbered)
	}
	if was.password != is.password {
		c.said(Entry{What: GroupPassword, Name: name}, Skipped)
	}
}

// own holds the new system's accounts to what they were.
func (c *checker) own(name string) {
	had, is := c.had.users[name], c.is.users[name]
	if had.uid != is.uid || had.gid != is.gid || had.home != is.home || had.shell != is.shell || had.gecos != is.gecos {
		c.fault("the new system's %s changed: %+v is %+v", name, had, is)
	}
	if !c.trusted(name) && had.password != is.password {
		c.fault("the service %s has another password", name)
	}
	for g := range is.supplementary {
		if !had.supplementary[g] && !c.trusted(name) {
			c.fault("the service %s came into %s", name, g)
		}
	}
}

// numbers looks for names that share a number and did in neither system.
func (c *checker) numbers() {
	for a, x := range c.is.users {
		for b, y := range c.is.users {
			if a >= b || x.uid != y.uid {
				continue
			}
			_, newA := c.had.users[a]
			_, newB := c.had.users[b]
			oldA, okA := c.was.users[a]
			oldB, okB := c.was.users[b]
			if !(newA && newB) && !(okA && okB && oldA.uid == oldB.uid) {
				c.fault("%s and %s share uid %d", a, b, x.uid)
			}
			if x.uid == 0 && !(newA && newB) {
				c.fault("%s or %s became root", a, b)
			}
		}
	}
	for a, x := range c.is.groups {
		for b, y := range c.is.groups {
			if a >= b || x.gid != y.gid {
				continue
			}
			_, newA := c.had.groups[a]
			_, newB := c.had.groups[b]
			oldA, okA := c.was.groups[a]
			oldB, okB := c.was.groups[b]
			if !(newA && newB) && !(okA && okB && oldA.gid == oldB.gid) {
				c.fault("groups %s and %s share gid %d", a, b, x.gid)
			}
		}
	}
	// Nobody comes into a group through a number that it did not have.
	for name, u := range c.is.users {
		had, both := c.had.users[name]
		if both && had.primary != u.primary && (had.primary != "" || u.primary != "") {
			c.fault("%s of the new system came from group %q to %q", name, had.primary, u.primary)
		}
		if was := c.was.users[name]; !both && was.primary != u.primary {
			if w, s := c.was.groups[was.primary], c.is.groups[was.primary]; was.primary == "" || w.gid == 0 && s.gid == 0 || s.gid != u.gid {
				c.fault("%s was in group %q and is in %q", name, was.primary, u.primary)
			}
		}
	}
}

func (c *checker) ranges() {
	for i, what := range []What{SubUID, SubGID} {
		was, had, is := c.was.subs[i], c.had.subs[i], c.is.subs[i]
		for _, r := range was {
			if r.owner != "" && !slices.Contains(is, r) {
				c.said(Entry{What: what, Name: r.owner, Old: fmt.Sprintf("%d-%d", r.start, r.start+r.size-1)}, Skipped, Renumbered)
			}
		}
		for _, r := range is {
			if _, old := c.was.users[r.owner]; old && !slices.Contains(was, r) {
				c.said(Entry{What: what, Name: r.owner, New: fmt.Sprintf("%d-%d", r.start, r.start+r.size-1)}, Differs, Renumbered)
			}
		}
		// What is behind the new system's lines was added.
		for j := len(had); j < len(is); j++ {
			for k := range j {
				if is[j].start < is[k].start+is[k].size && is[k].start < is[j].start+is[j].size {
					c.fault("ranges %+v and %+v of %s overlap", is[k], is[j], what)
				}
			}
			for name, u := range c.is.users {
				if i == 0 && u.uid >= is[j].start && u.uid < is[j].start+is[j].size {
					c.fault("%s is in the range %+v", name, is[j])
				}
			}
		}
		for name, u := range c.is.users {
			_, both := c.had.users[name]
			for _, r := range had {
				if i == 0 && !both && u.uid >= r.start && u.uid < r.start+r.size {
					c.fault("%s was added within the range %+v", name, r)
				}
			}
		}
	}
}

// lines holds the new files to order and bytes of their lines.
func (c *checker) lines(had, is *Set) {
	touched := func(k kind, name string) bool {
		return slices.ContainsFunc(c.rep.Entries, func(e Entry) bool {
			switch k {
			case passwd:
				return e.What == Password && e.Did == Kept && e.Name == name
			case shadow:
				return e.What == Password && (e.Did == Kept || e.Did == Added) && e.Name == name
			case group:
				return e.What == Member && e.Did == Added && e.Group == name
			case gshadow:
				return (e.What == Member || e.What == Administrator || e.What == GroupPassword) && e.Did == Added && cmpGroup(e) == name
			}
			return false
		})
	}
	for k := range kinds {
		old, now := strings.SplitAfter(had.files[k].text, "\n"), strings.SplitAfter(is.files[k].text, "\n")
		j := 0
		for _, l := range old {
			if l == "" {
				continue
			}
			name, _, _ := strings.Cut(l, ":")
			if strings.HasPrefix(l, "+") {
				for j < len(now) && !strings.HasPrefix(now[j], "+") {
					j++ // added before it
				}
			}
			switch {
			case j < len(now) && strings.TrimSuffix(now[j], "\n") == strings.TrimSuffix(l, "\n"):
			case j < len(now) && strings.HasPrefix(now[j], strings.TrimSpace(name)+":") && touched(k, strings.TrimSpace(name)):
			default:
				c.fault("%s: line %q of the new system is gone or changed", k.path(), l)
				return
			}
			j++
		}
	}
}

func cmpGroup(e Entry) string {
	if e.Group != "" {
		return e.Group
	}
	return e.Name
}

func (c *checker) secrets(p pair) {
	b, err := json.Marshal(c.rep)
	if err != nil {
		c.fault("report: %v", err)
	}
	text := string(b) + c.rep.Summary()
	for _, e := range c.rep.Entries {
		text += e.String()
	}
	for _, hash := range p.hashes {
		for _, part := range strings.Split(hash, "$")[2:] {
			if strings.Contains(text, part) {
				c.fault("the report has %q of hash %q", part, hash)
			}
		}
	}
}
