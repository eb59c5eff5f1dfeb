package disk

import (
	"os"
	"path/filepath"
	"testing"
)

// A system that was started in between has mounted its root for writing.
func TestWritableMounts(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("mounting takes root")
	}
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "at")
	tool(t, "truncate", "-s", "16M", image)
	tool(t, "mkfs.ext4", "-q", image)
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	look := func() string {
		t.Helper()
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got, err := WritableMounts(f, Filesystem{Type: "ext4"})
		if err != nil || got == "" {
			t.Fatalf("WritableMounts = %q, %v; want a text", got, err)
		}
		if none, err := WritableMounts(f, Filesystem{Type: "xfs"}); none != "" || err != nil {
			t.Errorf("WritableMounts of xfs = %q, %v; want none", none, err)
		}
		return got
	}
	before := look()
	for _, tt := range []struct {
		options string
		changes bool
	}{{"loop", true}, {"loop,ro", false}} {
		tool(t, "mount", "-o", tt.options, image, at)
		tool(t, "umount", at)
		after := look()
		if (after != before) != tt.changes {
			t.Errorf("mounted with %s: WritableMounts = %q, before %q; want a change: %t", tt.options, after, before, tt.changes)
		}
		before = after
	}
}
