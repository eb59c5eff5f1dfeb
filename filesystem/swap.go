package filesystem

import (
	"encoding/binary"

	"reimager/disk"
)

// swapFree finds a swap area as the kernel does: by a signature in the last ten
// bytes of its first page (union swap_header in include/linux/swap.h). All behind
// that page is free while nothing is swapped out, and nothing is in an image.
func (p *partition) swapFree() ([]Extent, error) {
	for page := int64(4 << 10); page <= 64<<10 && page <= p.size; page *= 2 {
		head, err := p.read(0, page)
		if err != nil {
			return nil, err
		}
		switch signature := string(head[page-10:]); {
		case signature == "SWAPSPACE2":
			return p.swapPages(head)
		case disk.HibernationSignature(head[page-10:]):
			return nil, doubtf("swap holds a hibernated system")
		}
	}
	return nil, doubtf("no filesystem that is known")
}

func (p *partition) swapPages(head []byte) ([]Extent, error) {
	// mkswap makes a page of zeros but for these fields. Anything else in it belongs to
	// what overwrote an old swap area and left its signature.
	page := int64(len(head))
	if !zeros(head[:1024]) || !zeros(head[1068:page-10]) {
		return nil, doubtf("first page of swap has more in it than mkswap writes")
	}
	version := binary.LittleEndian.Uint32(head[1024:])
	end := (int64(binary.LittleEndian.Uint32(head[1028:])) + 1) * page // behind last_page
	bad := binary.LittleEndian.Uint32(head[1032:])
	switch {
	case version != 1:
		return nil, doubtf("swap has version %d, expected 1", version)
	case bad != 0:
		return nil, doubtf("swap lists %d bad pages", bad)
	case end <= page || end > p.size:
		return nil, doubtf("swap ends at byte %d of a partition of %d", end, p.size)
	}
	return add(nil, page, end-page), nil
}

func zeros(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
