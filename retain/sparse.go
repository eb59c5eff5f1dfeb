package retain

import (
	"bufio"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// extent is a run of a file's content that is stored; what lies between two is a
// hole.
type extent struct{ offset, bytes int64 }

// maxExtents bounds the memory that a file's map takes. What lies behind so many
// is taken as data.
const maxExtents = 1 << 20

// dataExtents asks where an open file has data: lseek(2), SEEK_DATA. sparse is
// false where the file has no holes. Extents start and end at multiples of 512 or
// at the file's end, as GNU tar stores each of them in blocks of its own.
// Space that is allocated and was never written is a hole.
func dataExtents(fd int, size int64) (extents []extent, sparse bool, err error) {
	if size == 0 {
		return nil, false, nil
	}
	// A file without holes, as nearly all are, costs one call.
	hole, err := unix.Seek(fd, 0, unix.SEEK_HOLE)
	if err == unix.EINVAL || err == unix.EOPNOTSUPP {
		return nil, false, nil // a filesystem that can't tell: network and FUSE ones
	}
	if err != nil || hole >= size {
		return nil, false, err
	}
	for at := int64(0); at < size; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break // nothing but a hole up to the end
		}
		if err != nil {
			return nil, false, err
		}
		if at, err = unix.Seek(fd, data, unix.SEEK_HOLE); err != nil {
			return nil, false, err
		}
		if len(extents) == maxExtents {
			at = size
		}
		extents = addExtent(extents, data/tarBlock*tarBlock, min(blocks(at), size))
	}
	whole := len(extents) == 1 && extents[0] == extent{0, size}
	return extents, !whole, nil
}

// addExtent joins what touches.
func addExtent(extents []extent, start, end int64) []extent {
	if start >= end {
		return extents
	}
	if n := len(extents); n > 0 {
		if last := &extents[n-1]; start <= last.offset+last.bytes {
			last.bytes = max(last.bytes, end-last.offset)
			return extents
		}
	}
	return append(extents, extent{start, end - start})
}

func extentBytes(extents []extent) int64 {
	var sum int64
	for _, e := range extents {
		sum += e.bytes
	}
	return sum
}

// storedBytes is what map and data take in an archive.
func storedBytes(extents []extent, size int64) int64 {
	return int64(len(appendSparseMap(nil, extents, size))) + extentBytes(extents)
}

// appendSparseMap writes decimal numbers, one a line, padded to whole blocks: how
// many extents, then offset and length of each. A hole at the end is told by an
// empty extent there, at which GNU tar cuts the file to its length.
func appendSparseMap(b []byte, extents []extent, size int64) []byte {
	start := len(b)
	end := int64(0)
	if n := len(extents); n > 0 {
		end = extents[n-1].offset + extents[n-1].bytes
	}
	count := len(extents)
	if end < size {
		count++
	}
	line := func(n int64) { b = append(strconv.AppendInt(b, n, 10), '\n') }
	line(int64(count))
	for _, e := range extents {
		line(e.offset)
		line(e.bytes)
	}
	if end < size {
		line(size)
		line(0)
	}
	return appendPadding(b, int64(len(b)-start))
}

// errSparseMap is for a map that no writer makes.
var errSparseMap = errors.New("the map of a sparse file is broken")

// readSparseMap reads what appendSparseMap wrote from an archive that is not
// trusted: stored bytes at most, for a file of size bytes. It returns how many
// bytes the map took.
func readSparseMap(r *bufio.Reader, size, stored int64) (extents []extent, read int64, err error) {
	lines := mapLines{r: r, left: stored}
	count, err := lines.number()
	if err != nil {
		return nil, lines.read, err
	}
	// Two numbers of a digit and a newline each are the least that one takes.
	if count > maxExtents+2 || count > stored/4 {
		return nil, lines.read, fmt.Errorf("%w: %d extents", errSparseMap, count)
	}
	end, data := int64(0), int64(0)
	for range count {
		offset, err := lines.number()
		if err != nil {
			return nil, lines.read, err
		}
		n, err := lines.number()
		if err != nil {
			return nil, lines.read, err
		}
		if offset < end || offset > size || n > size-offset {
			return nil, lines.read, fmt.Errorf("%w: %d bytes at %d of %d", errSparseMap, n, offset, size)
		}
		end = offset + n
		data += n
		if n > 0 {
			extents = append(extents, extent{offset, n})
		}
	}
	padding := blocks(lines.read) - lines.read
	if lines.read+padding+data != stored {
		return nil, lines.read, fmt.Errorf("%w: map and data have %d bytes, and %d are stored", errSparseMap, lines.read+padding+data, stored)
	}
	n, err := r.Discard(int(padding))
	return extents, lines.read + int64(n), err
}

type mapLines struct {
	r          *bufio.Reader
	left, read int64
}

// number reads a line of at most 18 digits.
func (l *mapLines) number() (int64, error) {
	var v int64
	for n := 0; ; n++ {
		if l.left == 0 {
			return 0, errSparseMap
		}
		c, err := l.r.ReadByte()
		if err != nil {
			return 0, unexpectedEnd(err)
		}
		l.left--
		l.read++
		switch {
		case c == '\n' && n > 0:
			return v, nil
		case c < '0' || c > '9' || n == 18:
			return 0, errSparseMap
		}
		v = v*10 + int64(c-'0')
	}
}
