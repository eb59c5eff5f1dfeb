package kmod

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFnmatch(t *testing.T) {
	for _, test := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true},
		{"", "a", false},
		{"*", "", true},
		{"*", "a/b:c", true},
		{"a*c", "abbc", true},
		{"a*c", "abbcd", false},
		{"a*b*c", "axbxbxc", true},
		{"?", "", false},
		{"?", "/", true},
		{"d0[0-2]*", "d0123", true},
		{"d0[0-2]*", "d0323", false},
		{"[!a]", "b", true},
		{"[!a]", "a", false},
		{"[^a-c]x", "dx", true},
		{"[]]", "]", true},
		{"[!]]", "]", false},
		{"[!]]", "x", true},
		{"[a-]", "-", true},
		{"[abc", "[abc", true},
		{"[abc", "a", false},
		{"*[0-9]", "a1b2", true},
		{`\*`, "*", true},
		{`\*`, "a", false},
		{`a\`, "a", false},
		{`a\`, `a\`, false},
		{"pci:v00008086d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", true},
		{"acpi*:PNP0501:*", "acpi:PNP0501:PNP0500:", true},
		{"dmi*:svnDell*:pnX*:", "dmi:bvnDell:svnDellInc:pnXPS:rv:", true},
	} {
		if got := fnmatch(test.pattern, test.s); got != test.want {
			t.Errorf("fnmatch(%q, %q) = %v; want %v", test.pattern, test.s, got, test.want)
		}
	}
}

func TestMatcher(t *testing.T) {
	m := newMatcher()
	m.add("ahci", "pci:v00008086d00002922sv*sd*bc*sc*i*", "pci:v*d*sv*sd*bc01sc06i01*")
	m.add("ata_generic", "pci:v*d*sv*sd*bc01sc01i*")
	m.add("sd_mod", "scsi:t-0x00*", "block-major-8-*")
	m.add("serial", "acpi*:PNP0501:*")
	m.add("any", "pci:*")
	m.add("ext4", "fs-ext4", "ext3")
	m.add("odd", "usb:v13FDp3940d0[0-2]*")
	for modalias, want := range map[string][]string{
		"pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01": {"ahci", "any"},
		"pci:v00001000d00000001sv00000000sd00000000bc01sc01i80": {"ata_generic", "any"},
		"pci:": {"any"}, "pc": nil, "": nil,
		"scsi:t-0x00":              {"sd_mod"},
		"scsi:t_0x00":              {"sd_mod"},
		"block-major-8-1":          {"sd_mod"},
		"acpi:PNP0501:":            {"serial"},
		"fs-ext4":                  {"ext4"},
		"fs_ext4":                  {"ext4"},
		"fs-ext":                   nil,
		"usb:v13FDp3940d0210dc00":  {"odd"},
		"usb:v13FDp3940d0310dc00":  nil,
		"usb:v13FDp3940d0-10dc00x": nil,
	} {
		if diff := cmp.Diff(want, m.match(modalias)); diff != "" {
			t.Errorf("match(%q) (-want +got):\n%s", modalias, diff)
		}
	}
}

func TestNormalizePattern(t *testing.T) {
	for p, want := range map[string]string{
		"scsi:t-0x00*": "scsi:t_0x00*",
		"a[0-9]-b":     "a[0-9]_b",
		"a[0-9":        "a[0_9",
	} {
		if got := normalizePattern(p); got != want {
			t.Errorf("normalizePattern(%q) = %q; want %q", p, got, want)
		}
	}
}

// matchSlowly is fnmatch by its definition: every length is tried for every star.
func matchSlowly(p, s string) bool {
	if p == "" {
		return s == ""
	}
	if p[0] == '*' {
		for n := 0; n <= len(s); n++ {
			if matchSlowly(p[1:], s[n:]) {
				return true
			}
		}
		return false
	}
	if s == "" {
		return false
	}
	next, ok := matchOne(p, 0, s[0])
	return ok && matchSlowly(p[next:], s[1:])
}

func FuzzMatcher(f *testing.F) {
	f.Add("pci:v*d[0-2]*", "pci:v1d2")
	f.Add("a*b*[!c-e]?", "aabbxy")
	f.Add(`\*[]-]*[`, "*]-[")
	f.Add("usb:*-*", "usb:a-b")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 12 || len(s) > 24 {
			t.Skip("the slow reference is exponential in the stars")
		}
		got := fnmatch(pattern, s)
		if want := matchSlowly(pattern, s); got != want {
			t.Errorf("fnmatch(%q, %q) = %v; want %v", pattern, s, got, want)
		}
		m := newMatcher()
		m.add("x", pattern)
		want := matchSlowly(normalizePattern(pattern), normalize(s))
		if got := len(m.match(s)) > 0; got != want {
			t.Errorf("matcher with %q, match(%q) = %v; want %v", pattern, s, got, want)
		}
	})
}

// BenchmarkMatch is a boot with 300 devices and 4,000 patterns, 20 of them of classes.
func BenchmarkMatch(b *testing.B) {
	m := newMatcher()
	for i := range 200 {
		var patterns []string
		for j := range 20 {
			patterns = append(patterns, fmt.Sprintf("pci:v%08Xd%08Xsv*sd*bc*sc*i*", i, j))
		}
		m.add(fmt.Sprint("m", i), append(patterns, fmt.Sprintf("pci:v*d*sv*sd*bc01sc%02Xi*", i%20))...)
	}
	var devices []string
	for i := range 300 {
		devices = append(devices, fmt.Sprintf("pci:v%08Xd%08Xsv00001AF4sd00001100bc06sc01i00", i, i%30))
	}
	for b.Loop() {
		for _, d := range devices {
			m.match(d)
		}
	}
}
