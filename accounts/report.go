package accounts

import (
	"fmt"
	"strings"
)

// Did is what became of something that the old system had.
type Did string

const (
	// Kept: the new system has it; for a password, the old system's stands.
	Kept Did = "kept"
	// Added to the new system as it was.
	Added Did = "added"
	// Renumbered: added with another number, or moved, if it is a range.
	Renumbered Did = "renumbered"
	// Differs: the new system's stands and is not what the old system had.
	Differs Did = "differs"
	// Skipped: not carried over.
	Skipped Did = "skipped"
)

// What an entry is about.
type What string

const (
	User          What = "user"
	Group         What = "group"
	Password      What = "password" // and whether it is locked
	Ageing        What = "ageing"   // the other fields of shadow
	GroupPassword What = "group password"
	Member        What = "member"
	Administrator What = "administrator"
	SubUID        What = "subuid"
	SubGID        What = "subgid"
	Line          What = "line"  // of a file of the old system
	Limit         What = "limit" // a setting in the new system's login.defs
	File          What = "file"  // that the new system lacked
)

// Entry is one thing that happened. It holds no password, no hash and no text
// of a line that could not be parsed.
type Entry struct {
	What What `json:"what"`
	Did  Did  `json:"did"`
	// Name is the user's or group's, or the path of a file beneath the root.
	Name string `json:"name,omitempty"`
	// Group is the one whose member or administrator Name is.
	Group string `json:"group,omitempty"`
	// Field of a user that differs: uid, gid, comment, home or shell.
	Field string `json:"field,omitempty"`
	// Line of the file, from 1.
	Line int `json:"line,omitempty"`
	// Old and New are numbers, first-last of ranges, paths, or for a password what
	// kind of it ("sha512crypt", "locked", "empty").
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
	Why string `json:"why,omitempty"`
}

func (e Entry) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", e.What, e.Name)
	if e.Group != "" {
		fmt.Fprintf(&b, " of %s", e.Group)
	}
	if e.Line != 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	fmt.Fprintf(&b, " %s", e.Did)
	if e.Field != "" {
		fmt.Fprintf(&b, " in %s", e.Field)
	}
	switch {
	case e.Old != "" && e.New != "" && e.Old != e.New:
		fmt.Fprintf(&b, ", %s to %s", e.Old, e.New)
	case e.New != "":
		fmt.Fprintf(&b, ", %s", e.New)
	case e.Old != "":
		fmt.Fprintf(&b, ", %s", e.Old)
	}
	if e.Why != "" {
		fmt.Fprintf(&b, ": %s", e.Why)
	}
	return b.String()
}

// Report is what a merge did, in the order of the old system's files.
type Report struct {
	Entries []Entry `json:"entries"`
}

func (r *Report) add(e Entry) { r.Entries = append(r.Entries, e) }

// Count returns how many entries are about one thing and ended in one way.
func (r Report) Count(what What, did Did) int {
	n := 0
	for _, e := range r.Entries {
		if e.What == what && e.Did == did {
			n++
		}
	}
	return n
}

// Summary says in a line what was done.
func (r Report) Summary() string {
	var parts []string
	for _, what := range []struct {
		what What
		text string
	}{{User, "accounts"}, {Group, "groups"}, {SubUID, "uid ranges"}, {SubGID, "gid ranges"}} {
		added, moved := r.Count(what.what, Added), r.Count(what.what, Renumbered)
		if added+moved > 0 {
			parts = append(parts, fmt.Sprintf("%d %s added (%d renumbered)", added+moved, what.text, moved))
		}
	}
	parts = append(parts, fmt.Sprintf("%d passwords kept", r.Count(Password, Kept)), fmt.Sprintf("%d memberships added", r.Count(Member, Added)))
	skipped, differ := 0, 0
	for _, e := range r.Entries {
		skipped += one(e.Did == Skipped)
		differ += one(e.Did == Differs)
	}
	return strings.Join(append(parts, fmt.Sprintf("%d skipped", skipped), fmt.Sprintf("%d differ", differ)), ", ")
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}
