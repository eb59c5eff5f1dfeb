package retain

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// What Restore reports is enough to compare with later, and every change shows.
func TestRecheck(t *testing.T) {
	needRoot(t)
	old := rootOf(t, "/srv/a", "/srv/b", "/srv/dir/c")
	sparse := filepath.Join(old, "srv/sparse")
	err := errors.Join(os.Symlink("a", filepath.Join(old, "srv/link")), os.Link(filepath.Join(old, "srv/a"), filepath.Join(old, "srv/hard")),
		os.WriteFile(sparse, []byte("data"), 0o600), os.Truncate(sparse, 10<<20))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := planOf(t, old, "/srv\n")
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if _, err := Capture(t.Context(), plan, &archive, nil); err != nil {
		t.Fatal(err)
	}
	fresh := rootOf(t)
	report, err := Restore(t.Context(), fresh, &archive, Options{})
	if err != nil {
		t.Fatal(err)
	}
	// As a record keeps it.
	text, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	var kept Report
	if err := json.Unmarshal(text, &kept); err != nil {
		t.Fatal(err)
	}
	check := func(name string, want ...string) {
		t.Helper()
		found, err := Recheck(t.Context(), fresh, &kept)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range found {
			got = append(got, string(d.Path)+" "+d.What)
		}
		if len(got) != len(want) || len(want) > 0 && got[0] != want[0] {
			t.Errorf("%s: differences %q; want %q", name, got, want)
		}
	}
	check("as restored")
	for _, change := range []struct {
		what string
		do   func(string) error
	}{
		{"/srv/b content", func(srv string) error { return os.WriteFile(srv+"/b", []byte("/srv/B"), 0o644) }},
		{"/srv/sparse content", func(srv string) error { return os.WriteFile(srv+"/sparse", make([]byte, 10<<20), 0o600) }},
		{"/srv/dir mode", func(srv string) error { return os.Chmod(srv+"/dir", 0o700) }},
		{"/srv/dir user", func(srv string) error { return os.Chown(srv+"/dir", 5, 0) }},
		{"/srv/link link target", func(srv string) error { return errors.Join(os.Remove(srv+"/link"), os.Symlink("b", srv+"/link")) }},
		{"/srv/dir/c existence", func(srv string) error { return os.Remove(srv + "/dir/c") }},
	} {
		fresh = rootOf(t)
		archive.Reset()
		if _, err := Capture(t.Context(), plan, &archive, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(t.Context(), fresh, &archive, Options{}); err != nil {
			t.Fatal(err)
		}
		if err := change.do(filepath.Join(fresh, "srv")); err != nil {
			t.Fatal(err)
		}
		check(change.what, change.what)
	}
}
