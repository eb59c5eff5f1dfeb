package accounts

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"reimager/report"
)

// Apply writes the merged files that differ beneath the root that was read as
// the new system, passwd last. Each is replaced by a file with the same owner, mode
// and extended attributes, or left as it was. A file that is no longer what was
// read is an error.
func Apply(root *os.Root, m *Merged) error {
	for k := range kinds {
		if m.was.files[k] == m.is.files[k] {
			continue
		}
		if err := replace(root, k, m); err != nil {
			return fmt.Errorf("write %s/%s: %w", root.Name(), k.path(), err)
		}
	}
	return nil
}

// Verify reads the files beneath a root and says which are not as merged.
func Verify(root *os.Root, m *Merged) error {
	var all []error
	for k := range kinds {
		text, present, err := readFile(root, k.path())
		if err == nil && (content{present, text}) != m.is.files[k] {
			err = fmt.Errorf("verify %s/%s: it is not what was merged", root.Name(), k.path())
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

// temporaryPrefix begins the name of a file that is not complete. One that a power
// cut left behind is removed by the next Apply.
const temporaryPrefix = ".reimager-"

func replace(root *os.Root, k kind, m *Merged) error {
	name, err := resolve(root, k.path())
	if err != nil {
		return err
	}
	is, err := traitsOf(root, k, m.was.files[k])
	if err != nil {
		return err
	}
	dir, base := path.Split(name)
	temporary := dir + temporaryPrefix + base
	if err := root.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return cause(err)
	}
	err = write(root, temporary, m.is.files[k].text, is)
	if err == nil {
		if err = cause(root.Rename(temporary, name)); errors.Is(err, unix.EPERM) {
			err = report.Hint(err, "is the file immutable (lsattr), or its folder?")
		}
	}
	if err != nil {
		// It holds hashes. There is none if it could not be made.
		if left := root.Remove(temporary); left != nil && !errors.Is(left, fs.ErrNotExist) {
			err = errors.Join(err, cause(left))
		}
		return err
	}
	return syncDir(root, dir)
}

// traits are what a file keeps when it is replaced.
type traits struct {
	uid, gid int
	mode     uint32 // with set-id bits, as chmod(2) has them
	xattrs   []xattr
}

type xattr struct {
	name  string
	value []byte
}

// traitsOf reads the traits of the file that is to be replaced, or returns those
// of one that is to be made, after a look at the content: it has to be what the
// merge began with.
func traitsOf(root *os.Root, k kind, was content) (traits, error) {
	f, err := openFile(root, k.path())
	if errors.Is(err, fs.ErrNotExist) {
		if was.present {
			return traits{}, errors.New("it was there when it was read")
		}
		return newTraits(root, k)
	}
	if err != nil {
		return traits{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return traits{}, cause(err)
	}
	if !was.present || string(text) != was.text {
		return traits{}, errors.New("it changed after it was read")
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return traits{}, fmt.Errorf("fstat: %w", err)
	}
	xattrs, err := readXattrs(int(f.Fd()))
	return traits{int(st.Uid), int(st.Gid), st.Mode & 0o7777, xattrs}, err
}

// newTraits gives a file that the system lacks root as owner, and the SELinux label of
// one that has the same type in the reference policy.
func newTraits(root *os.Root, k kind) (traits, error) {
	t, like := traits{mode: 0o644}, map[kind][]kind{
		shadow: {gshadow}, subuid: {subgid, passwd}, subgid: {subuid, passwd},
	}
	if k == shadow || k == gshadow {
		t.mode = 0o600
	}
	for _, sibling := range like[k] {
		f, err := openFile(root, sibling.path())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return traits{}, err
		}
		all, err := readXattrs(int(f.Fd()))
		f.Close()
		if err != nil {
			return traits{}, err
		}
		for _, x := range all {
			if x.name == "security.selinux" {
				t.xattrs = append(t.xattrs, x)
			}
		}
		break
	}
	return t, nil
}

func readXattrs(fd int) ([]xattr, error) {
	buf := make([]byte, 64<<10) // XATTR_LIST_MAX and XATTR_SIZE_MAX of linux/limits.h
	n, err := unix.Flistxattr(fd, buf)
	// ENOTSUP: a filesystem without extended attributes has none to keep.
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	var all []xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		// These sign the content, or the file that has it: the new one has another.
		if name == "security.ima" || name == "security.evm" {
			continue
		}
		n, err := unix.Fgetxattr(fd, name, buf)
		if err != nil {
			return nil, fmt.Errorf("read extended attribute %s: %w", name, err)
		}
		all = append(all, xattr{name, append([]byte(nil), buf[:n]...)})
	}
	return all, nil
}

func write(root *os.Root, name, text string, is traits) (err error) {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return cause(err)
	}
	defer func() { err = errors.Join(err, cause(f.Close())) }()
	if _, err := io.WriteString(f, text); err != nil {
		return cause(err)
	}
	fd := int(f.Fd())
	// The owner first: changing it clears set-id bits.
	if err := unix.Fchown(fd, is.uid, is.gid); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	// The mode before an ACL, whose mask it would change, and again behind it is the
	// same mode.
	if err := unix.Fchmod(fd, is.mode); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	for _, x := range is.xattrs {
		if err := unix.Fsetxattr(fd, x.name, x.value, 0); err != nil {
			return fmt.Errorf("set extended attribute %s: %w", x.name, err)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync: %w", cause(err))
	}
	return nil
}

func syncDir(root *os.Root, dir string) error {
	d, err := root.Open("./" + dir)
	if err != nil {
		return cause(err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync its folder: %w", cause(err))
	}
	return nil
}
