package texts

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every language has every text, and no other; each of them can be shown.
func TestLanguages(t *testing.T) {
	english, err := New("en", nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"de", "en", "es", "fr", "it", "nl", "pl", "pt"}, Languages()); diff != "" {
		t.Errorf("languages (-want +got):\n%s", diff)
	}
	for _, language := range Languages() {
		got, err := New(language, nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(slices.Sorted(maps.Keys(english)), slices.Sorted(maps.Keys(got))); diff != "" {
			t.Errorf("%s: names (-en +%s):\n%s", language, language, diff)
		}
		for name, text := range got {
			if _, missing := Show(text); missing != 0 || strings.TrimSpace(text) != text || text == "" || strings.Contains(text, "\n") {
				t.Errorf("%s: %s = %q: cannot be shown (%q)", language, name, text, missing)
			}
			if strings.Count(text, "{") != strings.Count(english[name], "{") || strings.Contains(english[name], number) != strings.Contains(text, number) {
				t.Errorf("%s: %s = %q: not the numbers of %q", language, name, text, english[name])
			}
		}
	}
}

func TestReplaced(t *testing.T) {
	for _, tt := range []struct {
		language string
		replaced map[string]string
		want     string // in the error; "": none
	}{
		{"de", map[string]string{"contact": "Service: 0800 123"}, ""},
		{"xx", nil, `language "xx": expected one of ["de" "en"`},
		{"../en", nil, `language "../en": expected one of`},
		{"", nil, `language "": expected one of`},
		{"en", map[string]string{"tittle": "x"}, `text "tittle" is not known; there are ["back_sentence"`},
		{"en", map[string]string{"minutes": "soon"}, `text "minutes" lacks {n}`},
		{"en", map[string]string{"title": "Тест"}, `text "title": the kernel's console font cannot show 'Т' (U+0422)`},
	} {
		got, err := New(tt.language, tt.replaced)
		if tt.want != "" {
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("New(%q, %q): error %v; want %q", tt.language, tt.replaced, err, tt.want)
			}
			continue
		}
		if err != nil || got[Contact] != tt.replaced["contact"] || got[Title] == "" {
			t.Errorf("New(%q, %q) = %q, %v", tt.language, tt.replaced, got, err)
		}
	}
}

func TestShow(t *testing.T) {
	for _, tt := range []struct {
		text, want string
		missing    rune
	}{
		{"Gerät", "Gerät", 0},
		{"urządzenie ŁÓDŹ", "urzadzenie LODZ", 0},
		{"não", "nao", 0},
		{"a\x1b[31mb\nc\u00a0d", "a [31mb c d", 0},
		{"日本 я", "?? ?", '日'},
		{"\xff", "?", '\ufffd'},
	} {
		if got, missing := Show(tt.text); got != tt.want || missing != tt.missing {
			t.Errorf("Show(%q) = %q, %q; want %q, %q", tt.text, got, missing, tt.want, tt.missing)
		}
	}
}
