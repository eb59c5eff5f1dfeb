package prove

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/image"
	"reimager/retain"
)

func list(t *testing.T, lines string) retain.List {
	t.Helper()
	l, err := retain.ParseList("list", strings.NewReader(lines))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestPaths(t *testing.T) {
	facts := &image.SystemFacts{Paths: map[string]string{"/etc/ssl": "directory", "/etc/hosts": "file"}}
	for _, tc := range []struct {
		list string
		want map[string]bool
	}{
		{"/etc/machine-id\n-/etc/perhaps\n", map[string]bool{"/etc/machine-id": false}},
		{"/etc/ssl\n/etc/hosts\n", map[string]bool{"/etc/ssl": true, "/etc/ssl/stand-in": false, "/etc/hosts": false}},
		{"/srv/data/\n", map[string]bool{"/srv/data": true, "/srv/data/stand-in": false}},
		{"/etc/x\n!/etc/x/moduli\n", map[string]bool{"/etc/x": true, "/etc/x/stand-in": false}},
		{"/etc/x\n!/etc/x/*\n", map[string]bool{"/etc/x": true}},
		{"/etc/ssh/ssh_host_*\n/srv/**/*.key\n/a/?[0-9]\n", map[string]bool{"/etc/ssh/ssh_host_prove": false, "/srv/prove/prove.key": false, "/a/x0": false}},
		{"/a/*\n!/a/prove\n", map[string]bool{"/a/0": false}},
		{"/a/[!a-z]\n/b/[]x]\n/c/[!]]\n", map[string]bool{"/a/0": false, "/b/]": false, "/c/x": false}},
		{`/a/with\ blank\x21` + "\n" + `/b/\*` + "\n/c/it \"is\"\n", map[string]bool{"/a/with blank!": false, "/b/*": false, `/c/it "is"`: false}},
	} {
		got, err := paths(list(t, tc.list), facts)
		if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
			t.Errorf("%q: %v (-want +got):\n%s", tc.list, err, diff)
		}
	}
	for text, want := range map[string]string{
		"/a\n/x/*\n!/x\n":   `list:2: no path found that "/x/*" keeps`,
		"/a/line\\nbreak\n": "list:1: no path found",
	} {
		if got, err := paths(list(t, text), facts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

func TestPlanOld(t *testing.T) {
	facts := &image.SystemFacts{
		Users:  map[string]uint32{"root": 0, "nobody": 65534, "atm": 880, "kiosk": 1500},
		Groups: map[string]uint32{"root": 0, "nogroup": 65534, "atm": 880, "kiosk": 1500},
	}
	keeps := list(t, "/etc/machine-id\n/srv/a\n/srv/b\n")
	for _, byName := range []bool{true, false} {
		got, err := planOld(keeps, facts, byName)
		if err != nil {
			t.Fatal(err)
		}
		if want := "root:x:0:0::/:/bin/sh\natm:x:4242:4242::/:/bin/sh\n"; got.passwd != want {
			t.Errorf("passwd = %q; want %q", got.passwd, want)
		}
		wantUID := uint32(4242)
		if byName {
			wantUID = 880
		}
		if f := got.files[1]; f.path != "/srv/a" || f.uid != 4242 || f.wantUID != wantUID || f.wantGID != wantUID {
			t.Errorf("by name %v: %+v; want it atm's, with %d in the new system", byName, f, wantUID)
		}
		if id := got.files[0]; len(id.content) != 33 || id.uid != 0 {
			t.Errorf("%+v; want root's machine-id", id)
		}
	}
	// A list that keeps the accounts must not take the new system's users away.
	got, err := planOld(list(t, "/etc/passwd\n/etc/group\n/etc/shadow\n"), facts, true)
	if err != nil || got.files[1].content != got.passwd || !strings.Contains(got.passwd, "kiosk:x:1500:1500:") || !strings.Contains(got.files[2].content, "atm:*:") {
		t.Errorf("planOld = %+v, %v; want the new system's accounts", got, err)
	}
	if got, err := planOld(list(t, "/etc/fstab\n"), facts, true); err == nil || !strings.Contains(err.Error(), "keeps /etc/fstab") {
		t.Errorf("planOld of fstab = %+v, %v; want an error", got, err)
	}
	if _, err := planOld(keeps, nil, true); err != nil {
		t.Errorf("without facts: %v", err)
	}
}

// Whatever a list that was parsed has, a path is found that it keeps, or it is said
// that none is.
func FuzzMatchFor(f *testing.F) {
	for _, seed := range []string{"/a/[!]]*", "/**/x[a-c]?", `/\x41\*`, "/a/[^x0X_]", "/[]]", "/a/***", "/a/[[]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		l, err := retain.ParseList("list", strings.NewReader(line))
		if err != nil {
			return
		}
		for _, p := range l.Patterns {
			name, err := matchFor(l, p)
			if err == nil && (!l.Match(name, true) || !strings.HasPrefix(name, "/")) {
				t.Errorf("matchFor(%q) = %q, which it does not keep", p.Text, name)
			}
		}
	})
}
