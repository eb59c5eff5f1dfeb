package retain

// OwnerRule says what decides a file's owner and group.
type OwnerRule int

const (
	// ByName gives a file to the account that has the old owner's name in the
	// new system, whatever its number; to the old number where there is none.
	ByName OwnerRule = iota
	// ByID keeps the numbers.
	ByID
)

// owners maps the owners of an archive.
type owners struct {
	rule     OwnerRule
	accounts Accounts
	unmapped map[Unmapped]*mentions // by all but the count of files
	order    []Unmapped
	entry    int // counts up, so that a file counts once however often it names somebody
}

type mentions struct{ files, last int }

// of returns the owner and group for an entry, or a conflict.
func (o *owners) of(h *header) (uid, gid uint32, err error) {
	o.entry++
	for _, id := range [...]int64{h.uid, h.gid} {
		if id < 0 || id > maxID {
			return 0, 0, conflictError("the archive gives it an owner number out of range")
		}
	}
	uid, gid = uint32(h.uid), uint32(h.gid)
	if o.rule == ByID {
		return uid, gid, nil
	}
	uid = o.lookup("user", h.uname, uid, o.accounts.users)
	gid = o.lookup("group", h.gname, gid, o.accounts.groups)
	return uid, gid, nil
}

func (o *owners) lookup(kind, name string, old uint32, table idTable) uint32 {
	if id, ok := table.ids[name]; ok {
		return id
	}
	// Number 0 is root whatever the name, or its absence, says.
	if old != 0 || name != "" {
		o.note(Unmapped{Kind: kind, Name: name, ID: old, TakenBy: table.names[old]})
	}
	return old
}

func (o *owners) note(u Unmapped) {
	if o.unmapped == nil {
		o.unmapped = map[Unmapped]*mentions{}
	}
	m := o.unmapped[u]
	if m == nil {
		m = &mentions{}
		o.unmapped[u] = m
		o.order = append(o.order, u)
	}
	if m.last != o.entry {
		m.files, m.last = m.files+1, o.entry
	}
}

func (o *owners) report() []Unmapped {
	all := make([]Unmapped, len(o.order))
	for i, u := range o.order {
		all[i] = u
		all[i].Files = o.unmapped[u].files
	}
	return all
}
