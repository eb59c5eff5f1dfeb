// Package initramfs writes an initrd so that the same input gives the same bytes,
// and reads it back.
package initramfs

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
)

// Compression of an initrd.
type Compression string

// Gzip is understood by every kernel, zstd by those from 5.9 on that were built
// with CONFIG_RD_ZSTD.
const (
	Gzip Compression = "gzip"
	Zstd Compression = "zstd"
)

// Archive is the content of an initrd, without order: Write sorts it.
type Archive struct{ records map[string]cpio.Record }

// New returns an archive with the directories and the console node that a kernel
// needs before /init has mounted anything.
func New() *Archive {
	a := &Archive{records: map[string]cpio.Record{}}
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run", "/tmp"} {
		a.Dir(dir)
	}
	// Without it PID 1 starts with no standard output (init/main.c, console_on_rootfs).
	a.put("/dev/console", cpio.CharDev("dev/console", 0o600, 5, 1))
	return a
}

// maxFile is the most that a newc header can say: cpio(5).
const maxFile = 1<<32 - 1

// File adds a regular file owned by root. The same path twice is an error unless
// the content is the same.
func (a *Archive) File(name string, content []byte, mode uint64) error {
	if int64(len(content)) > maxFile {
		return fmt.Errorf("add %s: %d bytes, a cpio archive takes files below 4 GiB", name, len(content))
	}
	name = clean(name)
	if old, ok := a.records[name]; ok {
		had, err := recordContent(old)
		if err != nil || !bytes.Equal(had, content) || old.Mode&0o7777 != mode {
			return fmt.Errorf("add %s: it is already in the initrd with another content or mode", name)
		}
		return nil
	}
	a.Dir(path.Dir(name))
	a.put(name, cpio.StaticFile(strings.TrimPrefix(name, "/"), string(content), mode))
	return nil
}

// Symlink adds a symbolic link.
func (a *Archive) Symlink(name, target string) error {
	name = clean(name)
	if old, ok := a.records[name]; ok {
		if had, err := recordContent(old); err != nil || string(had) != target {
			return fmt.Errorf("add %s: it is already in the initrd as something else", name)
		}
		return nil
	}
	a.Dir(path.Dir(name))
	a.put(name, cpio.Symlink(strings.TrimPrefix(name, "/"), target))
	return nil
}

// Dir adds a directory and its parents.
func (a *Archive) Dir(name string) {
	name = clean(name)
	if _, ok := a.records[name]; ok || name == "/" {
		return
	}
	a.Dir(path.Dir(name))
	a.put(name, cpio.Directory(strings.TrimPrefix(name, "/"), 0o755))
}

func (a *Archive) put(name string, r cpio.Record) { a.records[name] = r }

func clean(name string) string { return path.Clean("/" + name) }

// Names returns the paths in the archive, sorted.
func (a *Archive) Names() []string {
	names := make([]string, 0, len(a.records))
	for name := range a.records {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// ErrNotThere says that a path is not in the initrd.
var ErrNotThere = errors.New("not in the initrd")

// Content returns a file's content, or the target of a symbolic link.
func (a *Archive) Content(name string) ([]byte, error) {
	r, ok := a.records[clean(name)]
	if !ok {
		return nil, fmt.Errorf("read %s: %w", name, ErrNotThere)
	}
	return recordContent(r)
}

// Mode returns type and permissions of an entry, as in st_mode.
func (a *Archive) Mode(name string) uint64 { return a.records[clean(name)].Mode }

func recordContent(r cpio.Record) ([]byte, error) {
	if r.ReaderAt == nil {
		return nil, nil
	}
	b := make([]byte, r.FileSize)
	if _, err := r.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read %s: %w", r.Name, err)
	}
	return b, nil
}

// Write writes the archive as newc cpio, compressed. Order, inode numbers, owners
// and times are fixed, so that the same content gives the same bytes.
func (a *Archive) Write(w io.Writer, c Compression) error {
	var z io.WriteCloser
	var err error
	switch c {
	case Gzip:
		z, err = gzip.NewWriterLevel(w, gzip.BestCompression)
	case Zstd:
		// One goroutine: the split into blocks must not depend on the machine.
		z, err = zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	default:
		return fmt.Errorf("write initrd: compression %q, expected %q or %q", c, Gzip, Zstd)
	}
	if err != nil {
		return fmt.Errorf("write initrd: %w", err)
	}
	rw := cpio.Newc.Writer(z)
	for i, name := range a.Names() {
		r := cpio.MakeReproducible(a.records[name])
		r.Ino = uint64(i + 1)
		if err := rw.WriteRecord(r); err != nil {
			return fmt.Errorf("write %s into the initrd: %w", name, err)
		}
	}
	if err := cpio.WriteTrailer(rw); err != nil {
		return fmt.Errorf("write initrd: %w", err)
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("write initrd: %w", err)
	}
	return nil
}

// maxInitrd bounds what is unpacked into memory from a file that may be anything.
const maxInitrd = 1 << 30

// ReadFile reads an initrd that Write has written.
func ReadFile(name string) (*Archive, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read initrd: %w", err)
	}
	defer f.Close()
	a, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("read initrd %s: %w", name, err)
	}
	return a, nil
}

// Read reads an initrd that Write has written.
func Read(r io.Reader) (*Archive, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, fmt.Errorf("too short: %w", err)
	}
	z, done, err := decompress(head, r)
	if err != nil {
		return nil, err
	}
	defer done()
	plain, err := io.ReadAll(io.LimitReader(z, maxInitrd+1))
	if err != nil {
		return nil, err
	}
	if len(plain) > maxInitrd {
		return nil, fmt.Errorf("unpacks to more than %d bytes", maxInitrd)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(plain)))
	if err != nil {
		return nil, err
	}
	a := &Archive{records: map[string]cpio.Record{}}
	for _, rec := range records {
		a.put(clean(rec.Name), rec)
	}
	return a, nil
}

// Is tells whether a file begins as an initrd of Write: a compressed cpio archive.
func Is(r io.Reader) bool {
	head := make([]byte, 4)
	if _, err := io.ReadFull(r, head); err != nil {
		return false
	}
	z, done, err := decompress(head, r)
	if err != nil {
		return false
	}
	defer done()
	magic := make([]byte, 6)
	_, err = io.ReadFull(z, magic)
	return err == nil && string(magic) == "070701" // newc: cpio(5)
}

// decompress returns a reader of the archive whose first four bytes were read.
func decompress(head []byte, r io.Reader) (io.Reader, func(), error) {
	r = io.MultiReader(bytes.NewReader(head), r)
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		return z, func() {}, err
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return nil, nil, fmt.Errorf("begins with % x, expected gzip or zstd", head)
}
