package hook

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"

	"reimager/config"
	"reimager/report"
)

// maxFile bounds the files that are rewritten, in bytes: they are held in memory,
// of which the image has most.
const maxFile = 16 << 20

// Rewritten is what became of one rule.
type Rewritten struct {
	Rule  config.Rewrite
	Lines int // changed or added
	// Err says why the rule was not applied; then it has changed nothing.
	Err error
}

// Fatal tells whether the run was configured to end here.
func (r Rewritten) Fatal() bool { return r.Err != nil && r.Rule.OnFailure == config.Fatal }

// Rewrite applies rules beneath a root, in their order. A file is replaced by a
// rename when all consecutive rules for it are done; a file in which no line
// changes is not touched. Lines keep their endings, and a last line without one has
// none afterwards; file mode, owner and extended attributes stay, the modification
// time becomes now, other hard links keep the old content. Links are followed as a
// process would for which dir is the root, so none leads out.
// The error is that of opening dir; what happened to each rule is in the results.
func Rewrite(dir string, rules []config.Rewrite, vars Vars) ([]Rewritten, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open root %s: %w", dir, err)
	}
	defer root.Close()
	results := make([]Rewritten, len(rules))
	for i, rule := range rules {
		results[i].Rule = rule
	}
	for from := 0; from < len(rules); {
		to := from + 1
		for to < len(rules) && rules[to].File == rules[from].File {
			to++
		}
		if err := rewriteFile(root, rules[from].File, results[from:to], vars); err != nil {
			for i := range results[from:to] {
				r := &results[from+i]
				r.Lines = 0
				if r.Err == nil && !(r.Rule.Missing == config.MissingIgnore && errors.Is(err, fs.ErrNotExist)) {
					r.Err = fmt.Errorf("rewrite %s: %w", r.Rule.File, err)
				}
			}
		}
		from = to
	}
	return results, nil
}

// rewriteFile applies the rules for one file; its error is one of the file.
func rewriteFile(root *os.Root, name string, results []Rewritten, vars Vars) error {
	f, at, err := openText(root, name)
	if err != nil {
		return err
	}
	defer f.Close()
	old, err := readText(f)
	if err != nil {
		return err
	}
	text := splitText(old)
	for i := range results {
		r := &results[i]
		changed, lines, err := text.apply(r.Rule, vars)
		if err != nil {
			r.Err = fmt.Errorf("rewrite %s: %w", r.Rule, err)
			continue
		}
		text, r.Lines = changed, lines
	}
	content := text.join()
	switch {
	case bytes.Equal(content, old):
		return nil
	case len(content) > maxFile:
		return fmt.Errorf("it would have %d bytes, more than %d", len(content), maxFile)
	}
	return replaceFile(root, at, f, content)
}

// line is a line and its ending: "\n", "\r\n", or "" for a last one without.
type line struct{ text, end string }

type text []line

func splitText(b []byte) text {
	var t text
	for l := range bytes.Lines(b) {
		body := bytes.TrimSuffix(l, []byte("\n"))
		if len(body) < len(l) {
			body = bytes.TrimSuffix(body, []byte("\r"))
		}
		t = append(t, line{string(body), string(l[len(body):])})
	}
	return t
}

func (t text) join() []byte {
	var b bytes.Buffer
	for _, l := range t {
		b.WriteString(l.text)
		b.WriteString(l.end)
	}
	return b.Bytes()
}

// apply returns the text as one rule makes it, and how many lines that changes.
func (t text) apply(rule config.Rewrite, vars Vars) (text, int, error) {
	re, err := rule.Match.Regexp()
	if err != nil {
		return nil, 0, err
	}
	changed := slices.Clone(t)
	matched, lines := false, 0
	for i, l := range t {
		m := re.FindStringSubmatchIndex(l.text)
		if m == nil {
			continue
		}
		matched = true
		now, err := expand(rule.Replace, re, l.text, m, vars)
		if err != nil {
			return nil, 0, err
		}
		if now == l.text {
			continue
		}
		if m := re.FindStringSubmatchIndex(now); m != nil {
			if again, err := expand(rule.Replace, re, now, m, vars); err != nil || again != now {
				return nil, 0, report.Hint(fmt.Errorf("line %d would match again when it is replaced, and change again", i+1),
					"let match find the old line only, or use a hook")
			}
		}
		changed[i].text = now
		lines++
	}
	if matched {
		return changed, lines, nil
	}
	return changed.missing(rule, re, vars)
}

// missing deals with a rule that no line matches. A line that is already as the rule
// would make it needs none.
func (t text) missing(rule config.Rewrite, re *regexp.Regexp, vars Vars) (text, int, error) {
	if rule.Missing == config.MissingIgnore {
		return t, 0, nil
	}
	wanted, err := expand(rule.Replace, re, "", nil, vars)
	if err == nil && slices.ContainsFunc(t, func(l line) bool { return l.text == wanted }) {
		return t, 0, nil
	}
	if rule.Missing != config.MissingAppend {
		return nil, 0, report.Hint(errors.New("no line matches"), `correct match; missing = "append" adds the line, "ignore" does without`)
	}
	if err != nil {
		return nil, 0, err
	}
	if len(t) == 0 {
		return text{{wanted, "\n"}}, 1, nil
	}
	last := &t[len(t)-1]
	added := line{wanted, last.end}
	if last.end == "" {
		last.end = t[0].end
		if last.end == "" { // the only line
			last.end = "\n"
		}
	}
	return append(t, added), 1, nil
}

// expand makes the new line of a template. Without a match (m is nil) a reference to
// a group is an error.
func expand(t config.Template, re *regexp.Regexp, src string, m []int, vars Vars) (string, error) {
	parts, err := t.Parts()
	if err != nil {
		return "", err
	}
	var b []byte
	for _, p := range parts {
		b = append(b, p.Text...)
		if p.Ref == "" {
			continue
		}
		if slices.Contains(config.Variables(), p.Ref) {
			if vars[p.Ref] == "" {
				return "", fmt.Errorf("${%s} has no value on this machine", p.Ref)
			}
			b = append(b, vars[p.Ref]...)
			continue
		}
		group, err := strconv.Atoi(p.Ref)
		if err != nil {
			group = re.SubexpIndex(p.Ref)
		}
		if m == nil || group < 0 || 2*group+1 >= len(m) {
			return "", fmt.Errorf("${%s} has no value without a match", p.Ref)
		}
		if m[2*group] >= 0 { // a group that took no part in the match is empty
			b = append(b, src[m[2*group]:m[2*group+1]]...)
		}
	}
	return string(b), nil
}
