package filesystem

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxText  = 1 << 20 // of a file that is read
	maxPaths = 200_000
	maxDepth = 64
	// A damaged directory may have thousands of entries that lead nowhere.
	maxMissing = 100
)

// Root is what the new system's root filesystem holds.
type Root struct {
	Subvolume string `json:"subvolume,omitempty"` // of btrfs, where it is not the default one
	Fstab     string `json:"fstab"`
	OSRelease string `json:"os_release,omitempty"`
	// Users and Groups are the numbers of the names in /etc/passwd and /etc/group.
	Users  map[string]uint32 `json:"users"`
	Groups map[string]uint32 `json:"groups"`
	// Etc is /etc and everything below it on this filesystem, sorted by path.
	Etc     []Path   `json:"etc"`
	Missing []string `json:"missing,omitempty"`
}

// Path is a name and what it stands for.
type Path struct {
	Path   string `json:"path"`
	Kind   string `json:"kind"`             // directory, file, symlink, fifo, device, socket
	Target string `json:"target,omitempty"` // of a symlink
}

// tree is the files of a filesystem. Paths begin with a slash, are clean, and lead
// through no symbolic link.
type tree interface {
	// kind returns one of the kinds of Path, or an error that is fs.ErrNotExist.
	kind(path string) (string, error)
	names(dir string) ([]string, error)
	target(link string) (string, error)
	// text returns a file of at most max bytes.
	text(file string, max int64) ([]byte, error)
}

// collect reads the facts of a root filesystem; nil, if there is no /etc/fstab.
func collect(t tree) (*Root, error) {
	file, err := resolve(t, "/etc/fstab")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if kind, err := t.kind(file); err != nil || kind != "file" {
		return nil, err
	}
	r := &Root{}
	for _, f := range []struct {
		paths []string
		take  func(string)
	}{
		{[]string{"/etc/fstab"}, func(text string) { r.Fstab = text }},
		{[]string{"/etc/os-release", "/usr/lib/os-release"}, func(text string) { r.OSRelease = text }}, // os-release(5)
		{[]string{"/etc/passwd"}, func(text string) { r.Users = numbers(text) }},
		{[]string{"/etc/group"}, func(text string) { r.Groups = numbers(text) }},
	} {
		text, err := read(t, f.paths)
		if err := r.miss(f.paths[0], err); err != nil {
			return nil, err
		}
		f.take(text)
	}
	return r, r.paths(t)
}

// read returns the first of the files that is there.
func read(t tree, paths []string) (string, error) {
	var errs []error
	for _, p := range paths {
		file, err := resolve(t, p)
		if err == nil {
			var kind string
			if kind, err = t.kind(file); err == nil && kind != "file" {
				err = doubtf("it is a %s", kind)
			}
		}
		var text []byte
		if err == nil {
			text, err = t.text(file, maxText)
		}
		if err == nil {
			return strings.ToValidUTF8(string(text), "\uFFFD"), nil
		}
		errs = append(errs, err)
	}
	return "", errs[0]
}

// miss notes what could not be read in a filesystem that is otherwise readable.
func (r *Root) miss(what string, err error) error {
	var d *doubt
	switch {
	case err == nil:
		return nil
	case errors.As(err, &d):
		what += ": " + d.text
	case errors.Is(err, fs.ErrNotExist):
		what += ": not on this filesystem"
	default:
		return err
	}
	if len(r.Missing) < maxMissing {
		r.Missing = append(r.Missing, what)
	}
	return nil
}

// resolve follows symbolic links inside the tree, as a process would whose root it
// is, and returns a path that leads through none.
func resolve(t tree, name string) (string, error) {
	const maxLinks = 40 // MAXSYMLINKS in include/linux/namei.h
	at, links := "/", 0
	for rest := split(name); len(rest) > 0; {
		next := rest[0]
		rest = rest[1:]
		if next == ".." {
			at = path.Dir(at)
			continue
		}
		full := path.Join(at, next)
		kind, err := t.kind(full)
		if err != nil {
			return "", err
		}
		switch {
		case kind == "symlink":
			if links++; links > maxLinks {
				return "", doubtf("%s has too many symbolic links", name)
			}
			target, err := t.target(full)
			if err != nil {
				return "", err
			}
			if path.IsAbs(target) {
				at = "/"
			}
			rest = append(split(target), rest...)
		case kind != "directory" && len(rest) > 0:
			return "", fs.ErrNotExist
		default:
			at = full
		}
	}
	return at, nil
}

func split(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(s string) bool { return s == "" || s == "." })
}

// numbers reads name and number out of passwd(5) or group(5), and nothing else. The
// first of several lines counts, as it does for getpwnam(3).
func numbers(text string) map[string]uint32 {
	ids := map[string]uint32{}
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) < 4 || f[0] == "" || strings.ContainsAny(f[0][:1], "+-#") {
			continue // not an account, but an instruction for NIS or a comment
		}
		if id, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			if _, known := ids[f[0]]; !known {
				ids[f[0]] = uint32(id)
			}
		}
	}
	return ids
}

// paths lists /etc.
func (r *Root) paths(t tree) error {
	type dir struct {
		path  string
		depth int
	}
	if err := r.add(t, "/etc"); err != nil {
		return err
	}
	if len(r.Etc) == 0 || r.Etc[0].Kind != "directory" {
		return nil
	}
	for todo := []dir{{"/etc", 0}}; len(todo) > 0; {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		names, err := t.names(d.path)
		if err := r.miss(d.path, err); err != nil {
			return err
		}
		for _, name := range names {
			full := path.Join(d.path, name)
			if len(r.Etc) >= maxPaths {
				return r.miss("/etc", doubtf("only the first %d paths are listed", maxPaths))
			}
			before := len(r.Etc)
			if err := r.add(t, full); err != nil {
				return err
			}
			if len(r.Etc) > before && r.Etc[before].Kind == "directory" {
				if d.depth == maxDepth {
					_ = r.miss(full, doubtf("directories below it are too deep"))
					continue
				}
				todo = append(todo, dir{full, d.depth + 1})
			}
		}
	}
	slices.SortFunc(r.Etc, func(a, b Path) int { return strings.Compare(a.Path, b.Path) })
	return nil
}

func (r *Root) add(t tree, full string) error {
	p := Path{Path: full}
	if !utf8.ValidString(full) {
		return r.miss(strconv.QuoteToASCII(full), doubtf("its name is not UTF-8"))
	}
	var err error
	if p.Kind, err = t.kind(full); err == nil && p.Kind == "symlink" {
		p.Target, err = t.target(full)
		p.Target = strings.ToValidUTF8(p.Target, "\uFFFD")
	}
	if err != nil {
		return r.miss(full, err)
	}
	r.Etc = append(r.Etc, p)
	return nil
}
