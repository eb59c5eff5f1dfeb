package hook

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"reimager/config"
)

func rule(match, replace string, missing config.Choice) config.Rewrite {
	return config.Rewrite{
		File: "/etc/f", Match: config.Pattern{Text: match}, Replace: config.Template{Text: replace},
		Missing: missing, OnFailure: config.Report,
	}
}

func someVars() Vars {
	return Vars{"hostname": "kiosk-7", "root_uuid": "1234", "machine_id": "$1"}
}

func TestRewrite(t *testing.T) {
	const refuse, add, ignore = config.MissingRefuse, config.MissingAppend, config.MissingIgnore
	type rules []config.Rewrite
	for _, tt := range []struct {
		name      string
		rules     rules
		old, want string
		lines     int
		err       string
	}{
		{"hosts", rules{rule(`^127\.0\.1\.1\s`, "127.0.1.1 ${hostname}", refuse)}, "127.0.0.1 localhost\n127.0.1.1\timage image\n", "127.0.0.1 localhost\n127.0.1.1 kiosk-7\n", 1, ""},
		{"fstab", rules{rule(`^UUID=\S+(\s+/\s.*)`, "UUID=${root_uuid}$1", refuse)}, "UUID=a / ext4 x 0 1\nUUID=a /boot ext4\n", "UUID=1234 / ext4 x 0 1\nUUID=a /boot ext4\n", 1, ""},
		{"each line", rules{rule("a", "x", refuse)}, "a\nb\nca\n", "x\nb\nx\n", 2, ""},
		{"no newline at the end", rules{rule("b", "x", refuse)}, "a\nb", "a\nx", 1, ""},
		{"CRLF", rules{rule("^a$", "x", refuse)}, "a\r\nb\r\na", "x\r\nb\r\nx", 2, ""},
		{"mixed endings", rules{rule("^[ab]$", "x", refuse)}, "a\r\nb\n\rc\n", "x\r\nx\n\rc\n", 2, ""},
		{"dollar", rules{rule("^(a)(z)?", "$$1$1${1}0$2$$", refuse)}, "a\n", "$1aa0$\n", 1, ""},
		{"dollar in a value", rules{rule("(a)", "${machine_id}", refuse)}, "a\n", "$1\n", 1, ""},
		{"named group", rules{rule("^(?P<key>[a-z]+)=", "${key}=2", refuse)}, "k=1\n", "k=2\n", 1, ""},
		{"dollar in a capture", rules{rule("^x(.*)", "y$1", refuse)}, "x$1${hostname}\n", "y$1${hostname}\n", 1, ""},
		{"nothing to do", rules{rule("^a", "a", refuse)}, "a\n", "a\n", 0, ""},
		{"invalid UTF-8", rules{rule("^a(.*)b$", "$1", refuse)}, "a\xff\x00b\n\xfe\n", "\xff\x00\n\xfe\n", 1, ""},
		{"delete what is in a line", rules{rule("^a$", "", refuse)}, "a\nb\n", "\nb\n", 1, ""},
		{"missing", rules{rule("z", "y", refuse)}, "a\n", "a\n", 0, "no line matches"},
		{"missing, ignored", rules{rule("z", "y", ignore)}, "a\n", "a\n", 0, ""},
		{"missing, but it is there", rules{rule("^#k$", "k", refuse)}, "k\n", "k\n", 0, ""},
		{"append", rules{rule("z", "${hostname}", add)}, "a\n", "a\nkiosk-7\n", 1, ""},
		{"append once", rules{rule("z", "y", add), rule("z", "y", add)}, "a\n", "a\ny\n", 1, ""},
		{"append without newline", rules{rule("z", "y", add)}, "a\nb", "a\nb\ny", 1, ""},
		{"append to one line without newline", rules{rule("z", "y", add)}, "a", "a\ny", 1, ""},
		{"append CRLF", rules{rule("z", "y", add)}, "a\r\nb", "a\r\nb\r\ny", 1, ""},
		{"append to nothing", rules{rule("z", "y", add)}, "", "y\n", 1, ""},
		{"no value", rules{rule("a", "${old_root_uuid}", refuse)}, "a\n", "a\n", 0, "${old_root_uuid} has no value"},
		{"no value to append", rules{rule("z", "${old_root_uuid}", add)}, "a\n", "a\n", 0, "has no value"},
		{"grows each time", rules{rule("^(a.*)", "$1 b", refuse)}, "a\n", "a\n", 0, "would match again"},
		{"one fails, the others are applied", rules{rule("a", "x", refuse), rule("z", "y", refuse), rule("b", "y", refuse)}, "a\nb\n", "x\ny\n", 2, "no line matches"},
		{"on each other", rules{rule("a", "b", refuse), rule("b", "c", refuse)}, "a\n", "c\n", 2, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			file := filepath.Join(root, "etc/f")
			put(t, file, tt.old)
			for _, again := range []bool{false, true} {
				results, err := Rewrite(root, tt.rules, someVars())
				if err != nil {
					t.Fatal(err)
				}
				lines, errs := 0, []error{}
				for _, r := range results {
					lines += r.Lines
					errs = append(errs, r.Err)
				}
				got, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, string(got)); diff != "" {
					t.Errorf("again=%t (-want +got):\n%s", again, diff)
				}
				if again {
					if lines != 0 {
						t.Errorf("the second time %d lines change", lines)
					}
					continue
				}
				joined := errors.Join(errs...)
				if lines != tt.lines || (joined == nil) != (tt.err == "") || !strings.Contains(fmt.Sprint(joined), tt.err) {
					t.Errorf("%d lines, %v; want %d, %q", lines, joined, tt.lines, tt.err)
				}
			}
		})
	}
}

func put(t *testing.T, file, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestRewriteHostileFiles(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(root, outside string) error
		want string // content of /etc/f or where it leads
		at   string
		err  string
	}{
		{"absolute link", func(root, _ string) error {
			return errors.Join(os.MkdirAll(root+"/srv", 0o755), os.WriteFile(root+"/srv/real", []byte("a\n"), 0o644), os.Symlink("/srv/real", root+"/etc/f"))
		}, "x\n", "srv/real", ""},
		{"link that climbs stays inside", func(root, _ string) error {
			return errors.Join(os.WriteFile(root+"/real", []byte("a\n"), 0o644), os.Symlink("../../../../../../real", root+"/etc/f"))
		}, "x\n", "real", ""},
		{"link to a file outside", func(root, outside string) error { return os.Symlink(outside, root+"/etc/f") }, "", "", "no such file"},
		{"directory is a link outside", func(root, outside string) error {
			return errors.Join(os.Remove(root+"/etc"), os.Symlink(filepath.Dir(outside), root+"/etc"))
		}, "", "", "no such file"},
		{"loop", func(root, _ string) error { return os.Symlink("f", root+"/etc/f") }, "", "", "too many levels"},
		{"directory", func(root, _ string) error { return os.Mkdir(root+"/etc/f", 0o755) }, "", "", "it is no regular file but a directory"},
		{"FIFO", func(root, _ string) error { return unix.Mkfifo(root+"/etc/f", 0o644) }, "", "", "it is no regular file but a FIFO"},
		{"device", func(root, _ string) error {
			return unix.Mknod(root+"/etc/f", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5)))
		}, "", "", "it is no regular file but a device"},
		{"file as a directory", func(root, _ string) error {
			return errors.Join(os.Remove(root+"/etc"), os.WriteFile(root+"/etc", nil, 0o644))
		}, "", "", "not a directory"},
		{"100 MiB", func(root, _ string) error {
			return errors.Join(os.WriteFile(root+"/etc/f", []byte("a\n"), 0o644), os.Truncate(root+"/etc/f", 100<<20))
		}, "", "", "it has more than 16777216 bytes"},
		{"missing", func(string, string) error { return nil }, "", "", "no such file"},
		{"left-over of an attempt", func(root, _ string) error {
			return errors.Join(os.WriteFile(root+"/etc/f", []byte("a\n"), 0o644), os.Symlink("/etc/passwd", root+"/etc/"+temporaryName))
		}, "x\n", "etc/f", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root, outside := t.TempDir(), filepath.Join(t.TempDir(), "f")
			put(t, outside, "a\n")
			if err := errors.Join(os.Mkdir(root+"/etc", 0o755), tt.make(root, outside)); err != nil {
				t.Fatal(err)
			}
			results, err := Rewrite(root, []config.Rewrite{rule("^a$", "x", config.MissingRefuse)}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := results[0].Err; (got == nil) != (tt.err == "") || !strings.Contains(fmt.Sprint(got), tt.err) {
				t.Errorf("got %v; want %q", got, tt.err)
			}
			if b, err := os.ReadFile(outside); string(b) != "a\n" {
				t.Errorf("the file outside has %q, %v", b, err)
			}
			if tt.at != "" {
				b, err := os.ReadFile(filepath.Join(root, tt.at))
				if string(b) != tt.want {
					t.Errorf("%s has %q, %v; want %q", tt.at, b, err, tt.want)
				}
			}
			if _, err := os.Lstat(filepath.Join(root, "etc", temporaryName)); err == nil {
				t.Error("the temporary file is still there")
			}
		})
	}
	root := t.TempDir()
	absent := rule("a", "b", config.MissingIgnore)
	results, err := Rewrite(root, []config.Rewrite{absent}, nil)
	if err != nil || results[0].Err != nil {
		t.Errorf("an absent file with missing = ignore: %v, %v", results, err)
	}
	absent.Missing, absent.OnFailure = config.MissingAppend, config.Fatal
	if results, err = Rewrite(root, []config.Rewrite{absent}, nil); err != nil || !errors.Is(results[0].Err, fs.ErrNotExist) || !results[0].Fatal() {
		t.Errorf("an absent file with missing = append: %v, %v", results, err)
	}
}

func TestRewriteKeepsAttributes(t *testing.T) {
	root := t.TempDir()
	file := filepath.Join(root, "etc/f")
	put(t, file, "a\n")
	long := string(bytes.Repeat([]byte("v"), 300))
	old := time.Unix(1e9, 0)
	err := errors.Join(os.Chown(file, 12, 34), os.Chmod(file, 0o640|os.ModeSetuid), os.Chtimes(file, old, old),
		unix.Setxattr(file, "user.x", []byte(long), 0), unix.Setxattr(file, "trusted.y", nil, 0))
	if err != nil {
		t.Fatal(err)
	}
	stat := func() (st unix.Stat_t) {
		if err := unix.Lstat(file, &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	before := stat()
	if _, err := Rewrite(root, []config.Rewrite{rule("z", "", config.MissingIgnore)}, nil); err != nil {
		t.Fatal(err)
	}
	if after := stat(); after.Ino != before.Ino || after.Mtim != before.Mtim {
		t.Error("a file without a change was replaced")
	}
	results, err := Rewrite(root, []config.Rewrite{rule("a", "x", config.MissingRefuse)}, nil)
	if err != nil || results[0].Err != nil {
		t.Fatal(err, results)
	}
	after := stat()
	type kept struct{ mode, uid, gid uint32 }
	if diff := cmp.Diff(fmt.Sprint(kept{before.Mode, 12, 34}), fmt.Sprint(kept{after.Mode, after.Uid, after.Gid})); diff != "" {
		t.Errorf("mode and owner (-want +got):\n%s", diff)
	}
	if after.Mtim.Sec == 1e9 {
		t.Error("the modification time of a changed file is the old one")
	}
	buf := make([]byte, 1000)
	if n, err := unix.Getxattr(file, "user.x", buf); err != nil || string(buf[:n]) != long {
		t.Errorf("user.x is %q, %v", buf[:max(n, 0)], err)
	}
	if _, err := unix.Getxattr(file, "trusted.y", buf); err != nil {
		t.Errorf("trusted.y: %v", err)
	}
}

func TestReadVars(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef"
	for _, tt := range []struct {
		name, hostname, machineID string
		want                      Vars
		err                       string
	}{
		{"all", "# name\n\nkiosk-7\n", id + "\n", Vars{"hostname": "kiosk-7", "machine_id": id, "root_uuid": "u"}, ""},
		{"empty", "", "", Vars{"root_uuid": "u"}, ""},
		{"uninitialized", "h", "uninitialized\n", Vars{"hostname": "h", "root_uuid": "u"}, ""},
		{"hostile", "a b;$(reboot)\n", "../../x\n", Vars{"root_uuid": "u"}, "is no hostname"},
		{"escape", "\x1b[2J\n", id, Vars{"machine_id": id, "root_uuid": "u"}, "is no hostname"},
	} {
		root := t.TempDir()
		put(t, root+"/etc/hostname", tt.hostname)
		put(t, root+"/etc/machine-id", tt.machineID)
		got, err := ReadVars(root, "u", "")
		if diff := cmp.Diff(tt.want, got); diff != "" || (err == nil) != (tt.err == "") || !strings.Contains(fmt.Sprint(err), tt.err) {
			t.Errorf("%s: %v, want %q (-want +got):\n%s", tt.name, err, tt.err, diff)
		}
	}
	if got, err := ReadVars(t.TempDir(), "", ""); err != nil || len(got) != 0 {
		t.Errorf("ReadVars(empty system) = %v, %v", got, err)
	}
}

func FuzzRewrite(f *testing.F) {
	f.Add("a\r\nb", "^(a)$", "x$1")
	f.Add("", "z", "y")
	f.Add("k=1\n\n", "^k=", "${hostname}$$")
	f.Fuzz(func(t *testing.T, content, match, replace string) {
		r := rule(match, "", config.MissingAppend)
		if r.Match.UnmarshalText([]byte(match)) != nil || r.Replace.UnmarshalText([]byte(replace)) != nil || replace == "" {
			return
		}
		old := splitText([]byte(content))
		if got := string(old.join()); got != content {
			t.Fatalf("split and joined %q is %q", content, got)
		}
		once, _, err := old.apply(r, someVars())
		if err != nil {
			return
		}
		// A last line that becomes empty is none, when it has no ending.
		emptied := len(once) > 0 && once[len(once)-1] == line{}
		if len(content) > 0 && !emptied && strings.HasSuffix(content, "\n") != bytes.HasSuffix(once.join(), []byte("\n")) {
			t.Errorf("%q and %q end differently", content, once.join())
		}
		twice, lines, err := splitText(once.join()).apply(r, someVars())
		if err == nil && !emptied && (lines != 0 || !bytes.Equal(twice.join(), once.join())) {
			t.Errorf("%q becomes %q, then %q", content, once.join(), twice.join())
		}
	})
}
