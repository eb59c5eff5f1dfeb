package main

import (
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/u-root/u-root/pkg/ldd"

	"reimager/initramfs"
	"reimager/report"
)

// include adds a file or folder of the host: HOSTPATH[:PATH]. What is a dynamic
// program brings its libraries, each at the path where the linker looks for it.
func include(a *initramfs.Archive, spec string) error {
	host, inside, _ := strings.Cut(spec, ":")
	host, err := filepath.Abs(host)
	if err != nil {
		return err
	}
	if inside == "" {
		inside = host
	}
	if !path.IsAbs(inside) {
		return fmt.Errorf("include %s: %q inside the initrd has to be absolute", spec, inside)
	}
	info, err := os.Stat(host)
	if err != nil {
		return fmt.Errorf("include %s: %w", spec, err)
	}
	if !info.IsDir() {
		return includeFile(a, host, inside)
	}
	return filepath.WalkDir(host, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("include %s: %w", spec, err)
		}
		rel, err := filepath.Rel(host, p)
		if err != nil {
			return err
		}
		at := path.Join(inside, filepath.ToSlash(rel))
		switch {
		case e.IsDir():
			a.Dir(at)
			return nil
		case e.Type() == fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return fmt.Errorf("include %s: %w", spec, err)
			}
			return a.Symlink(at, target)
		case e.Type().IsRegular():
			return includeFile(a, p, at)
		}
		return fmt.Errorf("include %s: %s is neither a file, a folder nor a link", spec, p)
	})
}

func includeFile(a *initramfs.Archive, host, inside string) error {
	if err := addHostFile(a, host, inside); err != nil {
		return err
	}
	if !dynamic(host) {
		return nil
	}
	libraries, err := ldd.List(host)
	if err != nil {
		return report.Hint(fmt.Errorf("find libraries of %s: %w", host, err), "does it run on this host? ldd %s shows what is missing", host)
	}
	for _, lib := range libraries {
		if err := addHostFile(a, lib, lib); err != nil {
			return fmt.Errorf("library of %s: %w", host, err)
		}
	}
	return nil
}

// addHostFile adds a file's content under a name; links on the way are resolved,
// since the initrd has only plain folders.
func addHostFile(a *initramfs.Archive, host, inside string) error {
	info, err := os.Stat(host)
	if err != nil {
		return fmt.Errorf("include: %w", err)
	}
	content, err := os.ReadFile(host)
	if err != nil {
		return fmt.Errorf("include: %w", err)
	}
	return a.File(inside, content, uint64(info.Mode().Perm()))
}

// dynamic tells whether a file needs shared libraries.
func dynamic(name string) bool {
	f, err := elf.Open(name)
	if err != nil {
		return false // a script or data
	}
	defer func() { _ = f.Close() }() // it was only read
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return true
		}
	}
	needed, err := f.ImportedLibraries() // a shared library has no interpreter
	return err == nil && len(needed) > 0
}
