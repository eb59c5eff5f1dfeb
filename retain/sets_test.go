package retain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// rootOf makes a root with files whose content is their own path.
func rootOf(t *testing.T, paths ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, p := range append([]string{"/etc/passwd", "/etc/group"}, paths...) {
		name := filepath.Join(root, p)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(p), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func planOf(t *testing.T, root, list string) (*Plan, error) {
	t.Helper()
	l, err := ParseList("list", strings.NewReader(list))
	if err != nil {
		t.Fatal(err)
	}
	return Scan(context.Background(), root, l)
}

func TestIdentity(t *testing.T) {
	kept := []string{
		"/etc/NetworkManager/system-connections/lan.nmconnection", "/etc/hostname", "/etc/machine-id", "/etc/netplan/01.yaml", "/etc/network/interfaces",
		"/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub", "/etc/sysconfig/network-scripts/ifcfg-eth0", "/etc/systemd/network/10-lan.network", "/etc/timezone",
	}
	root := rootOf(t, append(kept, "/etc/ssh/sshd_config", "/etc/hosts", "/etc/sysconfig/network-scripts/ifup")...)
	if err := os.Symlink("/usr/share/zoneinfo/Europe/Vienna", filepath.Join(root, "etc/localtime")); err != nil {
		t.Fatal(err)
	}
	plan, err := planOf(t, root, "@identity\n!/etc/netplan\n")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range plan.Entries {
		if e.Type != TypeDirectory {
			got = append(got, string(e.Path))
		}
	}
	slices.Sort(got)
	want := append(slices.DeleteFunc(slices.Clone(kept), func(p string) bool { return strings.Contains(p, "netplan") }), "/etc/localtime")
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("@identity keeps (-want +got):\n%s", diff)
	}
	if _, err := planOf(t, rootOf(t), "@identity\n"); err != nil {
		t.Errorf("@identity of a system that has nothing of it = %v; want no error", err)
	}
}

// A file that is merged is not kept as well.
func TestAccountsExcludeTheirFiles(t *testing.T) {
	root := rootOf(t, "/etc/hostname")
	for list, want := range map[string]string{"@accounts\n/etc\n": "@accounts merges it", "@accounts\n/etc/passwd\n": "@accounts merges it", "@accounts\n/etc\n!/etc/passwd\n!/etc/group\n": "", "@accounts\n": ""} {
		_, err := planOf(t, root, list)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: Scan = %v; want %q", list, err, want)
		}
	}
}

// What is attached travels in front, is found again, is plain tar, and is never put back.
func TestAttachment(t *testing.T) {
	old := rootOf(t, "/etc/hostname")
	plan, err := planOf(t, old, "/etc/hostname\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range []string{"accounts", "", strings.Repeat("x", 100_000)} {
		plan.Attach("a"+string(rune('0'+len(data)%10)), []byte(data))
	}
	var archive bytes.Buffer
	summary, err := Capture(t.Context(), plan, &archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	if summary.ArchiveBytes > plan.ArchiveBytes || len(summary.Entries) != 1 {
		t.Errorf("Capture: %d bytes, planned at most %d; entries %v", summary.ArchiveBytes, plan.ArchiveBytes, summary.Entries)
	}
	got, err := attachmentOf(bytes.NewReader(archive.Bytes()), "a8", 100)
	if err != nil || string(got) != "accounts" {
		t.Errorf("Attachment = %q, %v", got, err)
	}
	if got, err := attachmentOf(bytes.NewReader(archive.Bytes()), "other", 100); err != nil || got != nil {
		t.Errorf("Attachment of another name = %q, %v", got, err)
	}
	if _, err := attachmentOf(bytes.NewReader(archive.Bytes()), "a0", 100); err != nil {
		t.Errorf("Attachment of an empty one = %v", err)
	}
	if _, err := attachmentOf(bytes.NewReader(archive.Bytes()[:515]), "a8", 100); err == nil {
		t.Error("Attachment of a cut archive = nil")
	}
	list := exec.Command("tar", "-tf", "-")
	list.Stdin = bytes.NewReader(archive.Bytes())
	if out, err := list.CombinedOutput(); err != nil || !strings.Contains(string(out), ".reimager/a8\n") {
		t.Errorf("tar -t: %v\n%s", err, out)
	}
	fresh := rootOf(t)
	report, err := Restore(t.Context(), fresh, bytes.NewReader(archive.Bytes()), Options{})
	if err != nil || len(report.Entries) != 1 || len(report.Conflicts) != 0 {
		t.Errorf("Restore = %+v, %v; want /etc/hostname alone", report, err)
	}
	if _, err := os.Stat(filepath.Join(fresh, ".reimager")); err == nil {
		t.Error("the attachment was put back")
	}
	if differences, err := Verify(t.Context(), fresh, bytes.NewReader(archive.Bytes()), Options{}); err != nil || len(differences) != 0 {
		t.Errorf("Verify = %v, %v", differences, err)
	}
	if _, err := planOf(t, rootOf(t, "/.reimager/x"), "/.reimager\n"); err == nil || !strings.Contains(err.Error(), "needs this name") {
		t.Errorf("Scan of the reserved name = %v", err)
	}
}

// Accounts are merged before files are put back, so that a file finds its owner under
// the number that the merge gave him.
func TestAccountsAreMerged(t *testing.T) {
	needRoot(t)
	old := rootOf(t, "/srv/till")
	write := func(root, name, text string) {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	write(old, "passwd", "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\ntill:x:990:990::/:/bin/false\n")
	write(old, "group", "root:x:0:\nann:x:1000:\ntill:x:990:ann\n")
	write(old, "shadow", "root:$6$old$roothash:19000::::::\nann:$6$ann$hash:19000::::::\ntill:!:19000::::::\n")
	if err := os.Chown(filepath.Join(old, "srv/till"), 990, 990); err != nil {
		t.Fatal(err)
	}
	plan, err := planOf(t, old, "@accounts\n/srv/till\n")
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if _, err := Capture(t.Context(), plan, &archive, nil); err != nil {
		t.Fatal(err)
	}
	if int64(archive.Len()) > plan.ArchiveBytes {
		t.Errorf("archive: %d bytes, planned at most %d", archive.Len(), plan.ArchiveBytes)
	}
	fresh := rootOf(t)
	write(fresh, "passwd", "root:x:0:0::/root:/bin/bash\nsystemd-network:x:990:990::/:/bin/false\n")
	write(fresh, "group", "root:x:0:\nsystemd-network:x:990:\n")
	write(fresh, "shadow", "root:*:20000::::::\nsystemd-network:!*:20000::::::\n")
	before, err := Verify(t.Context(), fresh, bytes.NewReader(archive.Bytes()), Options{})
	if err != nil || len(before) == 0 || before[0].What != "accounts" {
		t.Errorf("Verify before = %v, %v; want the accounts to differ", before, err)
	}
	report, err := Restore(t.Context(), fresh, bytes.NewReader(archive.Bytes()), Options{})
	if err != nil {
		t.Fatal(err)
	}
	passwd, shadow := readFile(t, fresh+"/etc/passwd"), readFile(t, fresh+"/etc/shadow")
	if !strings.Contains(passwd, "\nann:x:1000:1000:") || !strings.Contains(passwd, "systemd-network:x:990:") || !strings.Contains(shadow, "root:$6$old$roothash:") || !strings.Contains(shadow, "ann:$6$ann$hash:") {
		t.Errorf("merged:\n%s%s", passwd, shadow)
	}
	owners, err := ReadAccounts(fresh)
	if err != nil {
		t.Fatal(err)
	}
	uid, ok := owners.UID("till")
	info, err := os.Stat(fresh + "/srv/till")
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Sys().(*syscall.Stat_t).Uid; !ok || uid == 990 || got != uid {
		t.Errorf("/srv/till belongs to %d; till is %d, %v", got, uid, ok)
	}
	if text, err := json.Marshal(report); err != nil || report.Accounts == nil || strings.Contains(string(text), "roothash") || strings.Contains(string(text), "$6$") {
		t.Errorf("the report has no accounts, or a hash: %v\n%s", err, text)
	}
	if differences, err := Verify(t.Context(), fresh, bytes.NewReader(archive.Bytes()), Options{}); err != nil || len(differences) != 0 {
		t.Errorf("Verify = %v, %v", differences, err)
	}
	if _, err := Restore(t.Context(), rootOf(t), bytes.NewReader(archive.Bytes()), Options{Owners: ByID}); err == nil || !strings.Contains(err.Error(), "keep their numbers") {
		t.Errorf("Restore by numbers = %v", err)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A new system whose accounts cannot be merged gets its files all the same, and the
// report says what happened; an old one whose passwords cannot be read is refused.
func TestAccountsThatCannotBeMerged(t *testing.T) {
	needRoot(t)
	old := rootOf(t, "/srv/till")
	write := func(root, name, text string) {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	write(old, "passwd", "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n")
	write(old, "group", "root:x:0:\nann:x:1000:\n")
	if _, err := planOf(t, old, "@accounts\n"); err == nil || !strings.Contains(err.Error(), "/etc/shadow") {
		t.Errorf("Scan without a shadow = %v; want it refused", err)
	}
	write(old, "shadow", "root:$6$x$y:1::::::\nann:$6$x$z:1::::::\n")
	plan, err := planOf(t, old, "@accounts\n/srv/till\n")
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if _, err := Capture(t.Context(), plan, &archive, nil); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(string) error{
		"no passwd":            func(etc string) error { return os.Remove(etc + "/passwd") },
		"shadow is a folder":   func(etc string) error { return os.Mkdir(etc+"/shadow", 0o700) },
		"shadow leads nowhere": func(etc string) error { return os.Symlink("/not/there/shadow", etc+"/shadow") },
	} {
		fresh := rootOf(t)
		write(fresh, "passwd", "root:x:0:0::/root:/bin/bash\n")
		write(fresh, "group", "root:x:0:\n")
		if err := spoil(fresh + "/etc"); err != nil {
			t.Fatal(err)
		}
		report, err := Restore(t.Context(), fresh, bytes.NewReader(archive.Bytes()), Options{})
		if err != nil || len(report.Entries) != 1 {
			t.Errorf("%s: Restore = %d entries, %v; want the file", name, len(report.Entries), err)
			continue
		}
		differences, err := Verify(t.Context(), fresh, bytes.NewReader(archive.Bytes()), Options{})
		for _, d := range differences {
			if d.Path != SetAccounts {
				t.Errorf("%s: Verify = %+v", name, d)
			}
		}
		if err != nil {
			t.Errorf("%s: Verify = %v", name, err)
		}
		if (len(report.Conflicts) > 0) != (len(differences) > 0) {
			t.Errorf("%s: conflicts %v, differences %v; want both or none", name, report.Conflicts, differences)
		}
	}
}

// Two paths of the old system that are one in the new: the first stays, the second is
// a conflict that names it.
func TestTwoPathsForOneFile(t *testing.T) {
	old := rootOf(t, "/lib/rules/a", "/usr/lib/rules/a")
	plan, err := planOf(t, old, "/lib/rules/a\n/usr/lib/rules/a\n")
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if _, err := Capture(t.Context(), plan, &archive, nil); err != nil {
		t.Fatal(err)
	}
	fresh := rootOf(t, "/usr/lib/rules/b")
	if err := os.Symlink("usr/lib", filepath.Join(fresh, "lib")); err != nil {
		t.Fatal(err)
	}
	report, err := Restore(t.Context(), fresh, &archive, Options{})
	if err != nil || len(report.Conflicts) != 1 || !strings.Contains(report.Conflicts[0].Why, "/lib/rules/a") {
		t.Errorf("Restore = %+v, %v; want one conflict that names the first", report.Conflicts, err)
	}
	if got := readFile(t, fresh+"/usr/lib/rules/a"); got != "/lib/rules/a" {
		t.Errorf("the file has %q; want that of the first", got)
	}
}

// attachmentOf returns the data that was attached under a name, or nil if the archive
// has none. It is an error if there are more than limit bytes.
func attachmentOf(archive io.Reader, name string, limit int64) ([]byte, error) {
	r := newReader(archive)
	for {
		h, err := r.header()
		if err == io.EOF {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read retained archive at byte %d: %w", r.at, err)
		}
		rel, err := beneath(h.name)
		if err != nil || !isAttachment(rel) {
			return nil, nil // they come first
		}
		if rel != attachmentDir+"/"+name || h.flag != flagFile {
			continue
		}
		if h.stored > limit {
			return nil, fmt.Errorf("read retained archive: %s has %d bytes, expected at most %d", rel, h.stored, limit)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, fmt.Errorf("read retained archive: %s: %w", rel, err)
		}
		return data, nil
	}
}
