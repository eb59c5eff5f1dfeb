package accounts

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// facts are what Apply has to keep of a file.
type facts struct {
	Inode    uint64
	Mode     uint32
	UID, GID uint32
	Label    string
	Text     string
}

func factsOf(t *testing.T, name string) facts {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		t.Fatalf("lstat %s: %v", name, err)
	}
	f := facts{Inode: st.Ino, Mode: st.Mode, UID: st.Uid, GID: st.Gid}
	buf := make([]byte, 100)
	if n, err := unix.Lgetxattr(name, "user.label", buf); err == nil {
		f.Label = string(buf[:n])
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	f.Text = string(b)
	return f
}

func TestApply(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("changing owners needs root")
	}
	dir := t.TempDir()
	old := set(t, "passwd="+rootLine+annLine, "group=root:x:0:|ann:x:1000:|", "shadow=ann:HASH:1::::::|", "subuid=ann:100000:65536|")
	put(t, dir, "etc/passwd", rootLineText(), 0o644)
	put(t, dir, "etc/passwd-", "backup", 0o600)
	put(t, dir, "etc/group", "root:x:0:\nann:x:1000:\n", 0o644)
	put(t, dir, "usr/secret/shadow", "root:*:1::::::\n", 0o600)
	link(t, "/usr/secret/shadow", filepath.Join(dir, "etc/shadow"))
	real := filepath.Join(dir, "usr/secret/shadow")
	if err := os.Chown(real, 12, 42); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(real, 0); err != nil { // as RHEL has it
		t.Fatal(err)
	}
	if err := unix.Setxattr(real, "user.label", []byte("shadow_t"), 0); err != nil {
		t.Fatalf("set an extended attribute in %s: %v: set TMPDIR to a filesystem that has them", dir, err)
	}
	put(t, dir, "usr/secret/.reimager-shadow", "left of a power cut", 0o600)
	root := openRoot(t, dir)
	new, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	m, _ := Merge(old, new, Options{})
	if diff := cmp.Diff([]string{"etc/shadow", "etc/subuid", "etc/passwd"}, m.Changed()); diff != "" {
		t.Fatalf("Changed (-want +got):\n%s", diff)
	}
	if err := Verify(root, m); err == nil || strings.Contains(err.Error(), "HASH") || strings.Count(err.Error(), "not what was merged") != 3 {
		t.Errorf("Verify before Apply = %v; want three files and no hash", err)
	}
	before := map[string]facts{}
	for _, name := range []string{"etc/passwd", "etc/passwd-", "etc/group", "usr/secret/shadow"} {
		before[name] = factsOf(t, filepath.Join(dir, name))
	}
	if err := Apply(root, m); err != nil {
		t.Fatal(err)
	}
	if err := Verify(root, m); err != nil {
		t.Errorf("Verify after Apply = %v; want nil", err)
	}
	for name, was := range before {
		got := factsOf(t, filepath.Join(dir, name))
		if changed := name == "etc/passwd" || name == "usr/secret/shadow"; changed == (got.Inode == was.Inode) {
			t.Errorf("%s: inode %d was %d; want another one only where the file changed", name, got.Inode, was.Inode)
		}
		was.Inode, got.Inode = 0, 0
		was.Text = map[string]string{
			"etc/passwd": rootLineText() + strings.ReplaceAll(annLine, "|", "\n"), "usr/secret/shadow": "root:*:1::::::\nann:HASH:1::::::\n",
			"etc/passwd-": "backup", "etc/group": "root:x:0:\nann:x:1000:\n",
		}[name]
		if diff := cmp.Diff(was, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if target, err := os.Readlink(filepath.Join(dir, "etc/shadow")); err != nil || target != "/usr/secret/shadow" {
		t.Errorf("etc/shadow is %q, %v; want the link that it was", target, err)
	}
	if got := factsOf(t, filepath.Join(dir, "etc/subuid")); got.Mode != unix.S_IFREG|0o644 || got.UID != 0 || got.Text != "ann:100000:65536\n" {
		t.Errorf("etc/subuid = %+v; want a new file, mode 0644", got)
	}
	for _, sub := range []string{"etc", "usr/secret"} {
		if left, err := filepath.Glob(filepath.Join(dir, sub, temporaryPrefix+"*")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
	// Again, from the start: nothing is written.
	again, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	if m, _ := Merge(old, again, Options{}); len(m.Changed()) > 0 {
		t.Errorf("a second merge changes %v", m.Changed())
	}
}

func TestApplyMakesShadow(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "etc/passwd", "root:*:0:0::/:\n", 0o644)
	put(t, dir, "etc/group", "", 0o644)
	root := openRoot(t, dir)
	new, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	m, _ := Merge(set(t, "passwd=root:H:0:0::/:|", "group="), new, Options{})
	if err := Apply(root, m); err != nil {
		t.Fatal(err)
	}
	if got := factsOf(t, filepath.Join(dir, "etc/shadow")); got.Mode != unix.S_IFREG|0o600 || got.Text != "root:H:::::::\n" {
		t.Errorf("etc/shadow = %+v; want mode 0600", got)
	}
}

func TestApplyRefuses(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(dir string)
		want  string
	}{
		{"changed", func(dir string) { put(t, dir, "etc/passwd", "other", 0o644) }, "etc/passwd: it changed after it was read"},
		{"gone", func(dir string) {
			if err := os.Remove(filepath.Join(dir, "etc/passwd")); err != nil {
				t.Fatal(err)
			}
		}, "etc/passwd: it was there when it was read"},
		{"appeared", func(dir string) { put(t, dir, "etc/shadow", "x", 0o600) }, "etc/shadow: it changed after it was read"},
		{"in the way", func(dir string) { put(t, dir, "etc/.reimager-shadow/x", "x", 0o600) }, "etc/shadow: directory not empty"},
	} {
		dir := t.TempDir()
		put(t, dir, "etc/passwd", rootLineText(), 0o644)
		put(t, dir, "etc/group", "", 0o644)
		root := openRoot(t, dir)
		new, err := Read(root)
		if err != nil {
			t.Fatal(err)
		}
		m, _ := Merge(set(t, "passwd="+annLine, "group="), new, Options{})
		test.spoil(dir)
		if err := Apply(root, m); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: Apply = %v; want %q", test.name, err, test.want)
		}
	}
}
