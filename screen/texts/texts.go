// Package texts holds the words of the page that a machine shows while it is
// replaced, in each language that the page speaks.
package texts

import (
	"embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Name names a text, as [console] texts does.
type Name string

// The names of all texts.
const (
	Title             Name = "title"
	Sentence          Name = "sentence"
	RehearsalTitle    Name = "rehearsal_title"
	RehearsalSentence Name = "rehearsal_sentence"
	// The steps.
	Prepare    Name = "prepare"
	Write      Name = "write"
	WriteAgain Name = "write_again"
	Check      Name = "check"
	Restore    Name = "restore"
	Restart    Name = "restart"
	// The remaining time; Minutes has {n}, which is 2 or more.
	Minutes    Name = "minutes"
	LastMinute Name = "last_minute"
	NoTimeYet  Name = "no_time_yet"
	// What a power cut does.
	KeepOn       Name = "keep_on"
	KeepOnWhy    Name = "keep_on_why"
	Untouched    Name = "untouched"
	UntouchedWhy Name = "untouched_why"
	CarriesOn    Name = "carries_on"
	CarriesOnWhy Name = "carries_on_why"
	// The ends.
	DoneTitle         Name = "done_title"
	DoneSentence      Name = "done_sentence"
	RehearsedTitle    Name = "rehearsed_title"
	RehearsedSentence Name = "rehearsed_sentence"
	BackTitle         Name = "back_title"
	BackSentence      Name = "back_sentence"
	HoldTitle         Name = "hold_title"
	HoldUntouched     Name = "hold_untouched"
	HoldUntouchedDo   Name = "hold_untouched_do"
	HoldWrite         Name = "hold_write"
	HoldRestore       Name = "hold_restore"
	HoldDo            Name = "hold_do"
	HoldAboard        Name = "hold_aboard"
	HoldAboardDo      Name = "hold_aboard_do"
	Contact           Name = "contact"
	Stuck             Name = "stuck"
	StuckDo           Name = "stuck_do"
	// Details says where the log is; {n} is the number of a function key.
	Details Name = "details"
)

// Texts are all texts of a language.
type Texts map[Name]string

// Number returns a text with n in the place of {n}.
func (t Texts) Number(name Name, n int) string {
	return strings.ReplaceAll(t[name], number, fmt.Sprint(n))
}

const number = "{n}"

//go:embed *.toml
var languages embed.FS

// Languages lists the languages that the page speaks.
func Languages() []string {
	files, err := languages.ReadDir(".")
	if err != nil {
		return nil // it was linked in
	}
	var all []string
	for _, f := range files {
		all = append(all, strings.TrimSuffix(f.Name(), ".toml"))
	}
	return all
}

// New returns the texts of a language with some of them replaced. It refuses a
// language or a name that is not known, and a replacement that the screen cannot show
// or in which a number is missing.
func New(language string, replaced map[string]string) (Texts, error) {
	file, err := languages.ReadFile(language + ".toml")
	if err != nil {
		return nil, fmt.Errorf("language %q: expected one of %q", language, Languages())
	}
	t := Texts{}
	if err := toml.Unmarshal(file, &t); err != nil {
		return nil, fmt.Errorf("read texts of language %q: %w", language, err)
	}
	var all []error
	for _, name := range slices.Sorted(maps.Keys(replaced)) {
		text := replaced[name]
		was, known := t[Name(name)]
		switch {
		case !known:
			all = append(all, fmt.Errorf("text %q is not known; there are %q", name, slices.Sorted(maps.Keys(t))))
			continue
		case strings.Contains(was, number) && !strings.Contains(text, number):
			all = append(all, fmt.Errorf("text %q lacks %s, which stands for a number", name, number))
		}
		if _, missing := Show(text); missing != 0 {
			all = append(all, fmt.Errorf("text %q: the kernel's console font cannot show %q (U+%04X)", name, missing, missing))
		}
		t[Name(name)] = text
	}
	return t, errors.Join(all...)
}
