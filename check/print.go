package check

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// nameWidth is that of the longest name.
func nameWidth() int {
	n := 0
	for _, name := range names() {
		n = max(n, len(name))
	}
	return n
}

// Print writes a line for each result whose verdict is one of those (none: all), and
// its hint beneath it. Lines are broken at a width in characters; 0: not at all, as a
// program wants them.
func (r Results) Print(w io.Writer, width int, verdicts ...Verdict) error {
	column := len(Pass) + 2 + nameWidth() + 2
	for _, result := range r {
		shown := len(verdicts) == 0
		for _, v := range verdicts {
			shown = shown || v == result.Verdict
		}
		if !shown {
			continue
		}
		head := fmt.Sprintf("%-4s  %-*s  ", result.Verdict, nameWidth(), result.Name)
		for _, line := range wrap(result.Found, width, column) {
			if _, err := fmt.Fprintf(w, "%s%s\n", head, line); err != nil {
				return err
			}
			head = strings.Repeat(" ", column)
		}
		if result.Hint == "" || result.Verdict == Pass {
			continue
		}
		head = strings.Repeat(" ", column) + "hint: "
		for _, line := range wrap(result.Hint, width, len(head)) {
			if _, err := fmt.Fprintf(w, "%s%s\n", head, line); err != nil {
				return err
			}
			head = strings.Repeat(" ", len(head))
		}
	}
	return nil
}

// Summary says in a line how it came out.
func (r Results) Summary() string {
	warned := "no warnings"
	if n := r.Count(Warn); n > 0 {
		warned = plural(n, "warning", "warnings")
	}
	if n := r.Count(Fail); n > 0 {
		return fmt.Sprintf("%d failed, %s, %d passed", n, warned, r.Count(Pass))
	}
	return fmt.Sprintf("nothing failed, %s, %d passed", warned, r.Count(Pass))
}

// jsonFormat is the version of what JSON writes: docs/formats.md.
const jsonFormat = 1

// JSON writes the results for programs.
func (r Results) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		Format  int     `json:"format"`
		Failed  int     `json:"failed"`
		Warned  int     `json:"warned"`
		Passed  int     `json:"passed"`
		Results Results `json:"results"`
	}{jsonFormat, r.Count(Fail), r.Count(Warn), r.Count(Pass), r})
}

// least is what a column has on a terminal that is too narrow for it.
const least = 30

// wrap breaks a text between words for a column of a terminal. A word that is longer than a line, such as a
// path, stays whole. Control characters, which names of files may have, are shown
// as ?.
func wrap(text string, width, column int) []string {
	var lines []string
	room := max(width-column, least)
	for paragraph := range strings.SplitSeq(text, "\n") {
		line := ""
		for word := range strings.FieldsFuncSeq(paragraph, func(c rune) bool { return c == ' ' }) {
			word = strings.Map(func(c rune) rune {
				if c < ' ' || c == 0x7f {
					return '?'
				}
				return c
			}, word)
			switch {
			case line == "":
				line = word
			case width > 0 && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > room:
				lines = append(lines, line)
				line = word
			default:
				line += " " + word
			}
		}
		lines = append(lines, line)
	}
	return lines
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// several lists the first few of many names.
func several(all []string) string {
	const few = 6
	if len(all) <= few {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:few], ", "), len(all)-few)
}
