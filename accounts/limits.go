package accounts

import (
	"strconv"
	"strings"
)

// Limits are the ranges of numbers of a system's login.defs(5), both ends
// included.
type Limits struct {
	UIDMin, UIDMax       uint32 // people
	SysUIDMin, SysUIDMax uint32 // services
	GIDMin, GIDMax       uint32
	SysGIDMin, SysGIDMax uint32
	SubUIDMin, SubUIDMax uint32
	SubGIDMin, SubGIDMax uint32
}

// DefaultLimits are those of shadow-utils where login.defs says nothing.
func DefaultLimits() Limits {
	return Limits{
		UIDMin: 1000, UIDMax: 60000, SysUIDMin: 101, SysUIDMax: 999,
		GIDMin: 1000, GIDMax: 60000, SysGIDMin: 101, SysGIDMax: 999,
		SubUIDMin: 100000, SubUIDMax: 600100000, SubGIDMin: 100000, SubGIDMax: 600100000,
	}
}

// parseLimits reads login.defs. bad names the settings that make no sense, whose
// defaults are used.
func parseLimits(text string) (l Limits, bad []string) {
	l = DefaultLimits()
	set := map[string]uint32{}
	for raw := range strings.SplitSeq(text, "\n") {
		fields := strings.Fields(raw)
		if len(fields) < 2 || fields[0][0] == '#' {
			continue
		}
		// getdef_ulong of shadow-utils: strtoul with base 0.
		if n, err := strconv.ParseUint(strings.Trim(fields[1], `"`), 0, 32); err == nil && n <= maxID {
			set[fields[0]] = uint32(n)
		} else {
			set[fields[0]] = 0 // no sense in any of those that are used
		}
	}
	for _, r := range []struct {
		name             string
		low, high, least *uint32
	}{
		{"UID", &l.UIDMin, &l.UIDMax, nil}, {"GID", &l.GIDMin, &l.GIDMax, nil},
		{"SUB_UID", &l.SubUIDMin, &l.SubUIDMax, nil}, {"SUB_GID", &l.SubGIDMin, &l.SubGIDMax, nil},
	} {
		low, high := pick(set, r.name+"_MIN", *r.low), pick(set, r.name+"_MAX", *r.high)
		// A UID_MIN below 2 would make people of all services, of root even.
		if low < 2 || high < low {
			bad = append(bad, r.name+"_MIN", r.name+"_MAX")
			continue
		}
		*r.low, *r.high = low, high
	}
	l.SysUIDMin, l.SysUIDMax, bad = systemRange(set, "SYS_UID", l.UIDMin, bad)
	l.SysGIDMin, l.SysGIDMax, bad = systemRange(set, "SYS_GID", l.GIDMin, bad)
	return l, bad
}

// systemRange has the defaults of find_new_uid.c: 101 to UID_MIN-1.
func systemRange(set map[string]uint32, name string, people uint32, bad []string) (low, high uint32, _ []string) {
	low, high = pick(set, name+"_MIN", min(101, people-1)), pick(set, name+"_MAX", people-1)
	if low == 0 || high < low || high >= people {
		return min(101, people-1), people - 1, append(bad, name+"_MIN", name+"_MAX")
	}
	return low, high, bad
}

func pick(set map[string]uint32, name string, or uint32) uint32 {
	if n, ok := set[name]; ok {
		return n
	}
	return or
}

// person says whether a number of the new system is one of people.
func (l Limits) person(uid uint32) bool { return uid >= l.UIDMin && uid <= l.UIDMax }

// overflow says whether a number is the kernel's for "nobody": overflowuid, or
// (uid_t)-1 of 16 bits.
func overflow(id uint32) bool { return id == 65534 || id == 65535 }
