package lifeboat

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func documentation(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../docs/lifeboat.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// example returns the code block with that title.
func example(t *testing.T, title string) []byte {
	t.Helper()
	_, after, found := strings.Cut(documentation(t), "\n```json "+title+"\n")
	code, _, ended := strings.Cut(after, "```\n")
	if !found || !ended {
		t.Fatalf("docs/lifeboat.md has no example of a %s", title)
	}
	return []byte(code)
}

// The layout that is documented is the one of the code.
func TestDocumentedLayout(t *testing.T) {
	type row struct{ off, bytes int64 }
	got := map[string]row{}
	for _, cells := range regexp.MustCompile(`(?m)^\| (\d+) \| (?:(\d+) )?\| (.*) \|$`).FindAllStringSubmatch(documentation(t), -1) {
		what, _, _ := strings.Cut(cells[3], ":")
		off, _ := strconv.ParseInt(cells[1], 10, 64)
		n, _ := strconv.ParseInt("0"+cells[2], 10, 64)
		got[what] = row{off, n}
	}
	want := map[string]row{
		"boot sector":     {bootOff, blockBytes},
		"header":          {headerOff, blockBytes},
		"journal, slot A": {slotOff(Berth{}, 0), blockBytes},
		"journal, slot B": {slotOff(Berth{}, 1), blockBytes},
		"key slot":        {keyOff, blockBytes},
		"the sections, one behind the other, each from a multiple of 4096 on, padded with zeros": {sectionsOff, 0},
		"magic": {0, magicBytes},
		"length of the text, little-endian; at most " + strconv.Itoa(sealTextMax): {sealLength, sealDigest - sealLength},
		"SHA-256 of the text": {sealDigest, sealText - sealDigest},
		"the text":            {sealText, 0},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(row{})); diff != "" {
		t.Errorf("docs/lifeboat.md (-want +got):\n%s", diff)
	}
	if headBytes != keyOff+blockBytes || sectionsOff < headBytes || sectionAlign != blockBytes {
		t.Error("the layout of the code contradicts itself")
	}
}

// The examples are what this code reads and writes.
func TestDocumentedExamples(t *testing.T) {
	block := sealedText(headerMagic, string(compact(t, example(t, "header"))))
	h, err := ParseHeader(block, 3222274048, 8<<30)
	if err != nil {
		t.Fatal(err)
	}
	checkSame(t, "header", headerMagic, h, block)
	block = sealedText(journalMagic, string(compact(t, example(t, "journal"))))
	r, err := parseRecord(block, h.RunID)
	if err != nil {
		t.Fatal(err)
	}
	checkSame(t, "journal", journalMagic, r, block)
}

func checkSame(t *testing.T, title, magic string, v any, block []byte) {
	t.Helper()
	again, err := seal(magic, v)
	if err != nil || !bytes.Equal(again, block) {
		t.Errorf("the %s of docs/lifeboat.md is written otherwise now, %v:\n%s", title, err, again[sealText:])
	}
}

func compact(t *testing.T, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Every state is in the picture and has its rows.
func TestDocumentedStates(t *testing.T) {
	text := documentation(t)
	_, picture, _ := strings.Cut(text, "## The states\n\n```\n")
	picture, _, _ = strings.Cut(picture, "```")
	for _, s := range order() {
		if !strings.Contains(picture, string(s)) || !strings.Contains(text, "\n| `"+string(s)+"` |") {
			t.Errorf("docs/lifeboat.md does not show the state %s", s)
		}
	}
}
