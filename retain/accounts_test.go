package retain

import (
	"strings"
	"testing"
)

func TestReadAccounts(t *testing.T) {
	root := tree(t,
		"etc/passwd=root:x:0:0::/root:/bin/sh\nkiosk:x:1000:1000::/:/bin/sh\nkiosk:x:7:7::/:\ntwin:x:1000:5::/:\nbad\n+nis:x:5:5::/:\nneg:x:-1:1::/:\nmax:x:4294967295:1:::\n\n# c\nlast:x:9:9:::",
		"etc/group=-> ../usr/group",
		"usr/group=g:x:12:kiosk\n")
	a, err := ReadAccounts(root)
	check(t, err)
	for _, test := range []struct {
		name string
		want uint32
		ok   bool
	}{{"root", 0, true}, {"kiosk", 1000, true}, {"twin", 1000, true}, {"last", 9, true}, {"neg", 0, false}, {"max", 0, false}, {"+nis", 0, false}} {
		if got, ok := a.UID(test.name); got != test.want || ok != test.ok {
			t.Errorf("UID(%q) = %d, %v; want %d, %v", test.name, got, ok, test.want, test.ok)
		}
	}
	if got := a.UserName(1000); got != "kiosk" {
		t.Errorf("UserName(1000) = %q; want the first, kiosk", got)
	}
	if got, ok := a.GID("g"); got != 12 || !ok {
		t.Errorf("GID(g) = %d, %v; want 12", got, ok)
	}
	if a.Skipped != 4 {
		t.Errorf("Skipped = %d; want 4", a.Skipped)
	}
}

func TestReadAccountsOdd(t *testing.T) {
	for _, test := range []struct {
		name  string
		files []string
		want  string
	}{
		{"no etc", nil, ""},
		{"dangling link", []string{"etc/passwd=-> /nowhere"}, ""},
		{"link out of the root", []string{"etc/passwd=-> /../../../../../../../../etc/hosts-of-the-root"}, ""},
		{"directory", []string{"etc/passwd/"}, "not a regular file"},
	} {
		_, err := ReadAccounts(tree(t, test.files...))
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: ReadAccounts = %v; want %q", test.name, err, test.want)
		}
	}
}

func FuzzAccounts(f *testing.F) {
	f.Add("root:x:0:0:::\nkiosk:x:1000:1000::/:\n")
	f.Add("a:b\n:::\n+::::\nx:x:99999999999:0:")
	f.Fuzz(func(t *testing.T, text string) {
		var table idTable
		if _, err := table.parse(strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		for id, name := range table.names {
			if _, ok := table.ids[name]; name == "" || !ok || id > maxID {
				t.Errorf("number %d has the name %q, which is unknown", id, name)
			}
		}
	})
}
