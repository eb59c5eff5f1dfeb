package report

import (
	"bytes"
	"strings"
	"testing"
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
