package screen

import (
	"fmt"
	"strings"

	"reimager/screen/texts"
)

// Scene is what kind of page is shown.
type Scene int

// The scenes.
const (
	Running   Scene = iota
	Done            // the new system is there; restarting
	Rehearsed       // a rehearsal is over; restarting
	Back            // failed, nothing changed; restarting
	HoldUntouched
	HoldWrite
	HoldRestore
	HoldAboard // not complete, but a lifeboat is there
	Stuck      // it should have restarted
)

// Cut is what a power cut does now.
type Cut int

// What a power cut does.
const (
	OldSystem Cut = iota // nothing was changed: the old system starts
	Harm                 // the disk does not start
	CarryOn              // the work goes on afterwards
)

// State is all that a page depends on beside its size.
type State struct {
	Scene     Scene
	Step      Step
	Again     bool // it is not the first write
	Rehearsal bool
	Cut       Cut
	Fraction  float64 // of the run
	Minutes   int     // left; 1: less than one, 0: not known
	Run       string  // the run's id
	Message   string  // of the failure
	Details   int     // number of the terminal with the log; 0: none
}

// view is a page in words.
type view struct {
	title    string
	alarm    bool
	sentence string
	step     string
	bar      bool
	fraction float64
	time     string
	notice   string
	warn     bool // the notice asks for something
	why      string
	contact  string
	message  string
	foot     string
	corner   string
}

// compose chooses the words for a state.
func compose(t texts.Texts, s State) view {
	v := view{message: s.Message}
	if s.Run != "" {
		v.foot = "reimager " + s.Run
	}
	if s.Details > 0 {
		v.corner = t.Number(texts.Details, s.Details)
	}
	switch s.Scene {
	case Running:
		v.running(t, s)
	case Done:
		v.title, v.sentence, v.bar, v.fraction = t[texts.DoneTitle], t[texts.DoneSentence], true, 1
	case Rehearsed:
		v.title, v.sentence = t[texts.RehearsedTitle], t[texts.RehearsedSentence]
	case Back:
		v.title, v.sentence = t[texts.BackTitle], t[texts.BackSentence]
	case HoldUntouched:
		v.title, v.alarm, v.sentence, v.contact = t[texts.HoldTitle], true, t[texts.HoldUntouched], t[texts.Contact]
		v.notice = t[texts.HoldUntouchedDo]
	case HoldWrite, HoldRestore:
		v.title, v.alarm, v.contact = t[texts.HoldTitle], true, t[texts.Contact]
		v.sentence = t[texts.HoldWrite]
		if s.Scene == HoldRestore {
			v.sentence = t[texts.HoldRestore]
		}
		v.notice, v.warn = t[texts.HoldDo], true
	case HoldAboard:
		v.title, v.alarm, v.sentence, v.contact = t[texts.HoldTitle], true, t[texts.HoldAboard], t[texts.Contact]
		v.notice = t[texts.HoldAboardDo]
	case Stuck:
		v.title, v.alarm, v.sentence, v.notice = t[texts.HoldTitle], true, t[texts.Stuck], t[texts.StuckDo]
	}
	return v
}

func (v *view) running(t texts.Texts, s State) {
	v.title, v.sentence = t[texts.Title], t[texts.Sentence]
	if s.Rehearsal {
		v.title, v.sentence = t[texts.RehearsalTitle], t[texts.RehearsalSentence]
	}
	v.bar, v.fraction = true, s.Fraction
	v.step = t[[...]texts.Name{texts.Prepare, texts.Write, texts.Check, texts.Restore, texts.Restart}[s.Step]]
	if s.Step == Write && s.Again {
		v.step = t[texts.WriteAgain]
	}
	switch s.Minutes {
	case 0:
		v.time = t[texts.NoTimeYet]
	case 1:
		v.time = t[texts.LastMinute]
	default:
		v.time = t.Number(texts.Minutes, s.Minutes)
	}
	switch s.Cut {
	case OldSystem:
		v.notice, v.why = t[texts.Untouched], t[texts.UntouchedWhy]
	case Harm:
		v.notice, v.why, v.warn = t[texts.KeepOn], t[texts.KeepOnWhy], true
	case CarryOn:
		v.notice, v.why = t[texts.CarriesOn], t[texts.CarriesOnWhy]
	}
}

// percent is how a fraction is written, rounded down: it is complete only at its end.
func percent(fraction float64) string {
	const rounding = 1e-9 // 0.57*100 is a little less than 57
	return fmt.Sprintf("%d%%", min(100, max(0, int(fraction*100+rounding))))
}

// wrap breaks a text into lines of at most width characters, between words where it
// can.
func wrap(text string, width int) []string {
	var lines []string
	line := []rune{}
	for word := range strings.FieldsSeq(text) {
		w := []rune(word)
		if len(line) > 0 && len(line)+1+len(w) > width {
			lines, line = append(lines, string(line)), nil
		}
		if len(line) > 0 {
			line = append(line, ' ')
		}
		line = append(line, w...)
		for len(line) > width { // a word that fits no line
			lines, line = append(lines, string(line[:width])), line[width:]
		}
	}
	if len(line) > 0 {
		lines = append(lines, string(line))
	}
	return lines
}
