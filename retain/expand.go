package retain

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// expansion finds what one pattern matches.
type expansion struct {
	s       *scanner
	p       *Pattern
	visited map[visit]bool
	matched bool
	why     string // why a pattern without globs matched nothing
}

// visit is a directory at a place in the pattern: with more than one ** the same
// is reached in many ways.
type visit struct {
	rel  string
	left int
}

// noMatch lists what means that a path isn't there: nothing, a file where a
// directory had to be, links that go round, a name longer than any.
func noMatch(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) ||
		errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENAMETOOLONG)
}

// expand matches the parts beneath the directory rel, whose names are names.
func (x *expansion) expand(rel string, names []string, parts []part) error {
	if err := x.s.ctx.Err(); err != nil {
		return fmt.Errorf("scan %s: %w", x.s.root.display(rel), err)
	}
	if parts[0].anyDepth {
		return x.anyDepth(rel, names, parts)
	}
	if name, ok := parts[0].literal(); ok {
		return x.take(rel, append(slices.Clone(names), name), parts)
	}
	found, err := x.readNames(rel)
	if err != nil {
		return err
	}
	for _, name := range found {
		if matchName(parts[0].tokens, name) {
			if err := x.take(rel, append(slices.Clone(names), name), parts); err != nil {
				return err
			}
		}
	}
	return nil
}

// take goes on with the last of names, which matched parts[0] in the directory rel.
func (x *expansion) take(rel string, names []string, parts []part) error {
	name := names[len(names)-1]
	if len(parts) > 1 {
		return x.expand(joinPath(rel, name), names, parts[1:])
	}
	child := joinPath(rel, name)
	dir, err := x.s.dirs.open(rel)
	var st unix.Stat_t
	if err == nil {
		st, err = lstatat(dir, name)
	}
	if noMatch(err) {
		x.why = err.Error()
		return nil
	}
	if err != nil {
		return fmt.Errorf("scan %s: %w", x.s.root.display(child), err)
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if x.p.dirOnly && !isDir {
		x.why = "is a " + string(typeOf(st.Mode)) + ", and the list asks for a directory"
		return nil
	}
	x.matched = true
	if x.s.list.excludesAbove(names, isDir) {
		return nil
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		x.warnOfLink(child)
	}
	return x.s.add(dir, child, name, &st)
}

// warnOfLink tells that a link was listed, and not the directory it leads to.
func (x *expansion) warnOfLink(rel string) {
	fd, err := x.s.root.open(rel, unix.O_PATH|unix.O_DIRECTORY)
	if err == nil {
		unix.Close(fd)
		x.s.surprise(rel, "is a symbolic link to a directory: the link is kept, what it leads to only if it is listed too")
	}
}

// anyDepth matches parts, which start with **, in the directory and in all
// directories below, links not followed.
func (x *expansion) anyDepth(rel string, names []string, parts []part) error {
	here := visit{rel, len(parts)}
	if x.visited[here] {
		return nil
	}
	x.visited[here] = true
	if err := x.expand(rel, names, parts[1:]); err != nil {
		return err
	}
	found, err := x.readNames(rel)
	if err != nil {
		return err
	}
	for _, name := range found {
		child := joinPath(rel, name)
		enter, err := x.entered(rel, name)
		if err != nil {
			return fmt.Errorf("scan %s: %w", x.s.root.display(child), err)
		}
		below := append(slices.Clone(names), name)
		if !enter || x.s.list.excludesAbove(below, true) {
			continue
		}
		if err := x.anyDepth(child, below, parts); err != nil {
			return err
		}
	}
	return nil
}

// entered says whether ** goes into an entry: a directory of a real filesystem.
func (x *expansion) entered(rel, name string) (bool, error) {
	dir, err := x.s.dirs.open(rel)
	if err != nil {
		return false, err
	}
	st, err := lstatat(dir, name)
	if err != nil {
		return false, err
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR && x.s.fs.kernel(st.Dev, dir, name) == "", nil
}

func (x *expansion) readNames(rel string) ([]string, error) {
	dir, err := x.s.dirs.open(rel)
	if noMatch(err) {
		x.why = err.Error()
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("scan %s: %w", x.s.root.display(rel), err)
	}
	names, err := readNames(dir)
	if err != nil {
		return nil, fmt.Errorf("scan %s: %w", x.s.root.display(rel), err)
	}
	return names, nil
}
