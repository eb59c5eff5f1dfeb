package retain

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
)

// The value of system.posix_acl_access and _default, linux/posix_acl_xattr.h: a
// version of four bytes, then entries of tag, permissions (two bytes each) and
// number (four), little-endian.
const (
	aclVersion    = 2
	aclHeadBytes  = 4
	aclEntryBytes = 8

	aclUser  = 0x02 // the entries that name somebody
	aclGroup = 0x08
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// parseACL says no to what is not such a value; the kernel says so, too.
func parseACL(value string) ([]aclEntry, bool) {
	b := []byte(value)
	if len(b) < aclHeadBytes || (len(b)-aclHeadBytes)%aclEntryBytes != 0 || binary.LittleEndian.Uint32(b) != aclVersion {
		return nil, false
	}
	var entries []aclEntry
	for b = b[aclHeadBytes:]; len(b) > 0; b = b[aclEntryBytes:] {
		entries = append(entries, aclEntry{binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])})
	}
	return entries, true
}

func formatACL(entries []aclEntry) string {
	b := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return string(b)
}

func isACL(xattr string) bool { return strings.HasPrefix(xattr, xattrACLPrefix) }

// aclNames are the names of users and groups that the ACLs among the attributes
// give by number, as the archive has them: "user:1000:ann" or "group:100:users",
// one a line. Whom the system doesn't name is not in it. Names have neither colon
// nor newline, passwd(5).
func aclNames(xattrs map[string]string, accounts *Accounts) string {
	var lines []string
	for name, value := range xattrs {
		if !isACL(name) {
			continue
		}
		entries, _ := parseACL(value)
		for _, e := range entries {
			kind, owner := "user", ""
			switch e.tag {
			case aclUser:
				owner = accounts.UserName(e.id)
			case aclGroup:
				kind, owner = "group", accounts.GroupName(e.id)
			}
			if owner != "" {
				lines = append(lines, kind+":"+strconv.FormatUint(uint64(e.id), 10)+":"+owner+"\n")
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "")
}

// aclOwner is a number in an old ACL.
type aclOwner struct {
	tag uint16
	id  uint32
}

// parseACLNames passes over lines that are none.
func parseACLNames(text string) map[aclOwner]string {
	names := map[aclOwner]string{}
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		tag := uint16(aclUser)
		if fields[0] == "group" {
			tag = aclGroup
		}
		if id, err := parseUint32(fields[1]); err == nil {
			names[aclOwner{tag, id}] = fields[2]
		}
	}
	return names
}

// mapACLs gives the numbers in an entry's ACLs to those who have their names in
// the new system, as it does for owners. An ACL that is none is left to the
// kernel to refuse.
//
// Two old names may be one number now. Then they have what both of them had,
// never more, and merged says so: ACLs with an owner twice are invalid to
// acl_valid(3), and the kernel heeds the first.
func (o *owners) mapACLs(h *header) (merged []string) {
	if o.rule == ByID {
		return nil
	}
	var names map[aclOwner]string
	for _, xattr := range applyOrder(h.xattrs) {
		if !isACL(xattr) {
			continue
		}
		entries, ok := parseACL(h.xattrs[xattr])
		if !ok {
			continue
		}
		if names == nil {
			names = parseACLNames(h.aclNames)
		}
		same := true
		for i := range entries {
			e := &entries[i]
			old := e.id
			switch name := names[aclOwner{e.tag, old}]; e.tag {
			case aclUser:
				e.id = o.lookup("user", name, old, o.accounts.users)
			case aclGroup:
				e.id = o.lookup("group", name, old, o.accounts.groups)
			}
			same = same && e.id == old
		}
		if same {
			continue
		}
		unique := orderACL(entries)
		if len(unique) < len(entries) {
			merged = append(merged, xattr)
		}
		h.xattrs[xattr] = formatACL(unique)
	}
	return merged
}

// orderACL sorts users among users and groups among groups by number, as setfacl
// writes them, and joins those that are the same.
func orderACL(entries []aclEntry) []aclEntry {
	slices.SortStableFunc(entries, func(a, b aclEntry) int {
		if a.tag != b.tag || (a.tag != aclUser && a.tag != aclGroup) {
			return cmp.Compare(a.tag, b.tag) // the kernel's order: posix_acl_valid()
		}
		return cmp.Compare(a.id, b.id)
	})
	unique := make([]aclEntry, 0, len(entries))
	for _, e := range entries {
		if n := len(unique); n > 0 && (e.tag == aclUser || e.tag == aclGroup) && unique[n-1].tag == e.tag && unique[n-1].id == e.id {
			unique[n-1].perm &= e.perm
			continue
		}
		unique = append(unique, e)
	}
	return unique
}
