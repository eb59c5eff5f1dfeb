package pack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"reimager/image"
)

// masked reads an image with zeros in place of what is not mapped, so that what was
// deleted neither travels nor takes space. Holes of a sparse file are not read.
type masked struct {
	f      *os.File
	mapped []image.Extent
	off    int64
	end    int64
	data   image.Extent // of the file, around off or behind it; before it lies a hole
}

// Read implements io.Reader.
func (m *masked) Read(p []byte) (int, error) {
	for len(m.mapped) > 0 && m.mapped[0].End() <= m.off {
		m.mapped = m.mapped[1:]
	}
	n := min(int64(len(p)), m.end-m.off)
	if n == 0 {
		return 0, io.EOF
	}
	if m.off >= m.data.End() {
		if err := m.findData(); err != nil {
			return 0, err
		}
	}
	from := m.end // nothing to read before it
	if len(m.mapped) > 0 {
		from = max(m.mapped[0].Off, m.data.Off)
	}
	if m.off < from {
		n = min(n, from-m.off)
		clear(p[:n])
		m.off += n
		return int(n), nil
	}
	n = min(n, m.mapped[0].End()-m.off, m.data.End()-m.off)
	got, err := m.f.ReadAt(p[:n], m.off)
	m.off += int64(got)
	if int64(got) == n {
		err = nil
	} else if errors.Is(err, io.EOF) {
		err = fmt.Errorf("read image: it ends at byte %d, expected %d: it was changed meanwhile", m.off, m.end)
	}
	return got, err
}

// findData finds the next data of the file: lseek(2), SEEK_DATA. What knows no holes,
// such as a disk, is all data.
func (m *masked) findData() error {
	fd := int(m.f.Fd())
	start, err := unix.Seek(fd, m.off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // a hole to the end
		m.data = image.Extent{Off: m.end}
		return nil
	case err != nil:
		m.data = image.Extent{Off: m.off, Bytes: m.end - m.off}
		return nil
	}
	end, err := unix.Seek(fd, start, unix.SEEK_HOLE)
	if err != nil {
		return fmt.Errorf("read image: find holes: %w", err)
	}
	m.data = image.Extent{Off: start, Bytes: end - start}
	return nil
}

// digester makes the map and the digest of an image that is written to it in order.
type digester struct {
	whole  hash.Hash
	part   hash.Hash
	off    int64
	ranges []image.MapRange
	next   int
}

func newDigester(mapped []image.Extent) *digester {
	d := &digester{whole: sha256.New(), part: sha256.New()}
	for _, e := range mapped {
		d.ranges = append(d.ranges, image.MapRange{Extent: e})
	}
	return d
}

// Write implements io.Writer.
func (d *digester) Write(p []byte) (int, error) {
	d.whole.Write(p)
	n := len(p)
	for len(p) > 0 && d.next < len(d.ranges) {
		r := &d.ranges[d.next]
		if skip := min(int64(len(p)), r.Off-d.off); skip > 0 {
			p, d.off = p[skip:], d.off+skip
			continue
		}
		k := min(int64(len(p)), r.End()-d.off)
		d.part.Write(p[:k])
		p, d.off = p[k:], d.off+k
		if d.off == r.End() {
			d.part.Sum(r.Digest[:0])
			d.part.Reset()
			d.next++
		}
	}
	d.off += int64(len(p))
	return n, nil
}

// result returns the map, and the digest of the whole image.
func (d *digester) result() (*image.Map, image.Digest) {
	var sum image.Digest
	d.whole.Sum(sum[:0])
	return &image.Map{Bytes: d.off, Ranges: d.ranges}, sum
}

// unpack decodes an image into a sparse file, since the layout of a disk cannot be read
// from front to back.
func unpack(ctx context.Context, compressed io.Reader, to *os.File, workers int) (image.Format, error) {
	src, err := image.Decode(compressed, workers)
	if err != nil {
		return "", err
	}
	err = sparse(ctx, to, src)
	return src.Format, errors.Join(err, src.Close())
}

func sparse(ctx context.Context, to *os.File, src image.Source) error {
	const hole = 64 << 10
	buf := make([]byte, 1<<20)
	off := int64(0)
	for ctx.Err() == nil {
		c, err := src.Next(buf)
		if err == io.EOF {
			return to.Truncate(off)
		}
		if err != nil {
			return err
		}
		off += c.Zeros
		for data := c.Data; len(data) > 0; {
			part := data[:min(len(data), hole)]
			data = data[len(part):]
			if !image.AllZero(part) {
				if _, err := to.WriteAt(part, off); err != nil {
					return fmt.Errorf("unpack image: %w", err)
				}
			}
			off += int64(len(part))
		}
	}
	return ctx.Err()
}

// sizeOf returns the size of a file or a block device in bytes.
func sizeOf(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("open image: %w", err)
	}
	switch {
	case info.Mode().IsRegular():
		return info.Size(), nil
	case info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0:
		return unix.Seek(int(f.Fd()), 0, io.SeekEnd)
	}
	return 0, fmt.Errorf("open image %s: neither a file nor a disk", f.Name())
}
