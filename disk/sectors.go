package disk

import "errors"

// ReadSectors reads n bytes at an offset, both multiples of the sector size, into
// ordinary memory.
func (d *Device) ReadSectors(off, n int64) ([]byte, error) {
	buf, err := Buffer(int(n))
	if err != nil {
		return nil, err
	}
	err = d.ReadAt(buf, off)
	data := append([]byte(nil), buf...)
	return data, errors.Join(err, FreeBuffer(buf))
}

// WriteSectors writes data of whole sectors from ordinary memory.
func (d *Device) WriteSectors(data []byte, off int64) error {
	buf, err := Buffer(len(data))
	if err != nil {
		return err
	}
	copy(buf, data)
	return errors.Join(d.WriteAt(buf, off), FreeBuffer(buf))
}
