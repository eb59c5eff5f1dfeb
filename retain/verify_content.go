package retain

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
)

// sums hashes an archive's content and a file's together until they differ, and
// each alone from there.
type sums struct {
	want, got           hash.Hash // got is nil while they are equal
	wantBytes, gotBytes int64
}

func (s *sums) add(want, got []byte) error {
	if s.got == nil && !bytes.Equal(want, got) {
		clone, err := s.want.(hash.Cloner).Clone()
		if err != nil {
			return err
		}
		s.got = clone
	}
	s.want.Write(want)
	if s.got != nil {
		s.got.Write(got)
	}
	s.wantBytes += int64(len(want))
	s.gotBytes += int64(len(got))
	return nil
}

func sumText(n int64, h hash.Hash) string {
	return fmt.Sprintf("%d bytes, sha256 %s", n, hex.EncodeToString(h.Sum(nil)))
}

// content compares a file with the archive byte by byte: its data, its length, and
// that there is nothing where the archive has holes.
func (v *verifier) content(it item, fd int, gotSize int64) error {
	v.sum.Reset()
	s := sums{want: v.sum}
	runs := it.extents
	if !it.sparse {
		runs = []extent{{0, it.size}}
	}
	for _, run := range runs {
		if err := v.data(&s, fd, run); err != nil {
			return err
		}
	}
	if s.got != nil {
		v.differ(it, "content", sumText(s.wantBytes, s.want), sumText(s.gotBytes, s.got))
		return nil
	}
	// stat(2) and reading have to agree on the end.
	n, err := pread(fd, v.gotBuf[:1], it.size)
	if err != nil {
		return err
	}
	if n > 0 || gotSize != it.size {
		v.differ(it, "content", fmt.Sprintf("%d bytes", it.size), fmt.Sprintf("%d bytes, the first as archived", max(gotSize, it.size+int64(n))))
		return nil
	}
	if it.sparse {
		return v.holes(it, fd)
	}
	return nil
}

// data compares a run of the content.
func (v *verifier) data(s *sums, fd int, run extent) error {
	for at, end := run.offset, run.offset+run.bytes; at < end; {
		want := v.wantBuf[:min(end-at, bufferBytes)]
		if _, err := io.ReadFull(v.in, want); err != nil {
			return fmt.Errorf("read from the archive: %w", unexpectedEnd(err))
		}
		n, err := preadFull(fd, v.gotBuf[:len(want)], at)
		if err != nil {
			return err
		}
		if err := s.add(want, v.gotBuf[:n]); err != nil {
			return err
		}
		at += int64(len(want))
		if err := v.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// largestBlock is more than any filesystem takes as its unit of allocation, so
// that data at a hole's edges may have grown by as much.
const largestBlock = 64 << 10

// holes compares what lies between the extents: it has to read as zeros, and
// should take no space.
func (v *verifier) holes(it item, fd int) error {
	got, sparse, err := dataExtents(fd, it.size)
	if err != nil {
		return fmt.Errorf("find its holes: %w", err)
	}
	if !sparse {
		got = []extent{{0, it.size}}
	}
	want := it.extents
	for _, g := range got {
		at, end := g.offset, g.offset+g.bytes
		for at < end {
			for len(want) > 0 && want[0].offset+want[0].bytes <= at {
				want = want[1:]
			}
			stop := end
			if len(want) > 0 {
				if want[0].offset <= at {
					at = want[0].offset + want[0].bytes
					continue
				}
				stop = min(end, want[0].offset)
			}
			if err := v.zeros(it, fd, at, stop); err != nil {
				return err
			}
			at = stop
		}
	}
	archived, there := extentBytes(it.extents), extentBytes(got)
	if grown := there - archived; grown > int64(len(it.extents)+1)*2*largestBlock {
		v.differ(it, "holes", fmt.Sprintf("%d bytes of data", archived), fmt.Sprintf("%d bytes of data", there))
	}
	return nil
}

// zeros compares with a hole.
func (v *verifier) zeros(it item, fd int, at, end int64) error {
	clear(v.wantBuf)
	for at < end {
		n, err := preadFull(fd, v.gotBuf[:min(end-at, bufferBytes)], at)
		if err != nil {
			return err
		}
		if n == 0 || !bytes.Equal(v.gotBuf[:n], v.wantBuf[:n]) {
			v.differ(it, "content", "a hole at byte "+fmt.Sprint(at), "data, sha256 "+fmt.Sprintf("%x", sha256.Sum256(v.gotBuf[:n])))
			return nil
		}
		at += int64(n)
		if err := v.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// preadFull reads until p is full or the file at its end.
func preadFull(fd int, p []byte, at int64) (n int, err error) {
	for n < len(p) {
		more, err := pread(fd, p[n:], at+int64(n))
		if err != nil || more == 0 {
			return n, err
		}
		n += more
	}
	return n, nil
}
