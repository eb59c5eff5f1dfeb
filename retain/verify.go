package retain

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
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
// mode, modification time, extended attributes, link targets and hard links.
// What Restore reported as conflict or lost is a difference here. The error is
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
		owners:  owners{rule: opts.Owners, accounts: accounts},
		wantBuf: make([]byte, bufferBytes), gotBuf: make([]byte, bufferBytes), xattrBuf: make([]byte, maxXattr),
	}
	defer v.dirs.flush()
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
			opts.Progress(v.in.counted.n)
		}
	}
}

type verifier struct {
	ctx      context.Context
	root     *Root
	dirs     *dirCache
	in       *reader
	owners   owners
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
	object := xattrObject{dir, name}
	if it.kind == TypeDirectory && typeOf(st.Mode) == TypeSymlink {
		// Restore merged with what the link leads to.
		if fd, err := v.dirs.open(it.rel); err == nil {
			object = xattrObject{fd: fd}
			if err := unix.Fstat(fd, &st); err != nil {
				return err
			}
		}
	}
	if it.kind == TypeHardLink {
		return v.hardLink(it, &st)
	}
	if got := typeOf(st.Mode); got != it.kind {
		v.differ(it, "type", string(it.kind), string(got))
		return nil
	}
	v.differ(it, "uid", decimal(uid), decimal(st.Uid))
	v.differ(it, "gid", decimal(gid), decimal(st.Gid))
	if it.kind != TypeSymlink {
		v.differ(it, "mode", Octal(it.header.Mode&0o7777).String(), Octal(st.Mode&0o7777).String())
	}
	want := it.times()[1]
	v.differ(it, "mtime", timeText(want.Sec, want.Nsec), timeText(st.Mtim.Sec, st.Mtim.Nsec))
	if err := v.xattrs(it, object); err != nil {
		return err
	}
	return v.byType(it, dir, name, &st)
}

func decimal(id uint32) string { return strconv.FormatUint(uint64(id), 10) }

// timeText is stat(1)'s %.Y would it floor: seconds, and nanoseconds after them.
func timeText(sec, nsec int64) string { return fmt.Sprintf("%d+%09dns", sec, nsec) }

func (v *verifier) byType(it item, dir int, name string, st *unix.Stat_t) error {
	switch it.kind {
	case TypeFile:
		return v.content(it, dir, name)
	case TypeSymlink:
		got, err := readlinkat(dir, name)
		if err != nil {
			return err
		}
		v.differ(it, "link target", Path(it.header.Linkname).String(), Path(got).String())
	case TypeCharDevice, TypeBlockDevice:
		v.differ(it, "device", fmt.Sprintf("%d:%d", it.header.Devmajor, it.header.Devminor),
			fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	}
	return nil
}

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

// content compares a file with the archive byte by byte. The digests are for
// telling of a difference, when it would be too late to start them.
func (v *verifier) content(it item, dir int, name string) error {
	fd, err := openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	want, got := sha256.New(), sha256.New()
	var wantBytes, gotBytes int64
	equal := true
	for {
		w, wantErr := io.ReadFull(v.in.tar, v.wantBuf)
		g, gotErr := io.ReadFull(fdFile(fd), v.gotBuf)
		if wantErr != nil && wantErr != io.EOF && !(wantErr == io.ErrUnexpectedEOF && v.in.whole(it, wantBytes+int64(w))) {
			return fmt.Errorf("read from the archive: %w", wantErr)
		}
		if gotErr != nil && gotErr != io.EOF && gotErr != io.ErrUnexpectedEOF {
			return gotErr
		}
		equal = equal && bytes.Equal(v.wantBuf[:w], v.gotBuf[:g])
		want.Write(v.wantBuf[:w])
		got.Write(v.gotBuf[:g])
		wantBytes += int64(w)
		gotBytes += int64(g)
		if wantErr != nil && gotErr != nil {
			break
		}
		if err := v.ctx.Err(); err != nil {
			return err
		}
	}
	if !equal {
		v.differ(it, "content", fmt.Sprintf("%d bytes, sha256 %x", wantBytes, want.Sum(nil)),
			fmt.Sprintf("%d bytes, sha256 %x", gotBytes, got.Sum(nil)))
	}
	return nil
}

// whole tells the end of an entry from an archive that was cut short, which
// io.ReadFull reports alike.
func (r *reader) whole(it item, n int64) bool { return n == it.header.Size }
