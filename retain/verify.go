package retain

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"

	"golang.org/x/sys/unix"
)

// Difference is one way in which a file is not as the archive has it. Contents
// and values of extended attributes are told by length and digest.
type Difference struct {
	Path Path   `json:"path"`
	What string `json:"what"`
	Want string `json:"want"`
	Got  string `json:"got"`
}

// Verify reads back everything beneath rootDir that the archive has and
// compares type, content, owner (mapped as Restore does with the same options),
// mode, modification time, extended attributes, inode flags, holes, link targets
// and hard links. What Restore reported as conflict or lost is a difference here. The error is
// for what ends the run: reading the archive, or the root.
func Verify(ctx context.Context, rootDir string, archive io.Reader, opts Options) ([]Difference, error) {
	root, err := OpenRoot(rootDir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	accounts, err := readAccounts(root)
	if err != nil {
		return nil, err
	}
	v := &verifier{
		ctx: ctx, root: root, dirs: &dirCache{root: root}, in: newReader(archive),
		owners: owners{rule: opts.Owners, accounts: accounts},
		sum:    sha256.New(), wantBuf: make([]byte, bufferBytes), gotBuf: make([]byte, bufferBytes), xattrBuf: make([]byte, maxXattr),
	}
	defer v.dirs.flush()
	v.in.onAttachment = v.compareAccounts
	for {
		if err := ctx.Err(); err != nil {
			return v.found, fmt.Errorf("verify %s: %w", rootDir, err)
		}
		it, err := v.in.next()
		if err == io.EOF {
			return v.found, nil
		}
		if it.header == nil {
			return v.found, err
		}
		if err == nil {
			err = v.entry(it)
		}
		var conflict conflictError
		if errors.As(err, &conflict) {
			v.found = append(v.found, Difference{it.conflictPath(), "entry", "put back", conflict.Error()})
		} else if err != nil {
			return v.found, fmt.Errorf("verify %s: %w", root.display(it.rel), err)
		}
		if opts.Progress != nil {
			opts.Progress(v.in.at)
		}
	}
}

type verifier struct {
	ctx      context.Context
	root     *Root
	dirs     *dirCache
	in       *reader
	owners   owners
	sum      hash.Hash
	wantBuf  []byte
	gotBuf   []byte
	xattrBuf []byte
	found    []Difference
}

func (v *verifier) differ(it item, what, want, got string) {
	if want != got {
		v.found = append(v.found, Difference{absolute(it.rel), what, want, got})
	}
}

func (v *verifier) entry(it item) error {
	uid, gid, err := v.owners.of(it.header)
	if err != nil {
		return err
	}
	v.owners.mapACLs(it.header)
	above, name := splitLast(it.rel)
	dir, err := v.dirs.open(above)
	var st unix.Stat_t
	if err == nil {
		st, err = lstatat(dir, name)
	}
	if noMatch(err) {
		v.differ(it, "existence", "present", err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	got := typeOf(st.Mode)
	switch {
	case it.kind == TypeHardLink:
		return v.hardLink(it, &st)
	case it.kind == got && (got == TypeFile || got == TypeDirectory):
		return v.opened(it, dir, name, uid, gid)
	case it.kind == TypeDirectory && got == TypeSymlink:
		// Restore merged with what the link leads to.
		if _, err := v.dirs.open(it.rel); err == nil {
			return v.opened(it, -1, "", uid, gid)
		}
	}
	if got != it.kind {
		v.differ(it, "type", string(it.kind), string(got))
		return nil
	}
	v.stat(it, &st, uid, gid)
	if err := v.xattrs(it, xattrObject{dir, name}); err != nil {
		return err
	}
	switch it.kind {
	case TypeSymlink:
		got, err := readlinkat(dir, name)
		if err != nil {
			return err
		}
		v.differ(it, "link target", Path(it.linkname).String(), Path(got).String())
	case TypeCharDevice, TypeBlockDevice:
		v.differ(it, "device", fmt.Sprintf("%d:%d", it.devmajor, it.devminor),
			fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	}
	return nil
}

// opened compares a file or directory: name in the open directory dir, or what the
// path leads to with dir -1.
func (v *verifier) opened(it item, dir int, name string, uid, gid uint32) error {
	flags := unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK
	var fd int
	var err error
	if dir < 0 {
		fd, err = v.root.openDir(it.rel)
	} else {
		fd, err = openat(dir, name, flags)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	v.stat(it, &st, uid, gid)
	if err := v.xattrs(it, xattrObject{fd: fd}); err != nil {
		return err
	}
	got, _, err := getFlags(fd)
	if err != nil {
		return fmt.Errorf("read inode flags: %w", err)
	}
	if got != it.flags {
		v.differ(it, "inode flags", it.flags.String(), got.String())
	}
	if it.kind == TypeFile {
		return v.content(it, fd, st.Size)
	}
	return nil
}

// stat compares what stat(2) tells.
func (v *verifier) stat(it item, st *unix.Stat_t, uid, gid uint32) {
	if uid != st.Uid {
		v.differ(it, "uid", decimal(uid), decimal(st.Uid))
	}
	if gid != st.Gid {
		v.differ(it, "gid", decimal(gid), decimal(st.Gid))
	}
	if it.kind != TypeSymlink && it.mode != st.Mode&0o7777 {
		v.differ(it, "mode", Octal(it.mode).String(), Octal(st.Mode&0o7777).String())
	}
	if it.mtime != st.Mtim {
		v.differ(it, "mtime", timeText(it.mtime), timeText(st.Mtim))
	}
}

func decimal(id uint32) string { return strconv.FormatUint(uint64(id), 10) }

// timeText is stat(1)'s %.Y would it floor: seconds, and nanoseconds after them.
func timeText(t unix.Timespec) string { return fmt.Sprintf("%d+%09dns", t.Sec, t.Nsec) }

func (v *verifier) hardLink(it item, st *unix.Stat_t) error {
	above, name := splitLast(it.target)
	dir, err := v.dirs.open(above)
	var target unix.Stat_t
	if err == nil {
		target, err = lstatat(dir, name)
	}
	if noMatch(err) {
		v.differ(it, "hard link", "the file "+absolute(it.target).String(), err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	if st.Dev != target.Dev || st.Ino != target.Ino {
		v.differ(it, "hard link", "the file "+absolute(it.target).String(), "a file of its own")
	}
	return nil
}

func (v *verifier) xattrs(it item, object xattrObject) error {
	got, err := object.read(v.xattrBuf)
	if err != nil {
		return err
	}
	for _, name := range applyOrder(it.xattrs) {
		value, ok := got[name]
		text := "missing"
		if ok {
			text = valueText(value)
		}
		v.differ(it, "extended attribute "+Path(name).String(), valueText(it.xattrs[name]), text)
	}
	for _, name := range applyOrder(got) {
		if _, wanted := it.xattrs[name]; !wanted && exactXattr(name) {
			v.differ(it, "extended attribute "+Path(name).String(), "missing", valueText(got[name]))
		}
	}
	return nil
}

func valueText(value string) string {
	sum := sha256.Sum256([]byte(value))
	return fmt.Sprintf("%d bytes, sha256 %s", len(value), hex.EncodeToString(sum[:]))
}
