package retain

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestScan(t *testing.T) {
	root := tree(t, "etc/passwd=", "etc/a/x=1", "etc/a/y=2", "etc/a-b=3", "etc/b/x=4", "bin/sh=5",
		"data/deep/er/k.key=6", "data/k.key=7", "data/l=-> deep", "alias=-> /etc/a", "self/loop=-> ../self")
	for _, test := range []struct {
		name string
		list []string
		want []string
	}{
		{"nothing", nil, nil},
		{"file", []string{"/bin/sh"}, []string{"/bin/sh"}},
		{"walk order", []string{"/etc/a-b", "/etc/a"}, []string{"/etc/a", "/etc/a/x", "/etc/a/y", "/etc/a-b"}},
		{"overlap", []string{"/etc/a/x", "/etc/*/x", "/etc/a", "/etc/**/y"}, []string{"/etc/a", "/etc/a/x", "/etc/a/y", "/etc/b/x"}},
		{"accounts first", []string{"/bin", "/etc/a/x", "/etc/passwd"}, []string{"/etc/passwd", "/bin", "/bin/sh", "/etc/a/x"}},
		{"exclude", []string{"/etc", "!/etc/a/", "!/etc/passwd"}, []string{"/etc", "/etc/a-b", "/etc/b", "/etc/b/x"}},
		{"exclude wins over a path below", []string{"!/etc/a", "/etc/a/x", "/bin/sh"}, []string{"/bin/sh"}},
		{"any depth", []string{"/data/**/*.key"}, []string{"/data/deep/er/k.key", "/data/k.key"}},
		{"any depth follows no link", []string{"/**/er"}, []string{"/data/deep/er", "/data/deep/er/k.key"}},
		{"link in the middle", []string{"/alias/x"}, []string{"/alias/x"}},
		{"glob through links", []string{"/a*/x", "/self/loop/loop/lo*"}, []string{"/alias/x", "/self/loop/loop/loop"}},
		{"link itself", []string{"/alias"}, []string{"/alias"}},
		{"optional", []string{"-/none", "/bin/sh"}, []string{"/bin/sh"}},
	} {
		plan := scan(t, root, test.list...)
		if diff := cmp.Diff(test.want, planPaths(plan)); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
		list := parseList(t, test.list...)
		for _, e := range plan.Entries {
			if !list.Match(string(e.Path), e.Type == TypeDirectory) {
				t.Errorf("%s: the list does not match %s, which Scan found", test.name, e.Path)
			}
		}
	}
}

func TestScanMissing(t *testing.T) {
	root := tree(t, "etc/hosts=h", "dir/", "link=-> dir", "loop=-> loop")
	list := parseList(t, "/etc/none", "/etc/hosts", "-/opt", "/x/*.key", "/etc/hosts/", "/link/", "/loop/x", "/etc/hosts/x", "/"+strings.Repeat("n", 300))
	plan, err := Scan(context.Background(), root, list)
	var missing *MissingError
	if !errors.As(err, &missing) {
		t.Fatalf("Scan = %v; want a *MissingError", err)
	}
	var lines []int
	for _, m := range missing.Missing {
		lines = append(lines, m.Line)
		if m.Why == "" {
			t.Errorf("line %d is missing without a reason", m.Line)
		}
	}
	if diff := cmp.Diff([]int{1, 4, 5, 6, 7, 8, 9}, lines); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"/etc/hosts"}, planPaths(plan)); diff != "" {
		t.Error(diff)
	}
	if len(plan.MaybeMissing) != 1 || plan.MaybeMissing[0].Pattern != "/opt" {
		t.Errorf("MaybeMissing = %v; want /opt", plan.MaybeMissing)
	}
	if !strings.Contains(err.Error(), "/etc/none (list:1)") {
		t.Errorf("error %q does not name path and line", err)
	}
}

func TestScanSurprises(t *testing.T) {
	root := tree(t, "run/file=x", "data/x=", "link=-> data")
	t.Chdir(filepath.Join(root, "run")) // a socket's address is at most 108 bytes
	l, err := net.Listen("unix", "sock")
	check(t, err)
	defer l.Close()
	plan := scan(t, root, "/run", "/link")
	if diff := cmp.Diff([]string{"/link", "/run", "/run/file"}, planPaths(plan)); diff != "" {
		t.Error(diff)
	}
	var got []Path
	for _, s := range plan.Surprises {
		got = append(got, s.Path)
	}
	if diff := cmp.Diff([]Path{"/run/sock", "/link"}, got); diff != "" {
		t.Error(diff)
	}
}

// What the kernel makes up is left out; another filesystem beneath is entered.
func TestScanFilesystems(t *testing.T) {
	needRoot(t)
	root := tree(t, "mnt/proc/", "mnt/dev/", "mnt/tmp/")
	for dir, fs := range map[string]string{"proc": "proc", "dev": "devtmpfs", "tmp": "tmpfs"} {
		path := filepath.Join(root, "mnt", dir)
		check(t, unix.Mount(fs, path, fs, 0, ""))
		defer func() { check(t, unix.Unmount(path, 0)) }()
	}
	check(t, os.WriteFile(filepath.Join(root, "mnt/tmp/f"), nil, 0o600))
	plan := scan(t, root, "/mnt", "-/**/cmdline*", "/mnt/dev/null")
	if diff := cmp.Diff([]string{"/mnt", "/mnt/tmp", "/mnt/tmp/f"}, planPaths(plan)); diff != "" {
		t.Error(diff)
	}
	if len(plan.Surprises) != 3 {
		t.Errorf("Surprises = %v; want /mnt/dev, /mnt/proc, /mnt/dev/null", plan.Surprises)
	}
}

func TestScanStops(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	root := tree(t, "a/b=c")
	if _, err := Scan(ctx, root, parseList(t, "/a")); !errors.Is(err, context.Canceled) {
		t.Errorf("Scan = %v; want context.Canceled", err)
	}
	plan := scan(t, root, "/a")
	if _, err := Capture(ctx, plan, &bytes.Buffer{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Capture = %v; want context.Canceled", err)
	}
	archive, _ := capture(t, plan)
	if _, err := Restore(ctx, root, bytes.NewReader(archive), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Restore = %v; want context.Canceled", err)
	}
}

// A file that changed since the scan is an error that names it.
func TestCaptureChanged(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(path string) error
		want   string
	}{
		{"grew", func(p string) error { return os.WriteFile(p, []byte("longer content"), 0o644) }, "its size went from 7 to 14"},
		{"shrank", func(p string) error { return os.Truncate(p, 1) }, "its size went from 7 to 1"},
		{"gone", os.Remove, "no such file"},
		{"replaced by a FIFO", func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o644)) }, "another file"},
		{"replaced by a link", func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p)) }, "symbolic links"},
		{"mode", func(p string) error { return os.Chmod(p, 0o600) }, "mode or time"},
	} {
		root := tree(t, "d/file=content")
		plan := scan(t, root, "/d/file")
		check(t, test.change(filepath.Join(root, "d/file")))
		_, err := Capture(context.Background(), plan, &bytes.Buffer{}, nil)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), root+"/d/file") {
			t.Errorf("%s: Capture = %v; want %q and the path", test.name, err, test.want)
		}
	}
}
