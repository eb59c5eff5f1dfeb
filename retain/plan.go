package retain

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// finish sorts the entries, finds the hard links among them and adds up.
func (p *Plan) finish() {
	slices.SortFunc(p.Entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(rank(a.rel), rank(b.rel)), comparePaths(a.rel, b.rel))
	})
	type inode struct{ dev, ino uint64 }
	first := map[inode]Path{}
	p.ArchiveBytes += archiveEndBytes // to what is attached
	nameless := map[string]int{}
	for i := range p.Entries {
		e := &p.Entries[i]
		if e.linked {
			if name, again := first[inode{e.dev, e.ino}]; again {
				e.HardLinkTo = name
			} else {
				first[inode{e.dev, e.ino}] = e.Path
			}
		}
		p.ArchiveBytes += p.archiveBytes(e)
		if e.Type == TypeFile && e.HardLinkTo == "" {
			p.ContentBytes += e.Bytes
			if e.stored > largeBytes {
				p.Surprises = append(p.Surprises, Surprise{e.Path, fmt.Sprintf("has %d MiB, which have to fit into memory", e.stored>>20)})
			}
		}
		if e.UID != 0 && p.accounts.UserName(e.UID) == "" {
			nameless["user "+strconv.FormatUint(uint64(e.UID), 10)]++
		}
		if e.GID != 0 && p.accounts.GroupName(e.GID) == "" {
			nameless["group "+strconv.FormatUint(uint64(e.GID), 10)]++
		}
	}
	for _, owner := range slices.Sorted(maps.Keys(nameless)) {
		p.Surprises = append(p.Surprises, Surprise{"/", fmt.Sprintf("has no name for %s, who owns %d files of the list: they keep the number", owner, nameless[owner])})
	}
}

// largeBytes is how large a file may be before it is worth a word.
const largeBytes = 256 << 20

// rank puts the account files first, so that Restore, which streams, knows the
// numbers that hold in the end before it needs them.
func rank(rel string) int {
	if rel == "etc" || isAccountsFile(rel) {
		return 0
	}
	return 1
}

func isAccountsFile(rel string) bool { return rel == "etc/passwd" || rel == "etc/group" }

// comparePaths orders a directory's content right behind it: a slash sorts
// before every byte that a name may contain.
func comparePaths(a, b string) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return cmp.Compare(int(a[i])-256*b2i(a[i] == '/'), int(b[i])-256*b2i(b[i] == '/'))
		}
	}
	return cmp.Compare(len(a), len(b))
}
