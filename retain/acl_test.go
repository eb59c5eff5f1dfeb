package retain

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// acl writes an ACL: the entries that have to be there, and those given.
func acl(named ...aclEntry) string {
	const none = 1<<32 - 1
	entries := append([]aclEntry{{0x01, 6, none}, {0x04, 4, none}, {0x10, 7, none}, {0x20, 0, none}}, named...)
	// In any order: what is compared with is in the kernel's.
	return formatACL(orderACL(entries))
}

// Whom an ACL names is found by name in the new system, as owners are.
func TestACLOwners(t *testing.T) {
	needRoot(t)
	old := tree(t, "etc/passwd=root:x:0:0:::\nann:x:1000:1000:::\nbob:x:1001:1001:::\nsvc:x:998:998:::\n",
		"etc/group=root:x:0:\nstaff:x:50:\nann:x:1000:\n", "d/f=", "d/plain=")
	file := filepath.Join(old, "d/f")
	access := acl(aclEntry{aclUser, 7, 998}, aclEntry{aclUser, 4, 1000}, aclEntry{aclUser, 6, 1001}, aclEntry{aclUser, 1, 4242},
		aclEntry{aclGroup, 5, 50}, aclEntry{aclGroup, 2, 4343})
	check(t, unix.Setxattr(file, "system.posix_acl_access", []byte(access), 0))
	check(t, unix.Setxattr(filepath.Dir(file), xattrDefaultACL, []byte(acl(aclEntry{aclUser, 3, 1000})), 0))
	archive, _ := capture(t, scan(t, old, "/d"))
	for _, test := range []struct {
		name        string
		passwd      string
		rule        OwnerRule
		access, def string
		unmapped    []Unmapped
		lost        []Lost
	}{
		// The order of numbers is another one there.
		{"other numbers", "etc/passwd=root:x:0:0:::\nann:x:2001:1:::\nbob:x:2000:1:::\nsvc:x:3000:1:::\n", ByName,
			acl(aclEntry{aclUser, 7, 3000}, aclEntry{aclUser, 4, 2001}, aclEntry{aclUser, 6, 2000}, aclEntry{aclUser, 1, 4242},
				aclEntry{aclGroup, 5, 5050}, aclEntry{aclGroup, 2, 4343}), acl(aclEntry{aclUser, 3, 2001}),
			[]Unmapped{{Kind: "user", ID: 4242, Files: 1}, {Kind: "group", ID: 4343, Files: 1}}, nil},
		{"by number", "etc/passwd=root:x:0:0:::\nann:x:2001:1:::\n", ByID, access, acl(aclEntry{aclUser, 3, 1000}), []Unmapped{}, nil},
		{"names that are gone", "etc/passwd=root:x:0:0:::\nthief:x:1000:1:::\nbob:x:1001:1:::\nsvc:x:998:1:::\n", ByName,
			acl(aclEntry{aclUser, 7, 998}, aclEntry{aclUser, 4, 1000}, aclEntry{aclUser, 6, 1001}, aclEntry{aclUser, 1, 4242},
				aclEntry{aclGroup, 5, 5050}, aclEntry{aclGroup, 2, 4343}), acl(aclEntry{aclUser, 3, 1000}),
			[]Unmapped{{Kind: "user", Name: "ann", ID: 1000, TakenBy: "thief", Files: 2}, {Kind: "user", ID: 4242, Files: 1}, {Kind: "group", ID: 4343, Files: 1}}, nil},
		{"two are one", "etc/passwd=root:x:0:0:::\nann:x:7:1:::\nbob:x:7:1:::\nsvc:x:998:1:::\n", ByName,
			acl(aclEntry{aclUser, 7, 998}, aclEntry{aclUser, 4, 7}, aclEntry{aclUser, 1, 4242},
				aclEntry{aclGroup, 5, 5050}, aclEntry{aclGroup, 2, 4343}), acl(aclEntry{aclUser, 3, 7}),
			[]Unmapped{{Kind: "user", ID: 4242, Files: 1}, {Kind: "group", ID: 4343, Files: 1}},
			[]Lost{{"/d/f", "system.posix_acl_access", "two of those whom it names are one in the new system; they have what both had"}}},
	} {
		target := tree(t, test.passwd, "etc/group=root:x:0:\nstaff:x:5050:\n")
		report := restore(t, target, archive, Options{Owners: test.rule})
		got := map[string]string{}
		for _, x := range []string{"system.posix_acl_access", xattrDefaultACL} {
			buf := make([]byte, 1024)
			path := filepath.Join(target, "d/f")
			if x == xattrDefaultACL {
				path = filepath.Dir(path)
			}
			n, err := unix.Getxattr(path, x, buf)
			check(t, err)
			got[x] = string(buf[:n])
		}
		if diff := cmp.Diff(map[string]string{"system.posix_acl_access": test.access, xattrDefaultACL: test.def}, got); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
		sortUnmapped := cmp.Transformer("set", func(all []Unmapped) map[Unmapped]bool {
			set := map[Unmapped]bool{}
			for _, u := range all {
				set[u] = true
			}
			return set
		})
		if diff := cmp.Diff(test.unmapped, report.Unmapped, sortUnmapped); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
		if diff := cmp.Diff(test.lost, report.Lost); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
		if diff := cmp.Diff([]Difference(nil), verify(t, target, archive, Options{Owners: test.rule})); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}

// An attribute that is no ACL is left as it is, and one that is comes back.
func FuzzACL(f *testing.F) {
	f.Add([]byte(acl(aclEntry{aclUser, 7, 1}, aclEntry{aclGroup, 7, 1})), "user:1:ann\ngroup:1:staff\n")
	f.Add([]byte("\x02\x00\x00"), "user:1")
	f.Add([]byte("\x03\x00\x00\x00\x01\x00\x01\x00\x01\x00\x00\x00"), "other:99999999999:x\n")
	f.Fuzz(func(t *testing.T, value []byte, names string) {
		entries, ok := parseACL(string(value))
		if ok && formatACL(entries) != string(value) {
			t.Errorf("%x was written back as %x", value, formatACL(entries))
		}
		h := &header{xattrs: map[string]string{"system.posix_acl_access": string(value)}, aclNames: names}
		o := owners{accounts: Accounts{users: idTable{ids: map[string]uint32{"ann": 5}}}}
		o.mapACLs(h)
		got, gotOK := parseACL(h.xattrs["system.posix_acl_access"])
		if gotOK != ok || len(got) > len(entries) || (!ok && h.xattrs["system.posix_acl_access"] != string(value)) {
			t.Errorf("%x became %x", value, h.xattrs["system.posix_acl_access"])
		}
	})
}
