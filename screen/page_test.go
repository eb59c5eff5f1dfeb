package screen

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"reimager/report"
	"reimager/screen/texts"
)

var update = flag.Bool("update", false, "write the golden files anew")

func words(t *testing.T, language string) texts.Texts {
	t.Helper()
	all, err := texts.New(language, nil)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// states are pages of every kind.
func states() map[string]State {
	running := State{Run: "20261120-5f1c", Details: 4, Step: Write, Cut: Harm, Fraction: 0.57, Minutes: 3}
	with := func(change func(*State)) State { s := running; change(&s); return s }
	return map[string]State{
		"waking":       {Details: 4},
		"preparing":    with(func(s *State) { s.Step, s.Cut, s.Minutes = Prepare, OldSystem, 0 }),
		"writing":      running,
		"again":        with(func(s *State) { s.Again = true }),
		"checking":     with(func(s *State) { s.Step, s.Cut = Check, CarryOn }),
		"restoring":    with(func(s *State) { s.Step, s.Minutes = Restore, 1 }),
		"restarting":   with(func(s *State) { s.Step, s.Fraction = Restart, 0.999 }),
		"rehearsal":    with(func(s *State) { s.Step, s.Cut, s.Rehearsal = Prepare, OldSystem, true }),
		"done":         with(func(s *State) { s.Scene = Done }),
		"rehearsed":    with(func(s *State) { s.Scene = Rehearsed }),
		"back":         with(func(s *State) { s.Scene, s.Message = Back, "check image /dev/sda5: it was cut short" }),
		"untouched":    with(func(s *State) { s.Scene, s.Message = HoldUntouched, "no disk" }),
		"hold write":   with(func(s *State) { s.Scene, s.Message = HoldWrite, "write /dev/sda: sector 4711: input/output error" }),
		"hold restore": with(func(s *State) { s.Scene, s.Message = HoldRestore, strings.Repeat("compare /etc/machine-id: ", 40) }),
		"hold aboard": with(func(s *State) {
			s.Scene, s.Cut, s.Message = HoldAboard, CarryOn, "write /dev/sda: sector 4711: input/output error"
		}),
		"stuck": with(func(s *State) { s.Scene = Stuck }),
	}
}

func picture(f frame) string {
	var out strings.Builder
	for _, row := range f {
		line := make([]rune, len(row))
		for x, c := range row {
			line[x] = c.char
			if string(c.char) == barPart && c.style == track {
				line[x] = '░' // only the colour tells them apart
			}
		}
		out.WriteString("|" + string(line) + "|\n")
	}
	return out.String()
}

// The pages at the sizes of small frame buffers, VGA's text mode, and a large display.
func TestLayout(t *testing.T) {
	t.Parallel()
	for _, size := range []struct{ width, height int }{{40, 12}, {80, 25}, {240, 67}} {
		for _, name := range []string{"preparing", "writing", "hold write"} {
			got := picture(layout(compose(words(t, "en"), states()[name]), size.width, size.height))
			golden := filepath.Join("testdata", fmt.Sprintf("%s-%dx%d.txt", strings.ReplaceAll(name, " ", "-"), size.width, size.height))
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", golden, diff)
			}
		}
	}
}

// Every page in every language is whole on 80 by 25 characters: no text is left out
// or cut off, and there is none without words. On any other size it can be set.
func TestEveryPage(t *testing.T) {
	t.Parallel()
	for _, language := range texts.Languages() {
		for name, s := range states() {
			v := compose(words(t, language), s)
			flat := strings.Join(strings.Fields(strings.ReplaceAll(picture(layout(v, 80, 25)), "|", " ")), " ")
			all := []string{v.title, v.sentence, v.step, v.time, v.notice, v.why, v.contact, v.foot, v.corner}
			for _, text := range all {
				if !strings.Contains(flat, show(text)) {
					t.Errorf("%s, %s: %q is not on the page:\n%s", language, name, text, picture(layout(v, 80, 25)))
				}
			}
			if v.title == "" || v.bar && s.Scene == Running && (v.step == "" || v.time == "" || v.notice == "" || v.why == "") || !v.bar && v.sentence == "" {
				t.Errorf("%s, %s: a text is empty: %q", language, name, all)
			}
			for _, size := range []struct{ width, height int }{{1, 1}, {3, 2}, {20, 3}, {40, 12}, {132, 43}, {1024, 1024}} {
				if f := layout(v, size.width, size.height); len(f) != size.height || len(f[0]) != size.width {
					t.Errorf("%s, %s: layout of %v has %d rows", language, name, size, len(f))
				}
			}
		}
	}
}

// What matters most stays on the smallest screens.
func TestSmall(t *testing.T) {
	t.Parallel()
	got := picture(layout(compose(words(t, "en"), states()["writing"]), 40, 5))
	for _, want := range []string{"This machine is getting a new system", "Writing the new system", "57%", "About 3 minutes left", "Please do not switch off."} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not on a screen of five rows:\n%s", want, got)
		}
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text  string
		width int
		want  []string
	}{
		{"", 5, nil},
		{"  ", 5, nil},
		{"one two", 7, []string{"one two"}},
		{"one two", 6, []string{"one", "two"}},
		{"äöü äöü", 3, []string{"äöü", "äöü"}},
		{"abcdefgh i", 3, []string{"abc", "def", "gh", "i"}},
		{"a abcdef", 3, []string{"a", "abc", "def"}},
		{"abc", 1, []string{"a", "b", "c"}},
	} {
		if diff := cmp.Diff(tt.want, wrap(tt.text, tt.width)); diff != "" {
			t.Errorf("wrap(%q, %d) (-want +got):\n%s", tt.text, tt.width, diff)
		}
	}
}

// Only what has changed is drawn, and a terminal of another size gets all.
func TestDraw(t *testing.T) {
	t.Parallel()
	from := newFrame(6, 2)
	from.put(0, 0, strong, "title")
	from.put(0, 1, good, "██░ 5%")
	to := newFrame(6, 2)
	to.put(0, 0, strong, "title")
	to.put(0, 1, good, "███")
	to.put(3, 1, plain, " 6%")
	for _, tt := range []struct {
		name     string
		from, to frame
		want     string
	}{
		{"nothing", from, from, ""},
		{"all", nil, from, colours + "\x1b[0m\x1b[H\x1b[2J" + "\x1b[1;1H\x1b[0;1;37mtitle\x1b[2;1H\x1b[0;32m██░ 5%\x1b[0m"},
		{"resized", newFrame(5, 2), from, colours + "\x1b[0m\x1b[H\x1b[2J" + "\x1b[1;1H\x1b[0;1;37mtitle\x1b[2;1H\x1b[0;32m██░ 5%\x1b[0m"},
		{"a part", from, to, "\x1b[2;3H\x1b[0;32m█\x1b[0m 6%\x1b[0m"},
		{"gone", from, nil, colours + clear + "\x1b[0m"},
	} {
		if got := string(draw(tt.from, tt.to)); got != tt.want {
			t.Errorf("%s: draw = %q; want %q", tt.name, got, tt.want)
		}
	}
}

// What a run tells ends on the page; what it tells after its end does not.
func TestNote(t *testing.T) {
	t.Parallel()
	p := newPage(words(t, "en"), 4)
	now := time.Unix(0, 0)
	for _, e := range []report.Event{
		{Stage: "gather"}, {Run: "5f1c"}, {Work: &report.Work{Image: 100 << 20, Mapped: 400 << 20}}, {Stage: "write"},
		{Count: &report.Count{What: "write", Done: 200 << 20, Total: 400 << 20}}, {Stage: "unheard of"},
	} {
		p.Note(e)
	}
	p.PowerCut(Harm)
	got := p.at(now)
	if got.Fraction < 0.3 || got.Fraction > 0.5 {
		t.Errorf("fraction %f; want something between 0.3 and 0.5", got.Fraction)
	}
	got.Fraction = 0
	if diff := cmp.Diff(State{Step: Write, Cut: Harm, Run: "5f1c", Details: 4}, got); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
	p.End(HoldWrite, "write /dev/sda: sector 1\nand more")
	p.Note(report.Event{Stage: "gather"})
	if diff := cmp.Diff(State{Scene: HoldWrite, Cut: Harm, Run: "5f1c", Details: 4, Message: "write /dev/sda: sector 1"}, p.at(now)); diff != "" {
		t.Errorf("state after the end (-want +got):\n%s", diff)
	}
	p.Again()
	if got := p.at(now); got.Scene != Running || !got.Again || got.Step != Write || got.Message != "write /dev/sda: sector 1" {
		t.Errorf("state of the next attempt: %+v", got)
	}
	var none *Page // of a machine without a screen
	none.Note(report.Event{})
	none.PowerCut(Harm)
	none.Again()
	none.End(Done, "")
	none.Flush()
}
