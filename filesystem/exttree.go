package filesystem

import (
	"encoding/binary"
	"io/fs"
	"path"
	"slices"
	"strings"
)

const (
	extRootInode      = 2
	maxDirectoryBytes = 64 << 20 // of all that are read: a damaged tree may lead to one again and again
)

// extTree reads the files of an ext filesystem as its blocks on the disk show them.
type extTree struct {
	e    *ext
	dirs map[string]map[string]uint32 // by path: names and inodes
	left int64                        // bytes of directories that may still be read
}

func newExtTree(e *ext) *extTree {
	return &extTree{e: e, dirs: map[string]map[string]uint32{}, left: maxDirectoryBytes}
}

// lookup finds an inode by its path.
func (t *extTree) lookup(name string) (*extInode, error) {
	if name == "/" {
		return t.e.inode(extRootInode)
	}
	entries, err := t.entries(path.Dir(name))
	if err != nil {
		return nil, err
	}
	number, ok := entries[path.Base(name)]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return t.e.inode(number)
}

func (t *extTree) kind(name string) (string, error) {
	i, err := t.lookup(name)
	if err != nil {
		return "", err
	}
	return i.kind()
}

func (t *extTree) names(dir string) ([]string, error) {
	entries, err := t.entries(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for name := range entries {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (t *extTree) target(link string) (string, error) {
	i, err := t.lookup(link)
	if err != nil {
		return "", err
	}
	if i.size == 0 || i.size > 4096 {
		return "", doubtf("symbolic link of %d bytes makes no sense", i.size)
	}
	// A short target lies where others have their block numbers (ext4_inode_is_fast_symlink).
	if i.size < 60 && i.flags&(extInodeInline|extInodeEncrypted) == 0 {
		return string(i.block[:i.size]), nil
	}
	b, err := t.e.content(i, 4096)
	return string(b), err
}

func (t *extTree) text(file string, max int64) ([]byte, error) {
	i, err := t.lookup(file)
	if err != nil {
		return nil, err
	}
	return t.e.content(i, max)
}

// entries reads a directory. Hashed ones read as plain ones: their index looks like
// entries without inode (Documentation/filesystems/ext4/directory.rst).
func (t *extTree) entries(dir string) (map[string]uint32, error) {
	if known, ok := t.dirs[dir]; ok {
		return known, nil
	}
	i, err := t.lookup(dir)
	if err != nil {
		return nil, err
	}
	if kind, err := i.kind(); err != nil || kind != "directory" {
		return nil, fs.ErrNotExist
	}
	if t.left -= i.size; t.left < 0 {
		return nil, doubtf("directories have more than %d bytes", maxDirectoryBytes)
	}
	b, err := t.e.content(i, maxDirectoryBytes)
	if err != nil {
		return nil, err
	}
	entries := map[string]uint32{}
	for ; int64(len(b)) >= t.e.blockSize; b = b[t.e.blockSize:] {
		if err := parseEntries(b[:t.e.blockSize], entries); err != nil {
			return nil, err
		}
	}
	t.dirs[dir] = entries
	return entries, nil
}

// parseEntries reads one block of a directory.
func parseEntries(b []byte, entries map[string]uint32) error {
	for len(b) > 0 {
		if len(b) < 8 {
			return doubtf("directory entry is cut off")
		}
		number, length, name := binary.LittleEndian.Uint32(b), int(binary.LittleEndian.Uint16(b[4:])), int(b[6])
		if length == 0xffff || length == 0 {
			length = 64 << 10 // ext4_rec_len_from_disk
		}
		if length < 8+name || length%4 != 0 || length > len(b) {
			return doubtf("directory entry of %d bytes makes no sense", length)
		}
		text := string(b[8 : 8+name])
		b = b[length:]
		if number == 0 || text == "." || text == ".." {
			continue
		}
		if text == "" || strings.ContainsAny(text, "/\x00") {
			return doubtf("directory has the name %q", text)
		}
		entries[text] = number
	}
	return nil
}
