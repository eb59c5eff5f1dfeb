package accounts

import (
	"cmp"
	"slices"
)

// subject is a user or group of the old system that is to have a number in the
// new one.
type subject struct {
	name string // "" for a primary group that has no line
	line int    // in the old table; -1 if it has none
	old  uint32
	now  uint32
	fate fate
	why  string
	// beside is the number of the private group, for a user that has one.
	beside uint32
}

type fate int

const (
	absent  fate = iota // left out, why says the reason
	present             // in the new system too
	added
)

// numbering gives numbers to subjects.
type numbering struct {
	taken   map[uint32]bool // by lines of the new system, and those placed since
	shared  map[uint32]bool // by two names of the new system
	avoided map[uint32]bool // used by either system for anything
	ranges  *spans          // subordinate numbers of the new system
	people  [2]uint32       // in the new system, both included
	system  [2]uint32
	// joins says whether others may share the number of one that the new system
	// has, if nobody else has it there.
	joins func(now uint32) bool
	// person says whether an old number was one of people.
	person func(old uint32) bool
	next   map[search]uint32 // where the last search ended: numbers are never given back
}

type search struct{ person, strict bool }

func (n *numbering) free(id uint32) bool {
	return !n.taken[id] && !n.ranges.overlaps(uint64(id), uint64(id)+1)
}

// assign sets now and fate of all subjects that are not present.
func (n *numbering) assign(all []subject) {
	anchor := map[uint32]int{}
	for i := range all {
		if _, ok := anchor[all[i].old]; !ok {
			anchor[all[i].old] = i
		}
	}
	// Who can keep a number does, before anyone else can be given it.
	for i := range all {
		s := &all[i]
		if s.fate == absent && s.why == "" && anchor[s.old] == i && n.free(s.old) {
			n.give(s, s.old)
		}
	}
	for i := range all {
		s := &all[i]
		if s.fate != absent || s.why != "" {
			continue
		}
		if first := &all[anchor[s.old]]; first != s {
			if first.fate == added || first.fate == present && n.joins(first.now) && !n.shared[first.now] {
				n.give(s, first.now)
				s.why = "shares its number with " + first.name + ", as in the old system"
				continue
			}
			s.why = "shared its number with " + first.name + ", which no other name may in the new system"
			if first.fate == absent {
				s.why = "shared its number with " + first.name + ", which is left out"
			}
		} else {
			s.why = "its number is in use"
		}
		n.move(s)
	}
}

func (n *numbering) give(s *subject, id uint32) { s.now, s.fate, n.taken[id] = id, added, true }

func (n *numbering) move(s *subject) {
	person := n.person(s.old)
	limits := n.system
	if person {
		limits = n.people
	}
	if s.beside >= limits[0] && s.beside <= limits[1] && n.free(s.beside) {
		n.give(s, s.beside)
		return
	}
	for _, strict := range []bool{true, false} {
		if id, ok := n.find(search{person, strict}, limits); ok {
			n.give(s, id)
			return
		}
	}
	s.why = "no number is left in the new system"
}

// find goes up for people and down for services, as useradd does.
func (n *numbering) find(s search, limits [2]uint32) (uint32, bool) {
	from, begun := n.next[s]
	if !begun {
		from = limits[one(!s.person)]
	}
	for id := from; id >= limits[0] && id <= limits[1]; {
		if n.free(id) && !overflow(id) && (!s.strict || !n.avoided[id]) {
			n.next[s] = id
			return id, true
		}
		// limits[0] is at least 1 and limits[1] at most maxID: neither wraps.
		if s.person {
			id++
		} else {
			id--
		}
		n.next[s] = id
	}
	return 0, false
}

// spans is a set of numbers as sorted ranges that don't touch.
type spans struct{ all []span }

type span struct{ from, to uint64 } // to is not included

// at returns the index of the first span that ends behind from.
func (s *spans) at(from uint64) int {
	i, _ := slices.BinarySearchFunc(s.all, from, func(a span, from uint64) int {
		if a.to <= from {
			return -1
		}
		return 1
	})
	return i
}

// spansOf returns the union of ranges, which it sorts.
func spansOf(ranges []span) *spans {
	slices.SortFunc(ranges, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	s := new(spans)
	for _, r := range ranges {
		s.add(r.from, r.to)
	}
	return s
}

func (s *spans) overlaps(from, to uint64) bool {
	i := s.at(from)
	return i < len(s.all) && s.all[i].from < to
}

func (s *spans) add(from, to uint64) {
	i := s.at(from)
	j := i
	for ; j < len(s.all) && s.all[j].from < to; j++ {
		from, to = min(from, s.all[j].from), max(to, s.all[j].to)
	}
	s.all = slices.Replace(s.all, i, j, span{from, to})
}

// room returns the start of count free numbers within low and high, both
// included: behind all that are used, or in the first gap.
func (s *spans) room(count, low, high uint64) (uint64, bool) {
	behind := low
	if len(s.all) > 0 {
		behind = max(low, s.all[len(s.all)-1].to)
	}
	if behind+count <= high+1 {
		return behind, true
	}
	from := low
	for _, used := range s.all {
		if used.from >= from+count {
			break
		}
		from = max(from, used.to)
	}
	return from, from+count <= high+1
}
