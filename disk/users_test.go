package disk

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// machine makes a /sys and a /proc out of files.
func machine(t *testing.T, files, links map[string]string) Sysfs {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range links {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.Symlink(to, name)); err != nil {
			t.Fatal(err)
		}
	}
	return Sysfs{Sys: filepath.Join(dir, "sys"), Proc: filepath.Join(dir, "proc")}
}

func TestUsers(t *testing.T) {
	s := machine(t, map[string]string{
		"sys/block/sda/size": "2048\n", "sys/block/sda/dev": "8:0\n", "sys/block/sda/queue/logical_block_size": "512\n",
		"sys/block/sda/sda1/partition": "1\n", "sys/block/sda/sda1/start": "1\n", "sys/block/sda/sda1/size": "9\n", "sys/block/sda/sda1/dev": "8:1\n",
		"sys/block/sda/sda2/partition": "2\n", "sys/block/sda/sda2/start": "10\n", "sys/block/sda/sda2/size": "9\n", "sys/block/sda/sda2/dev": "8:2\n",
		"sys/block/sda/sda2/holders/dm-0": "", "sys/block/dm-0/dm/name": "vg-root\n",
		"proc/self/mountinfo": "21 1 8:1 / /mnt/with\\040space rw - ext4 /dev/sda1 rw\n" +
			"22 1 0:33 / /data rw shared:1 - btrfs /dev/sda2 rw\n" + "23 1 9:9 / /other rw - ext4 /dev/sdb1 rw\nbroken\n",
		"proc/swaps":    "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n",
		"proc/17/comm":  "fio\n",
		"proc/18/other": "",
	}, map[string]string{"proc/17/fd/3": "/dev/sda", "proc/17/fd/4": "/dev/sda", "proc/18/fd/3": "/dev/sdb", "sys/dev/block/8:0": "../../block/sda", "sys/dev/block/8:1": "../../block/sda/sda1"})
	d, err := s.ByNode(8, 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Users(d)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/dev/sda1 is mounted at /mnt/with space", "/dev/sda2 is mounted at /data", "/dev/sda2 is swap",
		"/dev/sda2 is part of dm-0 (vg-root)",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Users (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"process 17 (fio) has /dev/sda open"}, s.OpenBy(d)); diff != "" {
		t.Errorf("OpenBy (-want +got):\n%s", diff)
	}
	if _, err := s.ByNode(8, 1); err == nil || err.Error() != "/dev/sda1 is a partition of /dev/sda" {
		t.Errorf("ByNode of a partition = %v", err)
	}
}
