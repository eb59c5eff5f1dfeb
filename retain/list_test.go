package retain

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseListErrors(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{"etc/passwd", "relative path"},
		{"--/etc", "relative path"},
		{"!-/etc", "relative path"},
		{"/etc/../root", "has a .. component"},
		{`/etc/\.\.`, "has a .. component"},
		{"/etc/[ab", "has a [ without its ]"},
		{"/etc/[a/b]", "has a [ without its ]"},
		{"/etc/[]", "has a [ without its ]"},
		{"/etc/[b-a]", "runs backwards"},
		{"/etc/[[:alpha:]]", "named class"},
		{"/etc/a\x00b", "NUL"},
		{`/etc/\x00`, "no name contains"},
		{`/etc\/passwd`, "no name contains"},
		{`/etc/\q`, "unknown escape"},
		{`/etc/\x4`, "unknown escape"},
		{`/etc/\xzz`, "bad escape"},
		{`/etc/\`, "lone backslash"},
		{"@set", `unknown set "@set"`},
		{"/", "is the whole root"},
		{"//./", "is the whole root"},
		{"/**", "is the whole root"},
		{"!/**/*", "is the whole root"},
		{"/a**", "must stand alone"},
		{"/***", "must stand alone"},
		{"/etc/passwd ", "ends in a blank"},
		{"/etc/passwd # users", "comment behind the path"},
	} {
		_, err := ParseList("keep.txt", strings.NewReader("# one\n/etc/ok\n"+test.line+"\n"))
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "parse retention list keep.txt:3: ") {
			t.Errorf("ParseList(%q) = %v; want an error at keep.txt:3 with %q", test.line, err, test.want)
		}
	}
}

func TestParseListNamesEveryFault(t *testing.T) {
	_, err := ParseList("l", strings.NewReader("a\n/ok\nb"))
	if err == nil || !strings.Contains(err.Error(), "l:1:") || !strings.Contains(err.Error(), "l:3:") {
		t.Errorf("ParseList = %v; want faults in lines 1 and 3", err)
	}
}

func TestParseListLines(t *testing.T) {
	list, err := ParseList("l", strings.NewReader("\ufeff/a\r\n\r\n  # c\n \t/b c\n- /d\n!/e/\n/f"))
	check(t, err)
	type line struct {
		Text              string
		Line              int
		Optional, Exclude bool
	}
	var got []line
	for _, p := range list.Patterns {
		got = append(got, line{p.Text, p.Line, p.Optional, p.Exclude})
	}
	want := []line{{"/a", 1, false, false}, {"/b c", 4, false, false}, {"/d", 5, true, false}, {"/e/", 6, false, true}, {"/f", 7, false, false}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMatch(t *testing.T) {
	for _, test := range []struct {
		list, path string
		want       bool
	}{
		{"/etc", "/etc", true},
		{"/etc", "/etc/ssh/key", true},
		{"/etc", "/etcetera", false},
		{"/etc/*", "/etc", false},
		{"/etc/*", "/etc/.hidden", true},
		{"/etc/*.conf", "/etc/a.conf", true},
		{"/etc/*.conf", "/etc/a.conf.d", false},
		{"/etc/*.conf", "/etc/d/a.conf", false},
		{"/e?c", "/etc", true},
		{"/e?c", "/eéc", true},
		{"/e?c", "/e\xffc", true},
		{"/e?c", "/ec", false},
		{"/*??", "/€", false},
		{"/[a-c]x", "/bx", true},
		{"/[!a-c]x", "/bx", false},
		{"/[!a-c]x", "/\xffx", true},
		{"/[]-]", "/]", true},
		{"/[]-]", "/-", true},
		{`/[\xff]`, "/\xff", true},
		{`/[\]a]`, "/]", true},
		{"/**/key", "/key", true},
		{"/**/key", "/a/b/key", true},
		{"/a/**/k*/**/z", "/a/1/k/2/k3/y/z", true},
		{"/a/**/k*/**/z", "/a/1/2/y/z", false},
		{"/a/**", "/a", false},
		{"/a/**", "/a/b/c", true},
		{`/a\*b`, "/a*b", true},
		{`/a\*b`, "/axb", false},
		{`/a\nb`, "/a\nb", true},
		{`/a\xff`, "/a\xff", true},
		{`/a\ `, "/a ", true},
		{`/a \#b`, "/a #b", true},
		{"/a b", "/a b", true},
		{"/a//./b", "/a/b", true},
		{"/a/", "/a/b", true},
		{"/a/", "/a", false},
		{"/a\n!/a/b", "/a/b", false},
		{"/a\n!/a/b", "/a/b/c", false},
		{"!/a/b\n/a", "/a/b", false},
		{"/a\n!/**/*.bak", "/a/b/c.bak", false},
		{"/a\n!/**/*.bak", "/a/b/c", true},
	} {
		if got := parseList(t, test.list).Match(test.path, false); got != test.want {
			t.Errorf("%q.Match(%q) = %v; want %v", test.list, test.path, got, test.want)
		}
	}
}

// A path that is written with the list's escapes matches itself and no other.
func FuzzParseList(f *testing.F) {
	for _, seed := range []string{"/etc/ssh", "-/a*\n!/b/**/c", `/x\n\xff[!a-z]?`, "/a ", "@x", "/[[:a:]]", "/**/**", "\ufeff/ü\r\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := ParseList("fuzz", strings.NewReader(text))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "parse retention list fuzz:") {
				t.Errorf("error without name and line: %v", err)
			}
			return
		}
		for _, p := range list.Patterns {
			if len(p.parts) == 0 || !strings.HasPrefix(p.Text, "/") {
				t.Errorf("pattern %+v matches the root", p)
			}
			names := []string{}
			for _, part := range p.parts {
				name, ok := part.literal()
				if !ok {
					list.Match(text, true)
					names = nil
					break
				}
				names = append(names, name)
			}
			if names != nil && !p.matches(names, true) {
				t.Errorf("%q does not match its own path %q", p.Text, names)
			}
		}
	})
}

func FuzzPath(f *testing.F) {
	f.Add("/a\n\xff\\é\x00")
	f.Fuzz(func(t *testing.T, path string) {
		if strings.ContainsRune(path, 0) {
			return
		}
		var back Path
		text, _ := Path(path).MarshalText()
		if err := back.UnmarshalText(text); err != nil || string(back) != path {
			t.Errorf("%q went through %q to %q, %v", path, text, back, err)
		}
	})
}
