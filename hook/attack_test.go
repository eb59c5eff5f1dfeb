package hook

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"reimager/disk"
)

// attack tries, as a hook, everything that a root may do to reach the disk or the
// machine, and says how each attempt ended.
func attack(args []string) {
	diskPath, rdev := args[0], 0
	fmt.Sscan(args[1], &rdev)
	say := func(what string, err error) {
		var errno unix.Errno
		switch {
		case err == nil:
			fmt.Printf("%s: SUCCEEDED\n", what)
		case errors.As(err, &errno):
			fmt.Printf("%s: %s\n", what, unix.ErrnoName(errno))
		default:
			fmt.Printf("%s: %v\n", what, err)
		}
	}
	open := func(path string, flags int) error {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	if len(args) > 2 { // in a user namespace
		say("userns mount devtmpfs", unix.Mount("d", "/tmp", "devtmpfs", 0, ""))
		say("userns unmount the file of the disk", unix.Unmount(diskPath, unix.MNT_DETACH))
		say("userns remount /sys", unix.Mount("", "/sys", "", unix.MS_REMOUNT|unix.MS_BIND, ""))
		say("userns mknod", unix.Mknod("/tmp/u", unix.S_IFBLK|0o600, rdev))
		return
	}
	for _, dir := range []string{"/tmp", "/dev", "/run", "/dev/shm"} {
		say("mknod in "+dir, unix.Mknod(dir+"/evil", unix.S_IFBLK|0o600, rdev))
	}
	say("open a node that the image had", open("/data/stash", unix.O_WRONLY))
	say("write the disk", open(diskPath, unix.O_WRONLY))
	say("chmod the disk", unix.Chmod(diskPath, 0o666))
	say("remove the disk", unix.Unlink(diskPath))
	say("rename the disk", unix.Rename(diskPath, "/dev/x"))
	say("unmount the disk", unix.Unmount(diskPath, unix.MNT_DETACH))
	say("mount devtmpfs", unix.Mount("d", "/tmp", "devtmpfs", 0, ""))
	say("mount tmpfs", unix.Mount("d", "/tmp", "tmpfs", 0, ""))
	say("remount / with devices", unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND, ""))
	say("remount /sys", unix.Mount("", "/sys", "", unix.MS_REMOUNT|unix.MS_BIND, ""))
	say("core_pattern", open("/proc/sys/kernel/core_pattern", unix.O_WRONLY))
	say("sysrq-trigger", open("/proc/sysrq-trigger", unix.O_WRONLY))
	say("uevent of a disk", open("/sys/block/"+filepath.Base(diskPath)+"/uevent", unix.O_WRONLY))
	say("root of PID 1", open("/proc/1/root", unix.O_RDONLY))
	say("memory of PID 1", open("/proc/1/mem", unix.O_RDONLY))
	say("mounts of PID 1", open("/proc/1/ns/mnt", unix.O_RDONLY))
	say("trace PID 1", unix.PtraceAttach(1))
	say("pidfd_getfd of PID 1", func() error {
		fd, err := unix.PidfdOpen(1, 0)
		if err != nil {
			return fmt.Errorf("pidfd_open: %v", err)
		}
		_, err = unix.PidfdGetfd(fd, 3, 0)
		return err
	}())
	say("reboot", unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF))
	now := unix.Timeval{}
	say("clock", errors.Join(unix.Gettimeofday(&now), unix.Settimeofday(&now)))
	say("module", unix.InitModule([]byte("x"), ""))
	say("I/O ports", unix.Ioperm(0x70, 1, 1))
	say("kexec", func() error {
		if _, _, errno := unix.Syscall6(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0, 0, 0); errno != 0 {
			return errno
		}
		return nil
	}())
	say("open by handle", func() error {
		h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/etc", 0)
		if err != nil {
			return fmt.Errorf("name_to_handle_at: %v", err)
		}
		fd, err := unix.Open("/", unix.O_RDONLY, 0)
		if err == nil {
			_, err = unix.OpenByHandleAt(fd, h, unix.O_RDONLY)
		}
		return err
	}())
	say("reread the partition table", func() error {
		fd, err := unix.Open(diskPath+"p5", unix.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("open: %v", err)
		}
		// struct blkpg_ioctl_arg: op BLKPG_DEL_PARTITION (2), flags, datalen, data.
		part := make([]byte, 152)
		arg := struct {
			op, flags, length int32
			_                 int32
			data              unsafe.Pointer
		}{op: 2, length: 152, data: unsafe.Pointer(&part[0])}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), 0x1269, uintptr(unsafe.Pointer(&arg))); errno != 0 {
			return errno
		}
		return nil
	}())
	say("leave the root", leave())
	cmd := exec.Command(attackName)
	cmd.Args = append([]string{attackName}, args[0], args[1], "userns")
	cmd.Stdout = os.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		fmt.Printf("userns: %v\n", err)
	}
}

// leave is the classic way out of a chroot; it ends in an error if it leads back to
// the system that it left.
func leave() error {
	if err := errors.Join(os.MkdirAll("/tmp/jail", 0o755), unix.Chroot("/tmp/jail")); err != nil {
		return err
	}
	for range 64 {
		if err := unix.Chdir(".."); err != nil {
			return err
		}
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if _, err := os.Stat("/data/stash"); err == nil {
		return errors.New("back in the new system")
	}
	names, err := os.ReadDir("/")
	fmt.Println(names)
	return err
}

func TestAttacks(t *testing.T) {
	s := newSystem(t)
	before := s.mounts(t)
	var st unix.Stat_t
	if err := unix.Stat(s.disk.Path, &st); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(s.root, "data/stash"), unix.S_IFBLK|0o600, int(st.Rdev)); err != nil {
		t.Fatal(err)
	}
	s.copy(t, "/proc/self/exe", attackName)
	s.copyLibraries(t)
	sectors := s.snapshot(t)
	results, got, err := s.run(t, hook(attackName, s.disk.Path, fmt.Sprint(st.Rdev)))
	if err != nil || results[0].Err != nil {
		t.Fatal(results, err)
	}
	want := strings.Split(`mknod in /tmp: EPERM
mknod in /dev: EPERM
mknod in /run: EPERM
mknod in /dev/shm: EPERM
open a node that the image had: EACCES
write the disk: EROFS
chmod the disk: EROFS
remove the disk: EBUSY
rename the disk: EBUSY
unmount the disk: EPERM
mount devtmpfs: EPERM
mount tmpfs: EPERM
remount / with devices: EPERM
remount /sys: EPERM
core_pattern: EROFS
sysrq-trigger: EROFS or ENOENT
uevent of a disk: EROFS
root of PID 1: EACCES
memory of PID 1: EACCES
mounts of PID 1: EACCES
trace PID 1: EPERM
pidfd_getfd of PID 1: EPERM
reboot: EPERM
clock: EPERM
module: EPERM or ENOSYS
I/O ports: EPERM or ENOSYS
kexec: EPERM or ENOSYS
open by handle: EPERM
reread the partition table: EACCES
leave the root: back in the new system
userns mount devtmpfs: EPERM
userns unmount the file of the disk: EPERM or EINVAL
userns remount /sys: EPERM
userns mknod: EPERM`, "\n")
	// ENOSYS, ENOENT: a kernel that is built without.
	for i, w := range want {
		first, other, ok := strings.Cut(w, " or ")
		what, _, _ := strings.Cut(w, ":")
		if want[i] = first; ok && i < len(got) && got[i] == what+": "+other {
			want[i] = got[i]
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attacks (-want +got):\n%s", diff)
	}
	if err := s.compare(t, sectors); err != nil {
		t.Error(err)
	}
	s.mustBeFree(t, before)
}

// copyLibraries copies what the test's own binary is linked to, if cgo is on.
func (s *system) copyLibraries(t *testing.T) {
	t.Helper()
	if interpreter("/proc/self/exe") == "" {
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range strings.Fields(command(t, "", "ldd", self)) {
		if !strings.HasPrefix(word, "/") {
			continue
		}
		if err := os.MkdirAll(filepath.Join(s.root, filepath.Dir(word)), 0o755); err != nil {
			t.Fatal(err)
		}
		s.copy(t, word, word)
	}
}

func (s *system) open(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile(s.disk.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func (s *system) device(t *testing.T) *disk.Device {
	t.Helper()
	// Not disk.Open, whose O_EXCL the mounted root refuses.
	d, err := disk.OpenFile(s.disk.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func (s *system) snapshot(t *testing.T) *Sectors {
	t.Helper()
	table, err := disk.ReadTable(s.open(t), 512)
	if err != nil {
		t.Fatal(err)
	}
	sectors, err := Snapshot(Direct(s.device(t)), 512, table, GuardedBytes)
	if err != nil {
		t.Fatal(err)
	}
	return sectors
}

func (s *system) compare(t *testing.T, sectors *Sectors) error {
	t.Helper()
	return sectors.Compare(Direct(s.device(t)))
}

// The guard sees what no hook can do.
func TestGuardOnADisk(t *testing.T) {
	s := newSystem(t)
	sectors := s.snapshot(t)
	if err := s.compare(t, sectors); err != nil {
		t.Fatal(err)
	}
	if _, err := s.open(t).WriteAt(bytes.Repeat([]byte{1}, 1024), 7*512); err != nil {
		t.Fatal(err)
	}
	var changed *ChangedError
	if err := s.compare(t, sectors); !errors.As(err, &changed) || *changed != (ChangedError{First: 7, Sectors: 2}) {
		t.Errorf("Compare = %v; want two sectors from 7 on", err)
	}
}

// A hook's writes to partitions are its own affair, and those that hold boot data are
// no partitions to it.
func TestPartitionsAreWritable(t *testing.T) {
	s := newSystem(t)
	sectors := s.snapshot(t)
	results, got, err := s.run(t, shell("printf X | busybox dd of="+s.part(5)+" bs=1 seek=8 conv=notrunc 2>/dev/null; echo $?; ls "+s.part(2)))
	if err != nil {
		t.Fatal(err)
	}
	if results[0].Err == nil || got[0] != "0" || !strings.Contains(got[1], "No such file") {
		t.Errorf("got %q, %v", got, results[0].Err)
	}
	b := make([]byte, 9)
	p, _ := s.disk.Partition(5)
	if _, err := s.open(t).ReadAt(b, p.Start); err != nil || b[8] != 'X' {
		t.Errorf("partition 5 begins with %q, %v", b, err)
	}
	if err := s.compare(t, sectors); err != nil {
		t.Error(err)
	}
}
