package boot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParseMountinfo(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       []mount
		wantErr    string
	}{
		{"empty", "", nil, ""},
		{"man page", "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n",
			[]mount{{36, 98, 0, "/mnt1", "/mnt2", "ext3", "/dev/root"}}, ""},
		{"no optional field", "27 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n",
			[]mount{{27, 8, 1, "/", "/", "ext4", "/dev/sda1"}}, ""},
		{"two optional fields, no newline", "1 2 0:35 /@rootfs / rw shared:1 master:2 - btrfs /dev/sda2 rw",
			[]mount{{1, 0, 35, "/@rootfs", "/", "btrfs", "/dev/sda2"}}, ""},
		{"escapes", `1 2 8:1 /a\040b /m\011n\012o\134p\043 rw - ext4 /dev/x\040y rw`,
			[]mount{{1, 8, 1, "/a b", "/m\tn\no\\p#", "ext4", "/dev/x y"}}, ""},
		{"no octal stays", `1 2 8:1 /\09 /\4 rw - ext4 s rw`,
			[]mount{{1, 8, 1, `/\09`, `/\4`, "ext4", "s"}}, ""},
		{"empty source", "1 2 0:5 / /tmp rw - tmpfs  rw\n", []mount{{1, 0, 5, "/", "/tmp", "tmpfs", ""}}, ""},
		{"no separator", "1 2 8:1 / / rw ext4 /dev/sda1 rw\n", nil, "too few fields"},
		{"cut off", "1 2 8:1 / / rw - ext4", nil, "too few fields"},
		{"no device number", "1 2 8 / / rw - ext4 s rw", nil, "invalid syntax"},
		{"no mount id", "x 2 8:1 / / rw - ext4 s rw", nil, "invalid syntax"},
		{"relative mount point", "1 2 8:1 / mnt rw - ext4 s rw", nil, "not absolute"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseMountinfo(strings.NewReader(tc.text))
			checkError(t, err, tc.wantErr)
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(mount{})); diff != "" {
				t.Errorf("mounts (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLocate(t *testing.T) {
	dir := t.TempDir()
	host := hostPaths{proc: dir + "/proc", sys: dir + "/sys", dev: dir + "/dev"}
	writeFile(t, dir+"/sys/dev/block/8:5/uevent", "MAJOR=8\nMINOR=5\nDEVNAME=sda5\nDEVTYPE=partition\n")
	writeFile(t, dir+"/sys/dev/block/8:6/uevent", "MAJOR=8\nMINOR=6\n")
	for _, tc := range []struct {
		name    string
		m       mount
		path    string
		want    Location
		wantErr string
	}{
		{"root", mount{1, 8, 5, "/", "/", "ext4", "/dev/root"}, "/boot/grub",
			Location{Device: host.dev + "/sda5", FSType: "ext4", MountPoint: "/", PathInFS: "/boot/grub"}, ""},
		{"own partition", mount{1, 8, 5, "/", "/boot", "ext4", "x"}, "/boot/grub",
			Location{Device: host.dev + "/sda5", FSType: "ext4", MountPoint: "/boot", PathInFS: "/grub"}, ""},
		{"mount point itself", mount{1, 8, 5, "/", "/boot", "ext4", "x"}, "/boot",
			Location{Device: host.dev + "/sda5", FSType: "ext4", MountPoint: "/boot", PathInFS: "/"}, ""},
		{"bind mount", mount{1, 8, 5, "/srv/b", "/boot", "ext4", "x"}, "/boot/grub",
			Location{Device: host.dev + "/sda5", FSType: "ext4", MountPoint: "/boot", PathInFS: "/srv/b/grub"}, ""},
		{"btrfs subvolume", mount{1, 0, 35, "/@", "/", "btrfs", "/dev/sda2"}, "/boot",
			Location{Device: host.dev + "/sda2", FSType: "btrfs", MountPoint: "/", PathInFS: "/@/boot"}, ""},
		{"tmpfs", mount{1, 0, 5, "/", "/tmp", "tmpfs", "tmpfs"}, "/tmp/x", Location{}, "tmpfs on /tmp has no block device"},
		{"no DEVNAME", mount{1, 8, 6, "/", "/", "ext4", "x"}, "/x", Location{}, "no DEVNAME"},
		{"no such device", mount{1, 8, 7, "/", "/", "ext4", "x"}, "/x", Location{}, "8:7"},
		{"elsewhere", mount{1, 8, 5, "/", "/boot", "ext4", "x"}, "/bootx", Location{}, "not below"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := host.locate(tc.m, tc.path)
			checkError(t, err, tc.wantErr)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("location (-want +got):\n%s", diff)
			}
		})
	}
}

// TestHolding asks the kernel: a filesystem, a bind mount of it, a symlink.
func TestHolding(t *testing.T) {
	_, mountPoint := mountImage(t, "ext4")
	writeFile(t, mountPoint+"/sub dir/deep/file", "")
	bind := t.TempDir()
	if err := unix.Mount(mountPoint+"/sub dir", bind, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(bind, 0); err != nil {
			t.Error(err)
		}
	})
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(bind+"/deep", link); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ path, wantMount, want string }{
		{mountPoint, mountPoint, "/"},
		{mountPoint + "/sub dir/deep/file", mountPoint, "/sub dir/deep/file"},
		{bind, bind, "/sub dir"},
		{bind + "/deep/../deep/file", bind, "/sub dir/deep/file"},
		{link + "/file", bind, "/sub dir/deep/file"},
	} {
		got, err := Holding(tc.path)
		if err != nil {
			t.Fatal(err)
		}
		if got.MountPoint != tc.wantMount || got.PathInFS != tc.want || got.FSType != "ext4" {
			t.Errorf("Holding(%s) = %+v; want %s in the mount at %s", tc.path, got, tc.want, tc.wantMount)
		}
		if !strings.HasPrefix(got.Device, "/dev/loop") {
			t.Errorf("Holding(%s).Device = %s; want a loop device", tc.path, got.Device)
		}
	}
	_, err := Holding(mountPoint + "/missing")
	checkError(t, err, "no such file")
	_, err = Holding("/proc/self/status")
	checkError(t, err, "proc on /proc has no block device")
}

func FuzzMountinfo(f *testing.F) {
	f.Add("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n")
	f.Add(`1 2 8:1 /a\040b /m\011n rw shared:1 - ext4 /dev/x\134 rw`)
	f.Fuzz(func(t *testing.T, text string) {
		mounts, err := parseMountinfo(strings.NewReader(text))
		if err != nil && mounts != nil {
			t.Fatalf("mounts %v and error %v", mounts, err)
		}
		for _, m := range mounts {
			if !filepath.IsAbs(m.point) {
				t.Fatalf("mount point %q", m.point)
			}
		}
	})
}
