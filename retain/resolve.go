package retain

import (
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is the kernel's MAXSYMLINKS, so that both ways of resolving agree.
const maxLinks = 40

// walk does what openat2 with RESOLVE_IN_ROOT does, component by component. Of
// links in /proc it follows the text, which leads to a place inside the root,
// where openat2 refuses them.
func (r *Root) walk(rel string, flags int) (int, error) {
	w := walker{root: r.fd, todo: split(rel)}
	defer w.close()
	for len(w.todo) > 0 {
		name := w.todo[0]
		w.todo = w.todo[1:]
		done, err := w.step(name)
		if err != nil {
			return -1, err
		}
		if done {
			break
		}
	}
	return w.open(flags)
}

// split keeps an empty last component: "a/" has to be a directory.
func split(path string) []string {
	var names []string
	for name := range strings.SplitSeq(path, "/") {
		if name != "" && name != "." {
			names = append(names, name)
		}
	}
	if strings.HasSuffix(path, "/") || strings.HasSuffix(path, "/.") {
		names = append(names, ".")
	}
	return names
}

type walker struct {
	root  int
	above []int // directories on the way, for ".."
	todo  []string
	links int
	last  string // a last component that is no directory and not yet open
}

func (w *walker) at() int {
	if n := len(w.above); n > 0 {
		return w.above[n-1]
	}
	return w.root
}

// step goes one component further; done means that it was a last one that is no
// directory.
func (w *walker) step(name string) (done bool, err error) {
	switch name {
	case ".":
		return false, nil
	case "..":
		if n := len(w.above); n > 0 {
			unix.Close(w.above[n-1])
			w.above = w.above[:n-1]
		}
		return false, nil
	}
	fd, err := openat(w.at(), name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return false, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return false, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		w.above = append(w.above, fd)
		return false, nil
	case unix.S_IFLNK:
		defer unix.Close(fd)
		return false, w.follow(fd)
	}
	unix.Close(fd)
	if len(w.todo) > 0 {
		return false, unix.ENOTDIR
	}
	w.last = name
	return true, nil
}

func (w *walker) follow(link int) error {
	if w.links++; w.links > maxLinks {
		return unix.ELOOP
	}
	target, err := readlinkat(link, "")
	if err != nil {
		return err
	}
	if strings.HasPrefix(target, "/") {
		w.close()
	}
	w.todo = append(split(target), w.todo...)
	return nil
}

// open opens where the walk ended. O_NOFOLLOW: a link that has taken the place
// of the last component since is refused.
func (w *walker) open(flags int) (int, error) {
	name := w.last
	if name == "" {
		name = "."
	}
	return openat(w.at(), name, flags|unix.O_NOFOLLOW)
}

func (w *walker) close() {
	for _, fd := range w.above {
		unix.Close(fd)
	}
	w.above = nil
}
