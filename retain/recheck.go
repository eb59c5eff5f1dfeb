package retain

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"

	"golang.org/x/sys/unix"
)

// Recheck compares a root with what a Report of an earlier Restore says of it: type,
// mode, owner, link target and content, by digest. It is for later, when the archive
// is gone; a file that its service has written to since is a difference like any.
// What the restore itself could not keep is none.
func Recheck(ctx context.Context, rootDir string, put *Report) ([]Difference, error) {
	root, err := OpenRoot(rootDir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	c := &rechecker{ctx: ctx, dirs: &dirCache{root: root}, buf: make([]byte, bufferBytes)}
	defer c.dirs.flush()
	c.lost = map[Path]bool{}
	for _, l := range put.Lost {
		c.lost[l.Path] = true
	}
	for _, e := range put.Entries {
		if err := ctx.Err(); err != nil {
			return c.found, err
		}
		rel, err := beneath(string(e.Path))
		if err == nil {
			err = c.entry(e, rel)
		}
		if err != nil {
			return c.found, fmt.Errorf("compare %s: %w", e.Path, err)
		}
	}
	return c.found, nil
}

type rechecker struct {
	ctx   context.Context
	dirs  *dirCache
	buf   []byte
	lost  map[Path]bool
	found []Difference
}

func (c *rechecker) entry(e Restored, rel string) error {
	differ := func(what, want, got string) {
		if want != got {
			c.found = append(c.found, Difference{e.Path, what, want, got})
		}
	}
	above, name := splitLast(rel)
	dir, err := c.dirs.open(above)
	var st unix.Stat_t
	if err == nil {
		st, err = lstatat(dir, name)
	}
	if noMatch(err) {
		differ("existence", "present", err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	if e.Type == TypeHardLink {
		return nil // what it leads to has an entry of its own
	}
	if e.Type == TypeDirectory && e.Replaced && typeOf(st.Mode) == TypeSymlink {
		return nil // it was merged with what the link leads to
	}
	if got := typeOf(st.Mode); got != e.Type {
		differ("type", string(e.Type), string(got))
		return nil
	}
	number := func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
	if !c.lost[e.Path] {
		differ("user", number(e.UID), number(st.Uid))
		differ("group", number(e.GID), number(st.Gid))
	}
	if e.Type == TypeSymlink {
		target, err := readlinkat(dir, name)
		if err != nil {
			return err
		}
		differ("link target", e.Link.String(), Path(target).String())
		return nil
	}
	if !c.lost[e.Path] {
		differ("mode", e.Mode.String(), Octal(st.Mode&0o7777).String())
	}
	if e.Type != TypeFile || e.SHA256 == "" {
		return nil
	}
	if st.Size != e.Bytes {
		differ("content", fmt.Sprintf("%d bytes", e.Bytes), fmt.Sprintf("%d bytes", st.Size))
		return nil
	}
	got, err := c.digest(dir, name, e)
	if err != nil {
		return err
	}
	differ("content", "sha256 "+e.SHA256, "sha256 "+got)
	return nil
}

// digest hashes a file as Capture did: of one with holes, its data alone.
func (c *rechecker) digest(dir int, name string, e Restored) (string, error) {
	fd, err := openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	runs := []extent{{0, e.Bytes}}
	if e.HoleBytes > 0 {
		if runs, _, err = dataExtents(fd, e.Bytes); err != nil {
			return "", fmt.Errorf("find its holes: %w", err)
		}
	}
	sum := sha256.New()
	for _, run := range runs {
		for at := run.offset; at < run.offset+run.bytes; {
			if err := c.ctx.Err(); err != nil {
				return "", err
			}
			n, err := pread(fd, c.buf[:min(int64(len(c.buf)), run.offset+run.bytes-at)], at)
			if err == nil && n == 0 {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				return "", err
			}
			sum.Write(c.buf[:n])
			at += int64(n)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
