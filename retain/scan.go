package retain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"reimager/report"
)

// Plan is what a list keeps of a root: what Capture will write.
type Plan struct {
	Root    string  `json:"root"`
	Entries []Entry `json:"entries"` // parents before children; etc/passwd and etc/group first
	// ArchiveBytes is an upper bound of the archive's size.
	ArchiveBytes int64      `json:"archive_bytes"`
	ContentBytes int64      `json:"content_bytes"`
	Missing      []Missing  `json:"missing,omitempty"`          // required, and matched nothing
	MaybeMissing []Missing  `json:"missing_optional,omitempty"` // marked with a leading -
	Surprises    []Surprise `json:"surprises,omitempty"`

	accounts Accounts
	rootStat unix.Stat_t

	attachments []attachment
}

// Entry is one file to capture. Numbers are as in stat(2).
type Entry struct {
	Path       Path   `json:"path"`
	Type       Type   `json:"type"`
	Bytes      int64  `json:"bytes"` // of a file's content or a symbolic link's target
	Mode       Octal  `json:"mode"`
	UID        uint32 `json:"uid"`
	GID        uint32 `json:"gid"`
	HardLinkTo Path   `json:"hard_link_to,omitempty"`

	rel      string
	mtime    unix.Timespec
	dev, ino uint64
	rdev     uint64

	// What inspect found, which holds as long as ctime does.
	ctime          unix.Timespec
	stored         int64 // bytes in the archive: of the content without holes, and their map
	attributeBytes int64 // the PAX records of extended attributes and inode flags
	sparse         bool
	attributes     bool // it has some of these

	linked bool // has further names, perhaps among what is kept
}

// Missing is a pattern that matched nothing.
type Missing struct {
	Pattern string `json:"pattern"`
	Line    int    `json:"line"`
	Why     string `json:"why"`
	Set     string `json:"set,omitempty"` // that the pattern belongs to
}

// Surprise is something that a reader of the list may not expect.
type Surprise struct {
	Path Path   `json:"path"`
	Why  string `json:"why"`
}

// MissingError names all required patterns that matched nothing.
type MissingError struct {
	List    string
	Missing []Missing
}

func (e *MissingError) Error() string {
	lines := make([]string, len(e.Missing))
	for i, m := range e.Missing {
		lines[i] = fmt.Sprintf("find retained path %s (%s:%d): %s", Path(m.Pattern), e.List, m.Line, m.Why)
	}
	return strings.Join(lines, "\n")
}

// Scan finds what the list keeps of the root at rootDir. It reads names and
// attributes, no contents. The order of the plan depends on names alone.
//
// If required paths are missing the error is a *MissingError and the plan is
// complete all the same, for a caller who goes on without them. With any other
// error there is no plan.
func Scan(ctx context.Context, rootDir string, list List) (*Plan, error) {
	root, err := OpenRoot(rootDir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	s := &scanner{
		ctx: ctx, root: root, list: list,
		dirs: &dirCache{root: root},
		fs:   newFilesystems(),
		seen: map[string]bool{},
		plan: &Plan{Root: rootDir},
	}
	defer s.dirs.flush()
	if err := unix.Fstat(root.fd, &s.plan.rootStat); err != nil {
		return nil, fmt.Errorf("scan %s: %w", rootDir, err)
	}
	if s.plan.accounts, err = readAccounts(root); err != nil {
		return nil, err
	}
	if list.Accounts {
		if err := s.plan.attachAccounts(); err != nil {
			return nil, err
		}
	}
	s.inspection = newInspection(ctx, root, &s.plan.accounts)
	for i := 0; i < len(list.Patterns) && err == nil; i++ {
		err = s.pattern(&list.Patterns[i])
	}
	s.seen = nil // as large as the plan where there are many names
	if inspected := s.inspection.finish(s.plan); err == nil {
		err = inspected
	}
	if err != nil {
		return nil, err
	}
	s.plan.finish()
	if len(s.plan.Missing) > 0 {
		err := &MissingError{List: list.Name, Missing: s.plan.Missing}
		return s.plan, report.Hint(err, "write a - before a path that may be missing")
	}
	return s.plan, nil
}

type scanner struct {
	ctx        context.Context
	root       *Root
	list       List
	dirs       *dirCache
	fs         *filesystems
	seen       map[string]bool // by path
	plan       *Plan
	inspection *inspection
}

func (s *scanner) pattern(p *Pattern) error {
	if p.Exclude {
		return nil
	}
	x := expansion{s: s, p: p, visited: map[visit]bool{}}
	if err := x.expand("", nil, p.parts); err != nil {
		return err
	}
	if x.matched {
		return nil
	}
	m := Missing{Pattern: p.Text, Line: p.Line, Set: p.Set, Why: cmp.Or(x.why, "nothing matches")}
	if p.Optional {
		s.plan.MaybeMissing = append(s.plan.MaybeMissing, m)
	} else {
		s.plan.Missing = append(s.plan.Missing, m)
	}
	return nil
}

// add takes the entry name of the open directory dir, and everything below it.
func (s *scanner) add(dir int, rel, name string, st *unix.Stat_t) error {
	if s.seen[rel] {
		return nil
	}
	path := absolute(rel)
	rel = string(path[1:]) // one string for both
	s.seen[rel] = true
	if isAttachment(rel) {
		return fmt.Errorf("scan %s: the archive needs this name for itself", s.root.display(rel))
	}
	if err := s.list.checkAccounts(rel); err != nil {
		return fmt.Errorf("scan %s: %w", s.root.display(""), err)
	}
	if fs := s.fs.kernel(st.Dev, dir, name); fs != "" {
		s.surprise(rel, "is on the kernel's filesystem "+fs+" and not kept")
		return nil
	}
	e := Entry{
		Path: path, Type: typeOf(st.Mode), Mode: Octal(st.Mode & 0o7777), UID: st.Uid, GID: st.Gid,
		rel: rel, mtime: st.Mtim, ctime: st.Ctim, dev: st.Dev, ino: st.Ino, rdev: st.Rdev,
		linked: st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR,
	}
	if e.Type == TypeSocket {
		s.surprise(rel, "is a socket and not kept: it lives only while its service runs")
		return nil
	}
	if e.Type == TypeFile || e.Type == TypeSymlink {
		e.Bytes = st.Size
	}
	if len(rel) > maxPath {
		return fmt.Errorf("scan %s: path is longer than %d bytes", s.root.display(rel), maxPath)
	}
	s.inspection.add(e)
	if e.Type == TypeDirectory {
		return s.below(rel, st)
	}
	return nil
}

// below adds what is in a directory. The attributes of all its entries are read
// before any of them is entered, so that one directory is used at a time however
// deep the tree is.
func (s *scanner) below(rel string, want *unix.Stat_t) error {
	names, err := s.names(rel, want)
	if err != nil {
		return fmt.Errorf("scan %s: %w", s.root.display(rel), err)
	}
	parts := append(splitPath(rel), "")
	for _, name := range names {
		if err := s.ctx.Err(); err != nil {
			return fmt.Errorf("scan %s: %w", s.root.display(rel), err)
		}
		child := joinPath(rel, name)
		dir, err := s.dirs.open(rel)
		if err != nil {
			return fmt.Errorf("scan %s: %w", s.root.display(rel), err)
		}
		st, err := lstatat(dir, name)
		if err != nil {
			return fmt.Errorf("scan %s: %w", s.root.display(child), err)
		}
		parts[len(parts)-1] = name
		if s.list.excludes(parts, st.Mode&unix.S_IFMT == unix.S_IFDIR) {
			continue
		}
		if err := s.add(dir, child, name, &st); err != nil {
			return err
		}
	}
	return nil
}

// names reads a directory, which has to be the one that was seen as want: a
// link that has taken its place must not lead elsewhere.
func (s *scanner) names(rel string, want *unix.Stat_t) ([]string, error) {
	dir, err := s.dirs.open(rel)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return nil, err
	}
	if st.Dev != want.Dev || st.Ino != want.Ino {
		return nil, errors.New("another directory has taken its place")
	}
	return readNames(dir)
}

func (s *scanner) surprise(rel, why string) {
	s.plan.Surprises = append(s.plan.Surprises, Surprise{absolute(rel), why})
}
