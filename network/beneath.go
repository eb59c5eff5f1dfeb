package network

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

const (
	maxFile     = 1 << 20 // bytes
	maxEntries  = 4096    // of a directory
	maxSymlinks = 40      // the kernel's own limit (MAXSYMLINKS)
)

// system reads the files of the new system and collects what cannot be read.
type system struct {
	root *os.Root
	errs []error
}

// note tolerates ENOTDIR beside ENOENT: no file is in a file.
func (s *system) note(name string, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		s.errs = append(s.errs, fmt.Errorf("read %s of the new system: %w", name, err))
	}
}

// resolve follows symbolic links as a process would whose "/" is the new root;
// os.Root alone refuses absolute ones.
func (s *system) resolve(name string) (string, error) {
	done, rest := "/", strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		next := path.Join(done, rest[0])
		rest = rest[1:]
		info, err := s.root.Lstat("." + next)
		if err != nil {
			return "." + next, err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			done = next
			continue
		}
		target, err := s.root.Readlink("." + next)
		if links++; err == nil && links > maxSymlinks {
			err = syscall.ELOOP
		}
		if err != nil {
			return "", err
		}
		if path.IsAbs(target) {
			done = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return "." + done, nil
}

func (s *system) has(name string) bool {
	_, err := s.resolve(name)
	s.note(name, err)
	return err == nil
}

// text returns a file, and "" for one that is missing or masked by a link to /dev/null.
func (s *system) text(name string) string {
	text, err := s.read(name)
	s.note(name, err)
	return text
}

func (s *system) read(name string) (string, error) {
	real, err := s.resolve(name)
	if real == "./dev/null" {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	// Opening a FIFO would wait for its writer.
	file, err := s.root.OpenFile(real, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", errors.New("not a regular file")
	case info.Size() > maxFile:
		return "", fmt.Errorf("%d bytes, more than %d", info.Size(), maxFile)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxFile))
	return string(text), err
}

var leftover = regexp.MustCompile(`^\.|(~|\.(bak|old|orig|rpm(save|new|orig)|dpkg-[a-z]+))$`)

// list returns the paths of the files of a directory that match a pattern, sorted,
// without the copies that editors and package managers leave and nothing reads.
func (s *system) list(dir, pattern string) (paths []string) {
	real, err := s.resolve(dir)
	var file *os.File
	if err == nil {
		file, err = s.root.OpenFile(real, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	}
	if err != nil {
		s.note(dir, err)
		return nil
	}
	defer file.Close()
	names, err := file.Readdirnames(maxEntries)
	if len(names) == maxEntries {
		err = fmt.Errorf("%d files or more", maxEntries)
	}
	if err != io.EOF { // an empty directory
		s.note(dir, err)
	}
	for _, name := range names {
		if ok, err := path.Match(pattern, name); err == nil && ok && !leftover.MatchString(name) {
			paths = append(paths, path.Join(dir, name))
		}
	}
	slices.Sort(paths)
	return paths
}

// inEffect returns the text of files of systemd or udev by their names: one in /etc
// stands for one in /usr/lib, and an empty one for none, systemd.link(5).
func (s *system) inEffect(folder, pattern string) map[string]string {
	texts := map[string]string{}
	for _, dir := range []string{"/lib/", "/usr/lib/", "/usr/local/lib/", "/etc/"} {
		for _, file := range s.list(dir+folder, pattern) {
			texts[path.Base(file)] = s.text(file)
		}
	}
	return texts
}
