package accounts

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is MAXSYMLINKS of linux/namei.h.
const maxLinks = 40

// resolve follows the links of a path as a process whose root it is would:
// absolute ones start at the root, ".." ends there. os.Root refuses both kinds. The
// last name need not exist. Nothing depends on the links staying as they are: os.Root
// keeps whoever uses the result beneath.
func resolve(root *os.Root, path string) (string, error) {
	var done []string
	todo := split(path)
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		if name == ".." {
			done = done[:max(0, len(done)-1)]
			continue
		}
		at := strings.Join(append(done[:len(done):len(done)], name), "/")
		info, err := root.Lstat(at)
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && len(todo) == 0) {
			return "", cause(err)
		}
		if err != nil || info.Mode()&fs.ModeSymlink == 0 {
			done = append(done[:len(done):len(done)], name)
			continue
		}
		if links++; links > maxLinks {
			return "", unix.ELOOP
		}
		target, err := root.Readlink(at)
		if err != nil {
			return "", cause(err)
		}
		if strings.HasPrefix(target, "/") {
			done = nil
		}
		todo = append(split(target), todo...)
	}
	if len(done) == 0 {
		return ".", nil
	}
	return strings.Join(done, "/"), nil
}

// split returns the names of a path, without empty ones and ".".
func split(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(name string) bool { return name == "" || name == "." })
}
