package lab

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// File is one path of a filesystem to be built. The zero Mode is a regular
// file 0644; fs.ModeDir, fs.ModeSymlink, fs.ModeDevice|fs.ModeCharDevice,
// fs.ModeSetuid and so on have their meaning.
type File struct {
	Path         string // from the filesystem's root, any bytes but NUL
	Mode         fs.FileMode
	UID, GID     int
	ModTime      time.Time // zero: Epoch; until 2038, see setNanoseconds
	Content      string
	Source       string // a host's file with the content instead
	Target       string // of a symlink; sets fs.ModeSymlink
	HardLink     string // an earlier path that this is another name of
	Major, Minor int64
	Xattrs       map[string]string
}

// Tree is the content of a filesystem. A later file replaces an earlier one
// with the same path; missing directories are made, root's, mode 0755.
type Tree []File

// Epoch is the time of everything that names none of its own.
func Epoch() time.Time { return time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC) }

// Dir, Text and Symlink are the common rows of a Tree.
func Dir(path string, mode fs.FileMode, uid, gid int) File {
	return File{Path: path, Mode: mode | fs.ModeDir, UID: uid, GID: gid}
}

// Text is a regular file of root's.
func Text(path string, mode fs.FileMode, content string) File {
	return File{Path: path, Mode: mode, Content: content}
}

// Symlink is a symbolic link of root's.
func Symlink(path, target string) File {
	return File{Path: path, Target: target}
}

// complete returns the files by clean path, each directory before what is in
// it, missing parents added, and hard links after what they link to.
func (t Tree) complete() ([]File, error) {
	byPath := map[string]File{".": Dir(".", 0o755, 0, 0)}
	for _, f := range t {
		if strings.ContainsRune(f.Path, 0) || f.Path == "" {
			return nil, fmt.Errorf("build tree: path %q cannot exist", f.Path)
		}
		f.Path = cleanPath(f.Path)
		if f.Target != "" {
			f.Mode |= fs.ModeSymlink | 0o777
		}
		if f.Mode == 0 {
			f.Mode = 0o644
		}
		byPath[f.Path] = f
	}
	for _, p := range slices.Collect(maps.Keys(byPath)) {
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			parent, ok := byPath[dir]
			if !ok {
				byPath[dir] = Dir(dir, 0o755, 0, 0)
			} else if !parent.Mode.IsDir() {
				return nil, fmt.Errorf("build tree: %q lies below %q, which is no directory", p, dir)
			}
		}
	}
	files := slices.Collect(maps.Values(byPath))
	slices.SortFunc(files, func(a, b File) int {
		if (a.HardLink == "") != (b.HardLink == "") {
			return cmp.Compare(len(a.HardLink), len(b.HardLink))
		}
		return cmp.Compare(a.Path, b.Path)
	})
	return files, nil
}

func cleanPath(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return "."
	}
	return p
}

// WriteTar writes the tree as a PAX archive. Tar is how trees reach a staging
// directory: it carries names with newlines, owners and devices, and GNU tar,
// unlike a static Go program, can run below fakeroot. Extended attributes are
// not in it.
func (t Tree) WriteTar(w io.Writer) error {
	files, err := t.complete()
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	for _, f := range files {
		if err := f.writeTar(tw); err != nil {
			return fmt.Errorf("archive %q: %w", f.Path, err)
		}
	}
	return tw.Close()
}

func (f File) writeTar(tw *tar.Writer) error {
	content, size, err := f.open()
	if err != nil {
		return err
	}
	h, err := f.header(size)
	if err != nil {
		return errors.Join(err, content.Close())
	}
	if err := tw.WriteHeader(h); err != nil {
		return errors.Join(err, content.Close())
	}
	_, err = io.Copy(tw, content)
	return errors.Join(err, content.Close())
}

func (f File) open() (io.ReadCloser, int64, error) {
	if f.Source == "" {
		return io.NopCloser(strings.NewReader(f.Content)), int64(len(f.Content)), nil
	}
	in, err := os.Open(f.Source)
	if err != nil {
		return nil, 0, err
	}
	info, err := in.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, in.Close())
	}
	return in, info.Size(), nil
}

func (f File) header(size int64) (*tar.Header, error) {
	h := &tar.Header{
		Format: tar.FormatPAX, Name: "./" + f.Path, Mode: unixMode(f.Mode), Uid: f.UID, Gid: f.GID,
		ModTime: f.mtime(), Size: size,
	}
	switch {
	case f.HardLink != "":
		h.Typeflag, h.Linkname = tar.TypeLink, "./"+cleanPath(f.HardLink)
	case f.Mode.IsRegular():
		h.Typeflag = tar.TypeReg
	case f.Mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	case f.Mode&fs.ModeSymlink != 0:
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.Target
	case f.Mode&fs.ModeCharDevice != 0:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, f.Major, f.Minor
	case f.Mode&fs.ModeDevice != 0:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, f.Major, f.Minor
	case f.Mode&fs.ModeNamedPipe != 0:
		h.Typeflag = tar.TypeFifo
	default:
		return nil, fmt.Errorf("mode %v cannot be archived", f.Mode)
	}
	if h.Typeflag != tar.TypeReg && size > 0 {
		return nil, fmt.Errorf("mode %v has no content, got %d bytes", f.Mode, size)
	}
	return h, nil
}

func (f File) mtime() time.Time {
	if f.ModTime.IsZero() {
		return Epoch()
	}
	return f.ModTime
}

// unixMode is the twelve permission bits of chmod(2).
func unixMode(m fs.FileMode) int64 {
	bits := int64(m.Perm())
	if m&fs.ModeSetuid != 0 {
		bits |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		bits |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	return bits
}
