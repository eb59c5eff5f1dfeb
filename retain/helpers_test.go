package retain

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reimager/retain/treetest"
)

// needRoot is for tests that change owners or make devices.
func needRoot(t testing.TB) {
	t.Helper()
	treetest.Need(t)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func parseList(t testing.TB, lines ...string) List {
	t.Helper()
	list, err := ParseList("list", strings.NewReader(strings.Join(lines, "\n")))
	check(t, err)
	return list
}

// tree makes files in a new directory: a name that ends in / is a directory, a
// value that starts with "-> " a symbolic link, anything else content.
func tree(t testing.TB, files ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, file := range files {
		name, content, _ := strings.Cut(file, "=")
		path := filepath.Join(root, name)
		check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		target, isLink := strings.CutPrefix(content, "-> ")
		switch {
		case strings.HasSuffix(name, "/"):
			check(t, os.MkdirAll(path, 0o755))
		case isLink:
			check(t, os.Symlink(target, path))
		default:
			check(t, os.WriteFile(path, []byte(content), 0o644))
		}
	}
	return root
}

func scan(t testing.TB, root string, lines ...string) *Plan {
	t.Helper()
	plan, err := Scan(context.Background(), root, parseList(t, lines...))
	check(t, err)
	return plan
}

func capture(t testing.TB, plan *Plan) ([]byte, Summary) {
	t.Helper()
	var archive bytes.Buffer
	summary, err := Capture(context.Background(), plan, &archive, nil)
	check(t, err)
	if got, bound := int64(archive.Len()), plan.ArchiveBytes; got > bound || got != summary.ArchiveBytes {
		t.Errorf("archive has %d bytes; want the summary's %d, at most the plan's %d", got, summary.ArchiveBytes, bound)
	}
	return archive.Bytes(), summary
}

func restore(t testing.TB, root string, archive []byte, opts Options) *Report {
	t.Helper()
	report, err := Restore(context.Background(), root, bytes.NewReader(archive), opts)
	check(t, err)
	return report
}

func verify(t testing.TB, root string, archive []byte, opts Options) []Difference {
	t.Helper()
	found, err := Verify(context.Background(), root, bytes.NewReader(archive), opts)
	check(t, err)
	return found
}

func planPaths(p *Plan) []string {
	var paths []string
	for _, e := range p.Entries {
		paths = append(paths, string(e.Path))
	}
	return paths
}

// archiveOf makes an archive of headers; all files have the same content.
func archiveOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content = "from the archive"
			h.Size = int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		h.ModTime = time.Unix(1, 0)
		check(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, content)
		check(t, err)
	}
	check(t, w.Close())
	return buf.Bytes()
}

// snapshot describes all that is beneath a directory.
func snapshot(t testing.TB, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	check(t, filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		text := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text = string(content)
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text = "-> " + target
		}
		rel, err := filepath.Rel(root, path)
		all[rel] = text
		return err
	}))
	delete(all, ".")
	return all
}

func lstat(t testing.TB, path ...string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(path...), &st); err != nil {
		t.Fatalf("lstat %s: %v", filepath.Join(path...), err)
	}
	return st
}

func ownerOf(st unix.Stat_t) string { return fmt.Sprintf("%d:%d", st.Uid, st.Gid) }
