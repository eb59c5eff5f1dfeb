package accounts

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func openRoot(t *testing.T, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func link(t *testing.T, target, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

func TestReadAndEncode(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "usr/accounts/passwd", rootLineText()+"\xff\x00\n", 0o644)
	link(t, "/../../usr/accounts/passwd", filepath.Join(dir, "etc/passwd"))
	put(t, dir, "etc/group", "root:x:0:", 0o644)
	link(t, "nowhere", filepath.Join(dir, "etc/shadow"))
	put(t, dir, "usr/etc/login.defs", "UID_MIN 500\n", 0o644)
	want := Set{defs: "UID_MIN 500\n", hasDefs: true}
	want.files[passwd], want.files[group] = content{true, rootLineText() + "\xff\x00\n"}, content{true, "root:x:0:"}
	s, err := Read(openRoot(t, dir))
	if err != nil || *s != want {
		t.Fatalf("Read = %s, %v; want %s", dump(s), err, dump(&want))
	}
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Decode(b); err != nil || *got != *s {
		t.Errorf("Decode(Encode) = %v, %v; want the same", got, err)
	}
}

func rootLineText() string { return strings.ReplaceAll(rootLine, "|", "\n") }

func TestReadRefuses(t *testing.T) {
	for _, test := range []struct {
		name  string
		build func(dir string)
		want  string
	}{
		{"no passwd", func(string) {}, "etc/passwd: file does not exist"},
		{"no group", func(dir string) {
			put(t, dir, "etc/passwd", "", 0o644)
			if err := os.Remove(filepath.Join(dir, "etc/group")); err != nil {
				t.Fatal(err)
			}
		}, "etc/group: file does not exist"},
		{"directory", func(dir string) { put(t, dir, "etc/passwd/x", "", 0o644) }, "etc/passwd: not a regular file"},
		{"loop", func(dir string) { link(t, "passwd", filepath.Join(dir, "etc/passwd")) }, "too many levels of symbolic links"},
		{"out of the root", func(dir string) {
			link(t, "../../../../../../../../../etc/passwd-of-nobody", filepath.Join(dir, "etc/passwd"))
		}, "etc/passwd: file does not exist"},
		{"huge", func(dir string) {
			put(t, dir, "etc/passwd", "", 0o644)
			if err := os.Truncate(filepath.Join(dir, "etc/passwd"), maxFile+1); err != nil {
				t.Fatal(err)
			}
		}, "more than the 4194304 bytes"},
	} {
		dir := t.TempDir()
		put(t, dir, "etc/group", "", 0o644)
		test.build(dir)
		if _, err := Read(openRoot(t, dir)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: Read = %v; want %q", test.name, err, test.want)
		}
	}
	// The real passwd of this machine is out of reach.
	dir := t.TempDir()
	link(t, "/etc/group", filepath.Join(dir, "etc/passwd"))
	put(t, dir, "etc/group", "inside", 0o644)
	if s, err := Read(openRoot(t, dir)); err != nil || s.files[passwd].text != "inside" {
		t.Errorf("Read through an absolute link = %v; want the file beneath the root", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", "not what Encode wrote"},
		{"null", "another format"},
		{`{"format":"reimager-accounts 2","files":{}}`, "another format"},
		{`{"format":"reimager-accounts 1","files":{}}`, "no etc/group"},
		{`{"format":"reimager-accounts 1","files":{"etc/group":""}}`, "no etc/passwd"},
		{`{"format":"reimager-accounts 1","files":{"etc/group":"","etc/passwd":"","etc/sudoers":""}}`, "1 files that are not"},
		{`{"format":"reimager-accounts 1","files":{"etc/group":"","etc/passwd":"SECRET!"}}`, "not what Encode wrote"},
		{`{"format":"reimager-accounts 1","files":{"etc/group":"","etc/passwd":""}} x`, "not what Encode wrote"},
		{`{"format":"reimager-accounts 1","files":{"etc/group":"","etc/passwd":""},"SECRET":1}`, "not what Encode wrote"},
		{`{"format":"reimager-accounts 1","files":{"etc/group":"","etc/passwd":"` + strings.Repeat("AAAA", maxFile/3+1) + `"}}`, "more than"},
		{strings.Repeat(" ", maxEncoded+1), "more than"},
	} {
		_, err := Decode([]byte(test.text))
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("Decode(%.99q) = %v; want %q and nothing of the text", test.text, err, test.want)
		}
	}
	full := Set{defs: strings.Repeat("d", maxFile), hasDefs: true}
	for k := range kinds {
		full.files[k] = content{true, strings.Repeat("\xff", maxFile)}
	}
	b, err := full.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(b); err != nil {
		t.Errorf("Decode refuses the largest set: %v", err)
	}
}

// Whatever a log does with a Set, no hash comes out.
func TestSecretsDoNotPrint(t *testing.T) {
	p := randomPair(1, true)
	m, _ := Merge(p.old, p.new, Options{})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, secret := range []any{p.old, *p.old, m, *m, m.Set(), []any{p.old}, struct{ S *Set }{p.old}, struct{ M *Merged }{m}} {
			if text := fmt.Sprintf(verb, secret); strings.Contains(text, "salt") || strings.Contains(text, "root") {
				t.Errorf("%s prints %.80s", verb, text)
			}
		}
	}
	b, err := json.Marshal([]any{p.old, m})
	if err != nil || strings.Contains(string(b), "salt") {
		t.Errorf("json.Marshal = %.80s, %v; want no hash", b, err)
	}
}

func TestParseKeepsBytes(t *testing.T) {
	for _, text := range []string{"", "\n", "\n\n", "a", "a\n", "a\r\n\r\n", "root:x:0:0::/:\n+\n", "\x00", "x\n\n\ny"} {
		for k := range kinds {
			if diff := cmp.Diff(text, parse(k, true, text).text()); diff != "" {
				t.Errorf("parse(%s, %q) (-want +got):\n%s", k.path(), text, diff)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\n# c\n+::::::\n", uint8(passwd))
	f.Add("g:x:5:a,b\r\ng:x:5:c", uint8(group))
	f.Add("a:$6$x$y:1:2:3:4:5:6:\nb:!:\n", uint8(shadow))
	f.Add("a:100000:65536\n1000:4294967290:5\nb:4294967295:1\n", uint8(subuid))
	f.Fuzz(func(t *testing.T, text string, which uint8) {
		k := kind(which % uint8(kinds))
		table := parse(k, true, text)
		if got := table.text(); got != text {
			t.Fatalf("text() = %q; want %q", got, text)
		}
		for _, l := range table.lines {
			if l.odd != "" {
				continue
			}
			if len(l.fields) != k.width() {
				t.Fatalf("line %q has %d fields", l.raw, len(l.fields))
			}
			if again := parseLine(k, strings.Join(l.fields, ":")); again.odd != "" {
				t.Fatalf("line %q is odd when it is written: %s", l.raw, again.odd)
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	b, err := randomPair(1, true).old.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"format":"reimager-accounts 1","files":{"etc/group":"","etc/passwd":""}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Decode(b)
		if err != nil {
			return
		}
		again, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Decode(again); err != nil || *got != *s {
			t.Fatalf("Decode(Encode) = %v; want the same", err)
		}
	})
}

// Hostile files on either side: what must hold whatever they say.
func FuzzMerge(f *testing.F) {
	f.Add(rootLine+annLine, "root:x:0:|ann:x:1000:ann|", "ann:HASH:1::::::|", "ann:100000:65536|", rootLine, "root:x:0:|", "www:*:1::::::|", "", "UID_MIN 1000|")
	f.Add("a:x:5:5::/:|+|", "g:x:5:b|g:x:5:a|", "", "5:1:4294967295|", "a:x:5|", "-|g:x|", "a:|", "x:0:1|", "UID_MIN 2|UID_MAX 2|")
	f.Fuzz(func(t *testing.T, op, og, os, ou, np, ng, ns, nu, defs string) {
		lf := func(s string) string { return strings.ReplaceAll(s, "|", "\n") }
		old, new := &Set{defs: lf(defs)}, &Set{defs: lf(defs)}
		for _, a := range []struct {
			s     *Set
			texts [4]string
		}{{old, [4]string{op, og, os, ou}}, {new, [4]string{np, ng, ns, nu}}} {
			for i, k := range []kind{passwd, group, shadow, subuid} {
				a.s.files[k] = content{true, lf(a.texts[i])}
			}
			a.s.files[gshadow], a.s.files[subgid] = a.s.files[shadow], a.s.files[subuid]
		}
		m, _ := Merge(old, new, Options{})
		if again, _ := Merge(old, m.Set(), Options{}); len(again.Changed()) > 0 {
			t.Fatalf("merging again changes %v:\n%s", again.Changed(), cmp.Diff(dump(m.Set()), dump(again.Set())))
		}
		was, is := parse(passwd, true, new.files[passwd].text), parse(passwd, true, m.is.files[passwd].text)
		limits, _ := parseLimits(new.defs)
		for name := range is.first {
			l := is.lines[is.first[name]]
			at, own := was.first[name]
			if !own && l.id(fID) == 0 {
				t.Fatalf("%q was added as root", name)
			}
			if !own || name == "root" || limits.person(l.id(fID)) {
				continue
			}
			before := parse(shadow, true, new.files[shadow].text).get(name)
			after := parse(shadow, true, m.is.files[shadow].text).get(name)
			if diff := cmp.Diff(before, after); diff != "" || l.raw != was.lines[at].raw {
				t.Fatalf("the service %q changed: %q to %q, shadow %s", name, was.lines[at].raw, l.raw, diff)
			}
		}
	})
}
