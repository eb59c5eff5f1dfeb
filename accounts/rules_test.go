package accounts

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// set makes a Set of "file=text", where "|" is the end of a line.
func set(t *testing.T, files ...string) *Set {
	t.Helper()
	s := new(Set)
	for _, file := range files {
		name, text, _ := strings.Cut(file, "=")
		text = strings.ReplaceAll(text, "|", "\n")
		if name == "login.defs" {
			s.defs, s.hasDefs = text, true
			continue
		}
		k := kind(slices.IndexFunc(slices.Collect(allKinds), func(k kind) bool { return k.path() == "etc/"+name }))
		if k < 0 {
			t.Fatalf("no file %q", name)
		}
		s.files[k] = content{true, text}
	}
	return s
}

func allKinds(yield func(kind) bool) {
	for k := range kinds {
		if !yield(k) {
			return
		}
	}
}

const (
	rootLine = "root:x:0:0::/root:/bin/sh|"
	annLine  = "ann:x:1000:1000:Ann:/home/ann:/bin/sh|"
)

func TestRules(t *testing.T) {
	for _, test := range []struct {
		name     string
		old, new []string
		exclude  []string
		want     []string // whole files that change
		report   []string // lines among the report's
	}{
		{"root's hash is kept, with its ageing",
			[]string{"passwd=" + rootLine, "group=root:x:0:|", "shadow=root:OLD:1:0:99:7:::|"},
			[]string{"passwd=" + rootLine, "group=root:x:0:|", "shadow=root:NEW:2:0:99:7:::|"}, nil,
			[]string{"shadow=root:OLD:1:0:99:7:::|"}, []string{"password root kept, unknown"}},
		{"an empty password of root opens nothing",
			[]string{"passwd=" + rootLine, "group=", "shadow=root::1::::::|"},
			[]string{"passwd=" + rootLine, "group=", "shadow=root:*:2::::::|"}, nil,
			nil, []string{"password root skipped, empty to locked: it was empty; an open account is not made of one that the new system may have closed"}},
		{"a lock of one of the people is kept",
			[]string{"passwd=" + annLine, "group=ann:x:1000:|", "shadow=ann:!H:1::::::|"},
			[]string{"passwd=" + annLine, "group=ann:x:1000:|", "shadow=ann:DEFAULT:2::::::|"}, nil,
			[]string{"shadow=ann:!H:1::::::|"}, nil},
		{"a service of the new system stays locked",
			[]string{"passwd=www:x:1000:33::/:/bin/sh|", "group=www:x:33:|", "shadow=www:H:1::::::|"},
			[]string{"passwd=www:x:33:33::/:/sbin/nologin|", "group=www:x:33:|", "shadow=www:*:1::::::|"}, nil,
			nil, []string{"user www differs in shell, /bin/sh to /sbin/nologin",
				"password www skipped, unknown to locked: a service of the new system, which says itself what it may do"}},
		{"one who is missing is added with all",
			[]string{"passwd=" + rootLine + annLine, "group=root:x:0:|ann:x:1000:|video:x:44:ann|", "shadow=root:!:1::::::|ann::1:0:9:7:::|", "gshadow=ann:!:ann:|", "subuid=ann:100000:65536|"},
			[]string{"passwd=" + rootLine + "+::::::|", "group=root:x:0:|video:x:27:|+:::|", "shadow=root:!:1::::::", "gshadow=root:*::|video:!::|"}, nil,
			[]string{"passwd=" + rootLine + annLine + "+::::::|", "group=root:x:0:|video:x:27:ann|ann:x:1000:|+:::|",
				"shadow=root:!:1::::::|ann::1:0:9:7:::|", "gshadow=root:*::|video:!::ann|ann:!:ann:|", "subuid=ann:100000:65536|"},
			[]string{"group video kept, 44 to 27", "user ann added, 1000", "password ann kept, empty", "member ann of video added", "file etc/subuid added"}},
		{"a user and the private group move together, past numbers of both systems",
			[]string{"passwd=" + annLine + "bob:x:1001:1001::/:|", "group=ann:x:1000:|bob:x:1001:|"},
			[]string{"passwd=kiosk:x:1000:1000::/:/bin/sh|bob:x:1003:1003::/:|", "group=kiosk:x:1000:|bob:x:1003:|", "shadow="}, nil,
			[]string{"passwd=kiosk:x:1000:1000::/:/bin/sh|bob:x:1003:1003::/:|ann:x:1002:1002:Ann:/home/ann:/bin/sh|", "group=kiosk:x:1000:|bob:x:1003:|ann:x:1002:|", "shadow=ann:!:::::::|"},
			[]string{"user ann renumbered, 1000 to 1002: its number is in use", "group ann renumbered, 1000 to 1002: its number is in use"}},
		{"a swap of names changes nothing but what is said",
			[]string{"passwd=a:x:1000:5::/:|b:x:1001:5::/:|", "group=g:x:5:|"},
			[]string{"passwd=b:x:1000:5::/:|a:x:1001:5::/:|", "group=g:x:5:|"}, nil,
			nil, []string{"user a differs in uid, 1000 to 1001", "user b differs in uid, 1001 to 1000"}},
		{"services move down from SYS_UID_MAX, in the new system's range",
			[]string{"login.defs=UID_MIN 500|", "passwd=s:x:33:33::/:|p:x:500:33::/:|q:x:501:33::/:|", "group=s:x:33:|"},
			[]string{"login.defs=UID_MIN 0x3e8 |SYS_UID_MAX 899|", "passwd=n:x:33:33::/:|m:x:501:33::/:|", "group=n:x:33:|", "shadow="}, nil,
			[]string{"passwd=n:x:33:33::/:|m:x:501:33::/:|s:x:899:999::/:|p:x:500:999::/:|q:x:1000:999::/:|", "group=n:x:33:|s:x:999:|", "shadow=s:!:::::::|p:!:::::::|q:!:::::::|"}, nil},
		{"a second root is root no longer",
			[]string{"passwd=" + rootLine + "toor:x:0:0::/root:/bin/sh|", "group=root:x:0:|", "shadow=root:!:1::::::|toor:H:1::::::|"},
			[]string{"passwd=" + rootLine, "group=root:x:0:|", "shadow=root:!:1::::::|"}, nil,
			[]string{"passwd=" + rootLine + "toor:x:999:0::/root:/bin/sh|", "shadow=root:!:1::::::|toor:H:1::::::|"},
			[]string{"user toor renumbered, 0 to 999: shared its number with root, which no other name may in the new system"}},
		{"names that shared a number share it still",
			[]string{"passwd=" + annLine + "anna:x:1000:1000::/:|", "group=ann:x:1000:|"},
			[]string{"passwd=x:x:1000:7::/:|", "group=x:x:7:|", "shadow="}, nil,
			[]string{"passwd=x:x:1000:7::/:|ann:x:1001:1000:Ann:/home/ann:/bin/sh|anna:x:1001:1000::/:|", "group=x:x:7:|ann:x:1000:|", "shadow=ann:!:::::::|anna:!:::::::|"}, nil},
		{"a hash never goes to passwd, and comes out of it",
			[]string{"passwd=root:HASH:0:0::/:|", "group="},
			[]string{"passwd=root:FACTORY:0:0::/:|www:*:33:33::/:|", "group="}, nil,
			[]string{"passwd=root:x:0:0::/:|www:*:33:33::/:|", "shadow=root:HASH:::::::|"}, []string{"file etc/shadow added"}},
		{"an old system without shadow leaves the new passwords alone",
			[]string{"passwd=" + rootLine + annLine, "group=ann:x:1000:|"},
			[]string{"passwd=" + rootLine + annLine, "group=ann:x:1000:|", "shadow=root:R:1::::::|ann:A:1::::::|"}, nil,
			nil, []string{"password root skipped, none to unknown: the old system has no readable line for it in shadow"}},
		{"a primary group without a line comes into nobody's",
			[]string{"passwd=s:x:300:44::/:|", "group="},
			[]string{"passwd=" + rootLine, "group=root:x:0:|video:x:44:|", "shadow="}, nil,
			[]string{"passwd=" + rootLine + "s:x:300:999::/:|", "shadow=s:!:::::::|"},
			[]string{"user s renumbered in gid, 44 to 999: its group has no name, and its number is in use"}},
		{"one of the people stays in the group that was primary",
			[]string{"passwd=ann:x:1000:100::/:|", "group=users:x:100:|"},
			[]string{"passwd=ann:x:1000:1000::/:|", "group=ann:x:1000:|users:x:100:bob"}, nil,
			[]string{"group=ann:x:1000:|users:x:100:bob,ann"}, []string{"member ann of users added"}},
		{"a group gained through the new system is said",
			[]string{"passwd=" + annLine, "group=ann:x:1000:|"},
			[]string{"passwd=" + annLine, "group=ann:x:1000:|sudo:x:27:ann|"}, nil,
			nil, []string{"member ann of sudo differs: the new system's doing"}},
		{"members that nobody is, and services, are left out",
			[]string{"passwd=" + rootLine + "www:x:33:33::/:|", "group=www:x:33:|g:x:50:www,ldap,root|"},
			[]string{"passwd=" + rootLine + "www:x:33:33::/:|", "group=www:x:33:|"}, nil,
			[]string{"group=www:x:33:|g:x:50:|"}, []string{"member ldap of g skipped: no account has this name"}},
		{"ranges: kept, moved, refused",
			[]string{"passwd=" + annLine + "bob:x:1001:5::/:|www:x:33:5::/:|", "group=g:x:5:|ann:x:1000:|", "subuid=ann:100000:65536|1001:200000:10|www:300000:5|gone:7:7|bob:200000:10|"},
			[]string{"passwd=" + annLine + "bob:x:1001:5::/:|www:x:33:5::/:|k:x:1002:5::/:|", "group=g:x:5:|ann:x:1000:|", "subuid=k:150000:65536|"}, nil,
			[]string{"subuid=k:150000:65536|ann:300005:65536|bob:365541:10|"},
			[]string{"subuid ann renumbered, 100000-165535 to 300005-365540: the numbers are in use; what containers left keeps the old ones",
				"subuid bob skipped, 200000-200009: a second line that says the same", "subuid gone skipped, 7-13: no account has this name",
				"subuid www skipped, 300000-300004: a service of the new system, which says itself what it may do"}},
		{"odd lines stay, their numbers are used, their names too",
			[]string{"passwd=a:x:5:5::/:|b:x:1000:5::/:|# old|c:x:6|d:x:7:5::/:\r|", "group=g:x:5:|g:x:5:b|"},
			[]string{"passwd=# new|a:x:9:5|c:x:1000\r|", "group=g:x:5:", "shadow="}, nil,
			[]string{"passwd=# new|a:x:9:5|c:x:1000\r|b:x:1001:5::/:|d:x:7:5::/:|", "group=g:x:5:b", "shadow=b:!:::::::|d:!:::::::|"},
			[]string{"user a skipped, 5: the new system has it on a line that is malformed", "line etc/passwd:3 skipped: comment", "line etc/passwd:4 skipped: wrong number of fields",
				"line etc/passwd:5 kept: carriage return at its end, which is dropped", "line etc/group:2 kept: second line of a group: its members are added to the first"}},
		{"a broken line of shadow gives way to the one that counts",
			[]string{"passwd=" + annLine, "group=ann:x:1000:|", "shadow=ann:H:1::::::|"},
			[]string{"passwd=" + annLine, "group=ann:x:1000:|", "shadow=ann:D:1:2:3|x:*:|"}, nil,
			[]string{"shadow=ann:H:1::::::|x:*:|"}, []string{"password ann kept, unknown"}},
		{"a number within somebody's range is not free",
			[]string{"passwd=s:x:100005:5::/:|", "group=g:x:5:|"},
			[]string{"passwd=" + annLine, "group=g:x:5:|ann:x:1000:|", "shadow=", "subuid=ann:100000:65536|"}, nil,
			[]string{"passwd=" + annLine + "s:x:1001:5::/:|", "shadow=s:!:::::::|"}, nil},
		{"no number left",
			[]string{"passwd=a:x:1000:5::/:|b:x:1001:5::/:|", "group=g:x:5:|"},
			[]string{"login.defs=UID_MIN 1000|UID_MAX 1001|", "passwd=x:x:1000:5::/:|y:x:1001:5::/:|", "group=g:x:5:"}, nil,
			nil, []string{"user a skipped, 1000: no number is left in the new system"}},
		{"settings that would make people of services are refused",
			[]string{"passwd=www:x:33:33::/:|", "group=", "shadow=www:H:1::::::|"},
			[]string{"login.defs=UID_MIN 0|", "passwd=www:x:33:33::/:|", "group=", "shadow=www:*:1::::::|"}, nil,
			nil, []string{"limit UID_MIN skipped: makes no sense; the default is used"}},
		{"excluded",
			[]string{"passwd=" + rootLine + annLine + "bob:x:1001:1001::/:|", "group=ann:x:1000:|bob:x:1001:ann|", "shadow=root:H:1::::::|bob:H:1::::::|"},
			[]string{"passwd=" + rootLine + "bob:x:1001:1001::/:|", "group=bob:x:1001:|", "shadow=root:N:1::::::|bob:N:1::::::|"}, []string{"ann", "bob", "root"},
			nil, []string{"user ann skipped, 1000: excluded", "member ann of bob skipped: excluded"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			old, new := set(t, test.old...), set(t, test.new...)
			want := *new
			for _, file := range test.want {
				for k, c := range set(t, file).files {
					if c.present {
						want.files[k] = c
					}
				}
			}
			m, rep := Merge(old, new, Options{Exclude: test.exclude})
			if diff := cmp.Diff(dump(&want), dump(m.Set())); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			all := strings.Split(lines(rep), "\n")
			for _, want := range test.report {
				if !slices.Contains(all, want) {
					t.Errorf("the report has no %q:\n%s", want, lines(rep))
				}
			}
		})
	}
}

func TestMaps(t *testing.T) {
	m, _ := Merge(set(t, "passwd=a:x:1000:9::/:|twin:x:1000:9::/:|gone:x:7:7::/:|c:x:8:8::/:|", "group=g:x:9:|h:x:44:|"),
		set(t, "passwd=n:x:1000:9::/:|gone:x:7|c:x:18:8::/:|", "group=g:x:10:|n:x:44:|"), Options{Exclude: []string{"gone"}})
	if diff := cmp.Diff(map[uint32]uint32{1000: 1001, 8: 18}, m.UIDs); diff != "" {
		t.Errorf("UIDs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[uint32]uint32{9: 10, 44: 999}, m.GIDs); diff != "" {
		t.Errorf("GIDs (-want +got):\n%s", diff)
	}
}

func TestLimits(t *testing.T) {
	def := DefaultLimits()
	with := func(f func(*Limits)) Limits { l := def; f(&l); return l }
	for _, test := range []struct {
		text string
		want Limits
		bad  int
	}{
		{"", def, 0},
		{"#UID_MIN 5\nUID_MIN\nUMASK 022\n", def, 0},
		{"UID_MIN\t500\nUID_MAX \"600\"\n", with(func(l *Limits) { l.UIDMin, l.UIDMax, l.SysUIDMax = 500, 600, 499 }), 0},
		{"UID_MIN 0", def, 2},
		{"UID_MIN -5", def, 2},
		{"UID_MIN 70000", def, 2},
		{"GID_MAX 4294967295", def, 2},
		{"SYS_UID_MAX 1000", def, 2},
		{"SYS_GID_MIN 0", def, 2},
		{"UID_MIN 2", with(func(l *Limits) { l.UIDMin, l.SysUIDMin, l.SysUIDMax = 2, 1, 1 }), 0},
	} {
		got, bad := parseLimits(test.text)
		if diff := cmp.Diff(test.want, got); diff != "" || len(bad) != test.bad {
			t.Errorf("parseLimits(%q): bad %v, want %d (-want +got):\n%s", test.text, bad, test.bad, diff)
		}
	}
}

func TestSpans(t *testing.T) {
	s := new(spans)
	for _, a := range []span{{10, 20}, {40, 50}, {15, 30}, {5, 6}, {29, 40}, {60, 61}} {
		s.add(a.from, a.to)
	}
	if diff := cmp.Diff([]span{{5, 6}, {10, 40}, {40, 50}, {60, 61}}, s.all, cmp.AllowUnexported(span{})); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
	for _, test := range []struct {
		from, to uint64
		want     bool
	}{{0, 5, false}, {0, 6, true}, {6, 10, false}, {9, 11, true}, {49, 55, true}, {50, 60, false}, {61, 99, false}} {
		if got := s.overlaps(test.from, test.to); got != test.want {
			t.Errorf("overlaps(%d, %d) = %v; want %v", test.from, test.to, got, test.want)
		}
	}
	for _, test := range []struct {
		count, low, high, want uint64
		ok                     bool
	}{{5, 0, 100, 61, true}, {5, 0, 64, 0, true}, {6, 0, 64, 50, true}, {11, 0, 64, 0, false}, {3, 52, 62, 52, true}, {4, 5, 9, 6, true}} {
		if got, ok := s.room(test.count, test.low, test.high); ok != test.ok || ok && got != test.want {
			t.Errorf("room(%d, %d, %d) = %d, %v; want %d, %v", test.count, test.low, test.high, got, ok, test.want, test.ok)
		}
	}
}
