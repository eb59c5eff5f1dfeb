package initramfs

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func build(t *testing.T, order []string) *Archive {
	t.Helper()
	a := New()
	for _, name := range order {
		if err := a.File(name, []byte("content of "+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Symlink("/lib64", "usr/lib64"); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestSameInputSameBytes(t *testing.T) {
	for _, c := range []Compression{Gzip, Zstd} {
		var one, two bytes.Buffer
		if err := build(t, []string{"/init", "/etc/a", "/etc/b"}).Write(&one, c); err != nil {
			t.Fatal(err)
		}
		if err := build(t, []string{"/etc/b", "/init", "/etc/a"}).Write(&two, c); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(one.Bytes(), two.Bytes()) {
			t.Errorf("%s: two archives of the same content differ", c)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for _, c := range []Compression{Gzip, Zstd} {
		a := build(t, []string{"/init", "/etc/deep/file"})
		var b bytes.Buffer
		if err := a.Write(&b, c); err != nil {
			t.Fatal(err)
		}
		got, err := Read(&b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(a.Names(), got.Names()); diff != "" {
			t.Errorf("%s: names (-want +got):\n%s", c, diff)
		}
		for name, want := range map[string]string{"/etc/deep/file": "content of /etc/deep/file", "/lib64": "usr/lib64"} {
			if text, err := got.Content(name); err != nil || string(text) != want {
				t.Errorf("Content(%s) = %q, %v; want %q", name, text, err, want)
			}
		}
		if _, err := got.Content("/none"); !errors.Is(err, ErrNotThere) {
			t.Errorf("Content(/none) = %v; want ErrNotThere", err)
		}
	}
}

func TestConflict(t *testing.T) {
	a := New()
	if err := a.File("/x", []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := a.File("x", []byte("1"), 0o644); err != nil {
		t.Errorf("File with the same content = %v; want nil", err)
	}
	if err := a.File("/x", []byte("2"), 0o644); err == nil || !strings.Contains(err.Error(), "another content") {
		t.Errorf("File with another content = %v; want an error", err)
	}
}

func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	a := New()
	if err := a.Write(&b, Gzip); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		if a, err := Read(bytes.NewReader(data)); err == nil {
			a.Names()
		}
	})
}
