package retain

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxPath bounds paths beneath a root, in bytes. It is more than PATH_MAX, as a
// walk from directory to directory reaches deeper than one system call.
const maxPath = 16 << 10

// Root is a directory beneath which paths are resolved: absolute links start at
// it, ".." ends at it. Mount points beneath it are crossed.
type Root struct {
	dir string
	fd  int
	// openat2 is false on kernels before Linux 5.6; resolve.go stands in.
	openat2 bool
}

// OpenRoot opens the directory dir as a root. The caller closes it.
func OpenRoot(dir string) (*Root, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open root %s: %w", dir, err)
	}
	r := &Root{dir: dir, fd: fd, openat2: true}
	probe, err := r.openBeneath(".", unix.O_PATH)
	switch {
	case err == nil:
		unix.Close(probe)
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
		// ENOSYS: an older kernel. EPERM: a seccomp filter that is older than
		// the call, as containers had (moby#42680).
		r.openat2 = false
	default:
		unix.Close(fd)
		return nil, fmt.Errorf("open root %s: %w", dir, err)
	}
	return r, nil
}

// Close releases the root.
func (r *Root) Close() error { return unix.Close(r.fd) }

// display names a path beneath the root in messages.
func (r *Root) display(rel string) string {
	return Path(filepath.Join(r.dir, "/") + "/" + rel).String()
}

// open opens a path beneath the root. Every symbolic link is followed, the last
// one too, but none leads out.
func (r *Root) open(rel string, flags int) (int, error) {
	if rel == "" {
		rel = "."
	}
	if len(rel) > maxPath {
		return -1, unix.ENAMETOOLONG
	}
	if r.openat2 {
		fd, err := r.openBeneath(rel, flags)
		if !errors.Is(err, unix.ENAMETOOLONG) {
			return fd, err
		}
		// Longer than PATH_MAX, or really a name that is too long: the walk tells.
	}
	return r.walk(rel, flags)
}

func (r *Root) openBeneath(rel string, flags int) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	// EAGAIN: a rename somewhere on the system raced with a "..", openat2(2).
	for tries := 0; ; tries++ {
		fd, err := unix.Openat2(r.fd, rel, &how)
		if err == unix.EINTR || (err == unix.EAGAIN && tries < 128) {
			continue
		}
		return fd, err
	}
}

// openDir opens a directory for reading names and for the calls that take a
// directory and a name.
func (r *Root) openDir(rel string) (int, error) {
	return r.open(rel, unix.O_RDONLY|unix.O_DIRECTORY)
}

// splitLast returns the directory of a path and its last name.
func splitLast(rel string) (dir, name string) {
	i := strings.LastIndexByte(rel, '/')
	if i < 0 {
		return "", rel
	}
	return rel[:i], rel[i+1:]
}

func joinPath(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// dirCache keeps the directories that were used last open, so that the files of
// one directory cost one walk.
type dirCache struct {
	root *Root
	dirs []cachedDir // least recently used first
}

type cachedDir struct {
	rel string
	fd  int
}

// cachedDirs is well below the usual limit of 1,024 open files. The two that
// were asked for last are always open still.
const cachedDirs = 64

// open returns a directory. It belongs to the cache and stays open until other
// directories have been asked for.
func (c *dirCache) open(rel string) (int, error) {
	for i := len(c.dirs) - 1; i >= 0; i-- {
		if c.dirs[i].rel == rel {
			hit := c.dirs[i]
			copy(c.dirs[i:], c.dirs[i+1:])
			c.dirs[len(c.dirs)-1] = hit
			return hit.fd, nil
		}
	}
	fd, err := c.root.openDir(rel)
	if err != nil {
		return -1, err
	}
	if len(c.dirs) == cachedDirs {
		unix.Close(c.dirs[0].fd)
		c.dirs = append(c.dirs[:0], c.dirs[1:]...)
	}
	c.dirs = append(c.dirs, cachedDir{rel, fd})
	return fd, nil
}

// flush forgets all: a directory or link that a cached path led through changed.
func (c *dirCache) flush() {
	for _, d := range c.dirs {
		unix.Close(d.fd)
	}
	c.dirs = c.dirs[:0]
}
