package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Cache keeps what is slow to get or to build: kernels, disks, the answer
// whether KVM works. It may be deleted at any time.
type Cache struct {
	dir string
}

// OpenCache returns the cache in $REIMAGER_CACHE, or in reimager below the
// user's cache directory.
func OpenCache() (Cache, error) {
	dir := os.Getenv("REIMAGER_CACHE")
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return Cache{}, fmt.Errorf("find cache directory (REIMAGER_CACHE may name one): %w", err)
		}
		dir = filepath.Join(base, "reimager")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Cache{}, fmt.Errorf("find cache directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Cache{}, fmt.Errorf("create cache directory: %w", err)
	}
	return Cache{dir: dir}, nil
}

// Dir returns the cache's absolute directory.
func (c Cache) Dir() string { return c.dir }

// Key is the hash of everything that an entry is made from.
type Key string

// KeyOf hashes the printed form (%#v) of its parts; a part that is a pointer
// or holds one has no stable form and must not be used.
func KeyOf(parts ...any) Key {
	h := sha256.New()
	for _, part := range parts {
		text := fmt.Sprintf("%#v", part)
		fmt.Fprintf(h, "%d:%s", len(text), text)
	}
	return Key(hex.EncodeToString(h.Sum(nil))[:20])
}

// Entry returns the directory kind-key. Where it does not exist, build fills
// a temporary directory that is renamed when build succeeds. Other processes
// that want the same entry wait.
func (c Cache) Entry(ctx context.Context, kind string, key Key, build func(dir string) error) (dir string, err error) {
	dir = filepath.Join(c.dir, kind+"-"+string(key))
	unlock, err := c.lock(ctx, kind+"-"+string(key))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	switch _, statErr := os.Stat(dir); {
	case statErr == nil:
		return dir, nil
	case !errors.Is(statErr, fs.ErrNotExist):
		return "", statErr
	}
	// A fixed name: the lock is ours, so what lies there is a leftover.
	work := dir + ".partial"
	if err := errors.Join(os.RemoveAll(work), os.Mkdir(work, 0o755)); err != nil {
		return "", fmt.Errorf("create cache entry %s: %w", dir, err)
	}
	if err := build(work); err != nil {
		return "", errors.Join(fmt.Errorf("build cache entry %s: %w", filepath.Base(dir), err), os.RemoveAll(work))
	}
	return dir, os.Rename(work, dir)
}

// lock takes an exclusive flock that the kernel gives back when we die.
func (c Cache) lock(ctx context.Context, name string) (unlock func() error, err error) {
	path := filepath.Join(c.dir, name+".lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		// EINTR: Go's own preemption signals; EWOULDBLOCK: held by another.
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for lock %s: %w", path, context.Cause(ctx)), f.Close())
		case <-tick.C:
		}
	}
}

// CopySparse copies a regular file and keeps its holes.
func CopySparse(dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close() // read only: nothing can be lost
	info, err := in.Stat()
	if err != nil {
		return err
	}
	return writeAtomically(dst, info.Mode().Perm(), func(out *os.File) error {
		return copyExtents(out, in, 0, info.Size())
	})
}

// copyExtents copies the data extents of in between offset and offset+size to
// the start of out, which becomes size bytes long.
func copyExtents(out, in *os.File, offset, size int64) error {
	if err := out.Truncate(size); err != nil {
		return err
	}
	for at := offset; at < offset+size; {
		data, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left, lseek(2)
		}
		if err != nil {
			return fmt.Errorf("find data in %s: %w", in.Name(), err)
		}
		hole, err := unix.Seek(int(in.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("find hole in %s: %w", in.Name(), err)
		}
		hole = min(hole, offset+size)
		if data >= hole {
			return nil
		}
		if err := copyRange(out, in, data-offset, data, hole-data); err != nil {
			return err
		}
		at = hole
	}
	return nil
}

func copyRange(out, in *os.File, to, from, n int64) error {
	buf := make([]byte, min(n, 1<<20))
	for n > 0 {
		chunk := buf[:min(n, int64(len(buf)))]
		if _, err := in.ReadAt(chunk, from); err != nil {
			return fmt.Errorf("read %s at %s: %w", in.Name(), strconv.FormatInt(from, 10), err)
		}
		if _, err := out.WriteAt(chunk, to); err != nil {
			return err
		}
		from, to, n = from+int64(len(chunk)), to+int64(len(chunk)), n-int64(len(chunk))
	}
	return nil
}
