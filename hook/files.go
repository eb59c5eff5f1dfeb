package hook

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

// temporaryName is what the new content is written under, beside the file.
const temporaryName = ".reimager-rewrite"

// openText opens a regular file beneath the root for reading; at is where it lies
// when all links are followed.
func openText(root *os.Root, name string) (f *os.File, at string, err error) {
	if at, err = resolve(root, name); err != nil {
		return nil, "", err
	}
	info, err := root.Lstat(at)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("it is no regular file but %s", kindOf(info.Mode()))
	}
	if err != nil {
		return nil, at, err
	}
	// O_NONBLOCK: should it be a FIFO by now, opening must not wait for a writer.
	f, err = root.OpenFile(at, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	return f, at, err
}

func kindOf(m fs.FileMode) string {
	switch m.Type() {
	case fs.ModeDir:
		return "a directory"
	case fs.ModeNamedPipe:
		return "a FIFO"
	case fs.ModeSocket:
		return "a socket"
	}
	return "a device"
}

func readText(f *os.File) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(content) > maxFile {
		err = fmt.Errorf("it has more than %d bytes", maxFile)
	}
	return content, err
}

// maxLinks is the kernel's MAXSYMLINKS.
const maxLinks = 40

// resolve follows the links of an absolute path as a process would whose root is
// root: absolute ones start there, and ".." ends there. os.Root alone refuses absolute
// links, which systems are full of. Nothing else changes the tree meanwhile; if
// something did, os.Root would still not leave it.
func resolve(root *os.Root, name string) (string, error) {
	todo := strings.Split(name, "/")
	at := "."
	for links := 0; len(todo) > 0; {
		next := todo[0]
		todo = todo[1:]
		switch next {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		info, err := root.Lstat(path.Join(at, next))
		if err != nil {
			return "", err
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > maxLinks {
				return "", unix.ELOOP
			}
			target, err := root.Readlink(path.Join(at, next))
			if err != nil {
				return "", err
			}
			if path.IsAbs(target) {
				at = "."
			}
			todo = append(strings.Split(target, "/"), todo...)
			continue
		case !info.IsDir() && len(todo) > 0:
			return "", unix.ENOTDIR
		}
		at = path.Join(at, next)
	}
	return at, nil
}

// replaceFile gives the file at a path new content with mode, owner and extended
// attributes of the old, in one step that a crash cannot halve.
func replaceFile(root *os.Root, at string, old *os.File, content []byte) (err error) {
	temporary := path.Join(path.Dir(at), temporaryName)
	// One of an attempt that was cut short.
	if err := root.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return explainFull(err)
	}
	_, err = f.Write(content)
	if err == nil {
		err = copyAttributes(f, old)
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = root.Rename(temporary, at)
	}
	if err != nil {
		return explainFull(errors.Join(err, root.Remove(temporary)))
	}
	dir, err := root.Open(path.Dir(at))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func explainFull(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return report.Hint(err, "the image leaves no room on that filesystem")
	}
	return err
}

// copyAttributes: the owner first, since chown clears setuid and capabilities.
func copyAttributes(to, from *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &st); err != nil {
		return fmt.Errorf("read attributes: %w", err)
	}
	if err := to.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(int(to.Fd()), st.Mode&0o7777); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	names, err := attributeNames(int(from.Fd()))
	if err != nil {
		return fmt.Errorf("list extended attributes: %w", err)
	}
	for _, name := range names {
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Fgetxattr(int(from.Fd()), name, value)
		if err == nil {
			err = unix.Fsetxattr(int(to.Fd()), name, value[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("copy extended attribute %s: %w", name, err)
		}
	}
	return nil
}

func attributeNames(fd int) ([]string, error) {
	buf := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(fd, buf)
	if err == unix.ENOTSUP {
		return nil, nil // vfat has none
	}
	return strings.FieldsFunc(string(buf[:max(n, 0)]), func(c rune) bool { return c == 0 }), err
}
