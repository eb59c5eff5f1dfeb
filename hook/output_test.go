package hook

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOutput(t *testing.T) {
	for _, tt := range []struct {
		name   string
		writes []string
		want   []string
	}{
		{"lines", []string{"a\nb", "c\n\nd"}, []string{"a", "bc", "d"}},
		{"progress bar", []string{"1%\r2%\r\n"}, []string{"1%", "2%"}},
		{"umlaut in two writes", []string{"\xc3", "\xa4\n"}, []string{"ä"}},
		{"control", []string{"\x1b]0;x\a\t\u202e\u009b1\x80\n"}, []string{`\x1b]0;x\x07 \u202e\u009b1\x80`}},
		{"long", []string{strings.Repeat("x", 999) + "ää\n"}, []string{strings.Repeat("x", 999) + "ä", "ä"}},
		{"long without a rune", []string{strings.Repeat("\x80", 5000)}, nil},
		{"nothing", nil, nil},
	} {
		var got []string
		o := &output{line: func(l string) { got = append(got, l) }}
		for _, w := range tt.writes {
			if n, err := o.Write([]byte(w)); n != len(w) || err != nil {
				t.Errorf("%s: Write = %d, %v", tt.name, n, err)
			}
		}
		o.close()
		if tt.name == "long without a rune" {
			for _, l := range got {
				if len(l) > 4*(maxLine+4) { // four for each byte
					t.Errorf("%s: a line of %d bytes", tt.name, len(l))
				}
			}
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}
