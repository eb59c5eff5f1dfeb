package disk

import (
	"os"
	"unsafe"
)

// ReadSectors reads n bytes at an offset, both multiples of the sector size, into
// ordinary memory.
func (d *Device) ReadSectors(off, n int64) ([]byte, error) {
	buf := aligned(int(n))
	if err := d.ReadAt(buf, off); err != nil {
		return nil, err
	}
	return buf, nil
}

// WriteSectors writes data of whole sectors from ordinary memory.
func (d *Device) WriteSectors(data []byte, off int64) error {
	buf := aligned(len(data))
	copy(buf, data)
	return d.WriteAt(buf, off)
}

// aligned is ordinary memory, which the garbage collector does not move, that begins at a
// page. For a few sectors, mapping and unmapping some (Buffer) costs more than the copy.
func aligned(n int) []byte {
	page := os.Getpagesize()
	buf := make([]byte, n+page)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(buf)))) & (page - 1)
	return buf[skip : skip+n : skip+n]
}
