package retain

import "archive/tar"

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
	unmapped map[Unmapped]int // files, by all but their count
	order    []Unmapped
}

// of returns the owner and group for an entry, or a conflict.
func (o *owners) of(h *tar.Header) (uid, gid uint32, err error) {
	// Compared as int64, which holds what a 32-bit int would not.
	for _, id := range [...]int{h.Uid, h.Gid} {
		if id < 0 || int64(id) > maxID {
			return 0, 0, conflictError("the archive gives it an owner number out of range")
		}
	}
	uid, gid = uint32(h.Uid), uint32(h.Gid)
	if o.rule == ByID {
		return uid, gid, nil
	}
	uid = o.lookup("user", h.Uname, uid, o.accounts.users)
	gid = o.lookup("group", h.Gname, gid, o.accounts.groups)
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
		o.unmapped = map[Unmapped]int{}
	}
	if o.unmapped[u] == 0 {
		o.order = append(o.order, u)
	}
	o.unmapped[u]++
}

func (o *owners) report() []Unmapped {
	all := make([]Unmapped, len(o.order))
	for i, u := range o.order {
		all[i] = u
		all[i].Files = o.unmapped[u]
	}
	return all
}
