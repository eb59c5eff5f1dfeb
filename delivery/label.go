package delivery

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

const selinux = "security.selinux"

// label gives what was just made the SELinux label of its folder, as a kernel with a
// policy does unless a rule says otherwise (security_compute_create(3)); init has no
// policy, so without this a system that enforces one finds it unlabelled. In the reference
// policy all folders that are written to here have the type of their files. What has a
// label, and what lies in a folder without one, stays as it is.
func label(root *os.Root, name string) error {
	dir, err := root.Open(path.Dir(name))
	if err != nil {
		return fmt.Errorf("label /%s: %w", name, err)
	}
	defer dir.Close()
	buf := make([]byte, 64<<10) // XATTR_SIZE_MAX of linux/limits.h
	n, err := unix.Fgetxattr(int(dir.Fd()), selinux, buf)
	// ENODATA: no label. ENOTSUP: a filesystem that has none.
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read label of /%s: %w", path.Dir(name), err)
	}
	// By its folder's descriptor: a link cannot be opened, and none on the way is followed.
	at := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), path.Base(name))
	err = unix.Lsetxattr(at, selinux, buf[:n], unix.XATTR_CREATE)
	if err != nil && !errors.Is(err, unix.EEXIST) { // EEXIST: the kernel has labelled it
		return fmt.Errorf("label /%s: %w", name, err)
	}
	return nil
}

// makeFolder makes a folder and those above it, and labels each that it makes.
func makeFolder(root *os.Root, dir string) error {
	if dir == "." {
		return nil
	}
	if _, err := root.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeFolder(root, path.Dir(dir)); err != nil {
		return err
	}
	if err := root.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return label(root, dir)
}
