package retain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// capability is a vfs_cap_data of revision 2 that grants CAP_NET_BIND_SERVICE.
const capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// aclFor is a posix_acl_xattr: user::rw-, user:1000:r--, group::r--, mask::r--, other::---.
const aclFor = "\x02\x00\x00\x00" +
	"\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" + "\x04\x00\x04\x00\xff\xff\xff\xff" +
	"\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"

// oddTree has all that a root can hold and that is easily lost.
func oddTree(t testing.TB) string {
	t.Helper()
	root := tree(t,
		"etc/passwd=root:x:0:0:::\nkiosk:x:1001:1001:::\n", "etc/group=root:x:0:\nkiosk:x:1001:\n",
		"k/with space=1", "k/new\nline=2", "k/bad\xff\xfeutf8=3", "k/ü=4", "k/"+strings.Repeat("n", 255)+"=5",
		"k/"+strings.Repeat("d", 200)+"/"+strings.Repeat("e", 200)+"/f=6", "k/a/key=from a", "k/b/key=from b",
		"k/empty=", "k/-dash=7", "k/emptydir/", "k/link/abs=-> /etc/passwd", "k/link/root=-> /", "k/link/up=-> ..",
		"k/link/loop=-> loop", "k/link/bad=-> \xff\n", "k/link/long=-> "+strings.Repeat("x/", 1000),
		"k/hard/one=linked", "k/su=setuid", "k/cap=capable", "k/acl=acl", "k/old=o", "k/new=n", "k/zero=z", "k/dir/")
	at := func(rel string) string { return filepath.Join(root, "k", rel) }
	check(t, os.Link(at("hard/one"), at("b/two")))
	check(t, os.Link(at("hard/one"), at("zzz")))
	check(t, os.Link(at("link/abs"), at("link/twin")))
	check(t, unix.Mkfifo(at("fifo"), 0o640))
	check(t, unix.Mknod(at("char"), unix.S_IFCHR|0o620, int(unix.Mkdev(4, 300))))
	check(t, unix.Mknod(at("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
	check(t, os.WriteFile(at("large"), bytes.Repeat([]byte("0123456789abcde\n"), bufferBytes/8+1), 0o600))
	check(t, os.WriteFile(at("exact"), make([]byte, bufferBytes), 0o600))
	for _, owned := range []string{"a", "a/key", "su", "link/up", "fifo", "new\nline"} {
		check(t, unix.Lchown(at(owned), 1001, 1001))
	}
	check(t, unix.Chown(at("b/key"), 4242, 4343))
	for rel, mode := range map[string]uint32{"su": 0o6755, "dir": 0o1777, "a/key": 0o600, "a": 0o700, "emptydir": 0o2750, "zero": 0} {
		check(t, unix.Chmod(at(rel), mode))
	}
	for _, x := range []struct{ rel, name, value string }{
		{"cap", xattrCapability, capability}, {"acl", "system.posix_acl_access", aclFor},
		{"dir", "system.posix_acl_default", aclFor}, {"a/key", "user.a=b%", "\x00\xff\n"}, {"a/key", "user.empty", ""},
		{"b", "trusted.t", "x"}, {"link/abs", "trusted.link", "y"}, {"fifo", "trusted.fifo", strings.Repeat("z", 900)},
	} {
		check(t, unix.Lsetxattr(at(x.rel), x.name, []byte(x.value), 0))
	}
	for rel, when := range map[string]unix.Timespec{
		"old": {Sec: -86400*365*30 - 1, Nsec: 123456789}, "new": {Sec: 4102444800, Nsec: 999999999}, "zero": {},
		"link/up": {Sec: -1, Nsec: 1}, "dir": {Sec: 1e9, Nsec: 5}, "b": {Sec: 1e9, Nsec: 6}, "fifo": {Sec: 1e9, Nsec: 7}, "": {Sec: 1e9, Nsec: 8},
	} {
		check(t, unix.UtimesNanoAt(unix.AT_FDCWD, at(rel), []unix.Timespec{when, when}, unix.AT_SYMLINK_NOFOLLOW))
	}
	return root
}

func TestRoundTrip(t *testing.T) {
	needRoot(t)
	old := oddTree(t)
	archive, summary := capture(t, scan(t, old, "/k"))
	again, _ := capture(t, scan(t, old, "/k"))
	if !bytes.Equal(archive, again) {
		t.Error("two captures of the same files differ")
	}
	target := tree(t, "etc/passwd=root:x:0:0:::\nkiosk:x:1001:1001:::\n", "etc/group=root:x:0:\nkiosk:x:1001:\n")
	report := restore(t, target, archive, Options{})
	if len(report.Conflicts)+len(report.Lost) != 0 {
		t.Errorf("conflicts %v, lost %v; want none", report.Conflicts, report.Lost)
	}
	if diff := cmp.Diff([]Difference(nil), verify(t, target, archive, Options{})); diff != "" {
		t.Error(diff)
	}
	compareTrees(t, filepath.Join(old, "k"), filepath.Join(target, "k"))
	want := []Unmapped{{Kind: "user", ID: 1000, Files: 2} /* in the ACLs of k/acl and k/dir */, {Kind: "user", ID: 4242, Files: 1}, {Kind: "group", ID: 4343, Files: 1}}
	if diff := cmp.Diff(want, report.Unmapped); diff != "" {
		t.Error(diff)
	}
	for i, e := range report.Entries {
		if diff := cmp.Diff(summary.Entries[i], e.Record); diff != "" {
			t.Errorf("capture and restore tell differently of a file: %s", diff)
		}
	}
	t.Run("unpacked by tar", func(t *testing.T) { unpackWithTar(t, old, archive) })
	t.Run("over itself", func(t *testing.T) {
		for _, e := range restore(t, target, archive, Options{}).Entries {
			if !e.Replaced {
				t.Errorf("%s was there and is not told as replaced", e.Path)
			}
		}
		compareTrees(t, filepath.Join(old, "k"), filepath.Join(target, "k"))
	})
}

// unpackWithTar shows that the archive is a standard one.
func unpackWithTar(t *testing.T, old string, archive []byte) {
	for _, locale := range []string{"C", "C.UTF-8"} {
		dir := t.TempDir()
		for _, args := range [][]string{
			{"-x", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-p"},
			{"--compare", "--numeric-owner", "--xattrs"},
		} {
			cmd := exec.Command("tar", append(args, "-C", dir, "-f", "-")...)
			cmd.Env = append(os.Environ(), "LC_ALL="+locale)
			cmd.Stdin = bytes.NewReader(archive)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("LC_ALL=%s tar %s: %v\n%s", locale, args[0], err, out)
			}
		}
		compareTrees(t, filepath.Join(old, "k"), filepath.Join(dir, "k"))
	}
}

// compareTrees shares no code with capture and restore.
func compareTrees(t testing.TB, want, got string) {
	t.Helper()
	if diff := cmp.Diff(describeTree(t, want), describeTree(t, got)); diff != "" {
		t.Errorf("trees differ (-want +got):\n%s", diff)
	}
}

func describeTree(t testing.TB, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	firstName := map[uint64]string{}
	check(t, filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		check(t, err)
		st := lstat(t, path)
		rel := strings.TrimPrefix(path, root)
		if !info.IsDir() {
			if first, again := firstName[st.Ino]; again {
				all[rel] = "same as " + first
				return nil
			}
			firstName[st.Ino] = rel
		}
		text := fmt.Sprintf("mode %o owner %d:%d time %v rdev %x nlink %d", st.Mode, st.Uid, st.Gid, st.Mtim, st.Rdev, st.Nlink)
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			check(t, err)
			text += fmt.Sprintf(" content %.40q of %d", content, len(content))
		}
		if info.Mode()&os.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			check(t, err)
			text += " to " + target
		}
		buf := make([]byte, 1<<16)
		n, err := unix.Llistxattr(path, buf)
		check(t, err)
		for name := range strings.SplitSeq(strings.Trim(string(buf[:n]), "\x00"), "\x00") {
			if name != "" {
				value := make([]byte, 1<<16)
				n, err := unix.Lgetxattr(path, name, value)
				check(t, err)
				text += fmt.Sprintf(" %q=%q", name, value[:n])
			}
		}
		all[rel] = text
		return nil
	}))
	return all
}

func TestOwners(t *testing.T) {
	needRoot(t)
	old := tree(t, "etc/passwd=root:x:0:0:::\nann:x:1000:1000:::\nbob:x:1001:1001:::\nsvc:x:998:998:::\n",
		"etc/group=root:x:0:\nann:x:1000:\nbob:x:1001:\nsvc:x:998:\n",
		"d/ann=", "d/bob=", "d/svc=", "d/nobody=", "d/root=")
	for name, id := range map[string]int{"ann": 1000, "bob": 1001, "svc": 998, "nobody": 555, "root": 0} {
		check(t, unix.Chown(filepath.Join(old, "d", name), id, id))
	}
	// ann and bob have swapped, svc is gone and another has its number.
	newAccounts := []string{"etc/passwd=root:x:0:0:::\nann:x:1001:1001:::\nbob:x:1000:1000:::\nthief:x:998:998:::\n",
		"etc/group=root:x:0:\nann:x:2001:\nbob:x:2000:\n"}
	archive, _ := capture(t, scan(t, old, "/d"))
	withPasswd, _ := capture(t, scan(t, old, "/d", "/etc/passwd", "/etc/group"))
	for _, test := range []struct {
		name     string
		archive  []byte
		opts     Options
		want     map[string]string
		unmapped []Unmapped
	}{
		{"by name", archive, Options{Owners: ByName},
			map[string]string{"ann": "1001:2001", "bob": "1000:2000", "svc": "998:998", "nobody": "555:555", "root": "0:0"},
			[]Unmapped{{Kind: "user", ID: 555, Files: 1}, {Kind: "group", ID: 555, Files: 1},
				{Kind: "user", Name: "svc", ID: 998, TakenBy: "thief", Files: 1}, {Kind: "group", Name: "svc", ID: 998, Files: 1}}},
		{"by id", archive, Options{Owners: ByID},
			map[string]string{"ann": "1000:1000", "bob": "1001:1001", "svc": "998:998", "nobody": "555:555", "root": "0:0"}, []Unmapped{}},
		{"the account files are kept too", withPasswd, Options{Owners: ByName},
			map[string]string{"ann": "1000:1000", "bob": "1001:1001", "svc": "998:998", "nobody": "555:555", "root": "0:0"},
			[]Unmapped{{Kind: "user", ID: 555, Files: 1}, {Kind: "group", ID: 555, Files: 1}}},
	} {
		target := tree(t, newAccounts...)
		report := restore(t, target, test.archive, test.opts)
		got := map[string]string{}
		for name := range test.want {
			got[name] = ownerOf(lstat(t, target, "d", name))
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
		if diff := cmp.Diff(test.unmapped, report.Unmapped); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
		if diff := cmp.Diff([]Difference(nil), verify(t, target, test.archive, test.opts)); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}

// Each way in which a restored file can be wrong is found, and named.
func TestVerifyFindsDifferences(t *testing.T) {
	needRoot(t)
	old := tree(t, "d/f=content", "d/l=-> x", "d/h=h")
	check(t, os.Link(filepath.Join(old, "d/h"), filepath.Join(old, "d/h2")))
	check(t, unix.Setxattr(filepath.Join(old, "d/f"), "user.x", []byte("v"), 0))
	archive, _ := capture(t, scan(t, old, "/d"))
	for _, test := range []struct {
		want   string
		change func(dir string) error
	}{
		{"/d/f content", func(d string) error {
			st := lstat(t, d, "f")
			return errors.Join(os.WriteFile(d+"/f", []byte("c0ntent"), 0o644), os.Chtimes(d+"/f", time.Time{}, time.Unix(st.Mtim.Unix())))
		}},
		{"/d/f mode", func(d string) error { return os.Chmod(d+"/f", 0o600) }},
		{"/d/f uid", func(d string) error { return os.Chown(d+"/f", 1, 0) }},
		{"/d/f gid", func(d string) error { return os.Chown(d+"/f", 0, 1) }},
		{"/d/f mtime", func(d string) error { return os.Chtimes(d+"/f", time.Time{}, time.Unix(5, 5)) }},
		{"/d/f extended attribute user.x", func(d string) error { return unix.Setxattr(d+"/f", "user.x", []byte("w"), 0) }},
		{"/d/f extended attribute user.x", func(d string) error { return unix.Removexattr(d+"/f", "user.x") }},
		{"/d/f extended attribute user.y", func(d string) error { return unix.Setxattr(d+"/f", "user.y", []byte("w"), 0) }},
		{"/d/l link target", func(d string) error {
			st := lstat(t, d, "l")
			return errors.Join(os.Remove(d+"/l"), os.Symlink("y", d+"/l"),
				unix.UtimesNanoAt(unix.AT_FDCWD, d+"/l", []unix.Timespec{st.Mtim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW))
		}},
		{"/d/l type", func(d string) error { return errors.Join(os.Remove(d+"/l"), os.Mkdir(d+"/l", 0o777)) }},
		{"/d/l existence", func(d string) error { return os.Remove(d + "/l") }},
		{"/d/h2 hard link", func(d string) error {
			return errors.Join(os.Remove(d+"/h2"), os.WriteFile(d+"/h2", []byte("h"), 0o644))
		}},
	} {
		target := t.TempDir()
		restore(t, target, archive, Options{})
		dirTime := lstat(t, target, "d").Mtim
		check(t, test.change(filepath.Join(target, "d")))
		check(t, os.Chtimes(filepath.Join(target, "d"), time.Time{}, time.Unix(dirTime.Unix())))
		var got []string
		for _, d := range verify(t, target, archive, Options{}) {
			got = append(got, string(d.Path)+" "+d.What)
		}
		if diff := cmp.Diff([]string{test.want}, got); diff != "" {
			t.Errorf("%s: %s", test.want, diff)
		}
	}
}

func TestRecordsAsJSON(t *testing.T) {
	text, err := json.Marshal(Restored{Record: Record{Path: "/a\n\xff", Type: TypeFile, Bytes: 3, Mode: 0o4755,
		Owner: "kiosk(1001)", Group: "(7)", SHA256: "ab"}, UID: 5, GID: 6, Replaced: true})
	check(t, err)
	want := `{"path":"/a\\n\\xff","type":"file","bytes":3,"mode":"4755","old_owner":"kiosk(1001)","old_group":"(7)",` +
		`"sha256":"ab","new_uid":5,"new_gid":6,"replaced":true}`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Error(diff)
	}
	var back Restored
	check(t, json.Unmarshal(text, &back))
	if back.Path != "/a\n\xff" || back.Mode != 0o4755 {
		t.Errorf("read back as %+v", back)
	}
}
