package vm

import (
	"bytes"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestQuoteCommand(t *testing.T) {
	got := quoteCommand([]string{"a", "b c", "it's", "", "x=/y,z"})
	if want := `a 'b c' 'it'\''s' '' x=/y,z`; got != want {
		t.Errorf("quoteCommand = %s; want %s", got, want)
	}
}

func TestConsole(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var tee bytes.Buffer
	c := newConsole(r, &tee)
	const text = "\x1b[2Jfirst\r\nsecond one\nsecond two\nlast"
	_, err = w.WriteString(text)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	<-c.done
	var got []string
	for _, line := range c.Lines() {
		got = append(got, line.Text)
	}
	if diff := cmp.Diff([]string{"first", "second one", "second two", "last"}, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if tee.String() != text || !c.Contains("second two") {
		t.Errorf("tee = %q; want %q", tee.String(), text)
	}
	second := regexp.MustCompile(`second (\w+)\n`)
	for _, want := range []string{"one", "two"} {
		if groups, _ := c.next(second); len(groups) != 2 || groups[1] != want {
			t.Errorf("next = %q; want %q", groups, want)
		}
	}
	if groups, _ := c.next(second); groups != nil {
		t.Errorf("third next = %q; want none", groups)
	}
	if got := c.Last(1); !strings.HasSuffix(got, "  last\n") || strings.Contains(got, "second") {
		t.Errorf("Last(1) = %q", got)
	}
}

func TestDecodeText(t *testing.T) {
	memory := bytes.Repeat([]byte{' ', 7}, textMemorySize/2)
	copy(memory[len(memory)-2:], "A\x07")
	copy(memory, "B\x07\x01\x07\x84\x07")
	// The screen starts at the last character and wraps around.
	if got, want := decodeText(memory, len(memory)-2), "AB ä"+strings.Repeat("\n", textRows); got != want {
		t.Errorf("decodeText = %q; want %q", got, want)
	}
}

func FuzzDecodePPM(f *testing.F) {
	f.Add([]byte("P6\n2 1\n255\n\x01\x02\x03\x04\x05\x06"))
	f.Add([]byte("P6\n2 2\n255\n\x01\x02\x03"))
	f.Add([]byte("P6\n-1 99999999\n255\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		picture, err := decodePPM(bytes.NewReader(data))
		if err == nil && picture.Bounds().Empty() {
			t.Errorf("decodePPM gave an empty picture")
		}
	})
}
