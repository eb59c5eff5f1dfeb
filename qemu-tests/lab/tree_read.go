package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"reimager/report"
)

// Entry is one path of a filesystem as it was found.
type Entry struct {
	Path     string // from the filesystem's root, "." is the root itself
	Mode     fs.FileMode
	UID, GID int
	ModTime  time.Time // UTC, nanoseconds
	Size     int64     // of regular files
	SHA256   string    // of regular files, hexadecimal
	Target   string    // of symlinks
	Links    uint64
	Rdev     uint64            // of devices
	Xattrs   map[string]string // nil: none
}

// ErrNotRoot is the cause when something here needs root.
var ErrNotRoot = errors.New("not root")

// ReadTree reads a whole ext4 partition through a read-only loop mount; it needs
// root. Entries come in lexical order of their paths' elements.
func ReadTree(ctx context.Context, disk string, partition int) (entries []Entry, err error) {
	if os.Geteuid() != 0 {
		return nil, report.Hint(fmt.Errorf("mount partition %d of %s: %w", partition, disk, ErrNotRoot),
			"run the tests as root: comparing owners and extended attributes needs a loop mount")
	}
	v, err := openView(ctx, disk, partition)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, v.close()) }()
	// noload: a journal that needs replaying was replayed in a copy.
	err = loopMount(ctx, "ro,noload", v.path, v.offset, v.size, func(dir string) error {
		entries, err = readTree(dir)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read partition %d of %s: %w", partition, disk, err)
	}
	return entries, nil
}

func readTree(root string) ([]Entry, error) {
	var entries []Entry
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		entry, err := readEntry(root, path, d)
		if err != nil {
			return fmt.Errorf("read %q: %w", path, err)
		}
		entries = append(entries, entry)
		return nil
	})
	return entries, err
}

func readEntry(root, path string, d fs.DirEntry) (Entry, error) {
	rel, err := filepath.Rel(root, path)
	if err != nil {
		return Entry{}, err
	}
	info, err := d.Info()
	if err != nil {
		return Entry{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Entry{}, errors.New("no stat(2) data")
	}
	e := Entry{Path: rel, Mode: info.Mode(), UID: int(stat.Uid), GID: int(stat.Gid), ModTime: info.ModTime().UTC(), Links: uint64(stat.Nlink)}
	switch {
	case info.Mode().IsRegular():
		e.Size = info.Size()
		e.SHA256, err = fileSHA256(path)
	case info.Mode()&fs.ModeSymlink != 0:
		e.Target, err = os.Readlink(path)
	case info.Mode()&fs.ModeDevice != 0:
		e.Rdev = uint64(stat.Rdev)
	}
	if err != nil {
		return Entry{}, err
	}
	e.Xattrs, err = readXattrs(path)
	return e, err
}

func fileSHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() // read only: nothing can be lost
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func readXattrs(path string) (map[string]string, error) {
	names := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Llistxattr(path, names)
	if err != nil || n == 0 {
		return nil, err
	}
	attrs := map[string]string{}
	for _, name := range strings.Split(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		size, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("extended attribute %s: %w", name, err)
		}
		attrs[name] = string(value[:size])
	}
	return attrs, nil
}
