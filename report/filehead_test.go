package report

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFileHead(t *testing.T) {
	empty := EmptyFile("RUN", 2*FileBlockBytes)
	for name, c := range map[string]struct {
		all         []byte
		state, want string
	}{
		"empty":      {empty, "empty", ""},
		"begun":      {bytes.Replace(empty, []byte("empty"), []byte("begun"), 1), "begun", ""},
		"no block 0": {empty[FileBlockBytes:], "", "does not begin as one"},
		"nothing":    {nil, "", "does not begin as one"},
		"zeros":      {make([]byte, FileBlockBytes), "", "does not begin as one"},
		"format 2":   {bytes.Replace(empty, []byte("report 1"), []byte("report 2"), 1), "", "does not begin as one"},
	} {
		id, state, err := FileHead("report", c.all)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) || state != c.state || err == nil && id != "RUN" {
			t.Errorf("%s: run %q, state %q, %v; want %q, %q", name, id, state, err, c.state, c.want)
		}
	}
}

func TestBegun(t *testing.T) {
	blocks, err := FileBlocks("ONE", FileBytes, &Record{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	begun, err := BegunBlock("ONE", "1", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	for what, tt := range map[string]struct {
		content []byte
		want    bool
	}{
		"armed": {EmptyFile("ONE", FileBytes), false}, "begun": {begun, true}, "filled": {blocks[0], true},
		"another run's": {EmptyFile("TWO", FileBytes), false}, "damaged": {[]byte("x"), false}, "empty": {nil, false},
	} {
		name := filepath.Join(t.TempDir(), "report")
		if err := os.WriteFile(name, tt.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := Begun(name, "ONE"); got != tt.want {
			t.Errorf("%s: Begun = %t; want %t", what, got, tt.want)
		}
	}
	if Begun(filepath.Join(t.TempDir(), "none"), "ONE") {
		t.Error("Begun of no file")
	}
}
