package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// MoveBackupGPT puts the backup of a GPT where it belongs, at the end of the disk:
// an image made for a smaller disk has left it in the middle, where firmware and
// tools take the table for damaged. The backup is written and flushed before the
// primary header is, so that a valid table is there at each moment. It returns
// false when nothing had to be moved. UEFI 2.10, 5.3.2.
func MoveBackupGPT(d *Device) (moved bool, err error) {
	sector := int64(d.sector)
	last := d.bytes/sector - 1
	header, err := d.ReadSectors(sector, sector)
	if err != nil {
		return false, err
	}
	if _, err := ReadTable(deviceAt{d}, d.sector); err != nil {
		return false, fmt.Errorf("move backup of GPT: %w", err)
	}
	if int64(binary.LittleEndian.Uint64(header[32:])) == last {
		return false, nil
	}
	start := int64(binary.LittleEndian.Uint64(header[72:]))
	entryBytes := int64(binary.LittleEndian.Uint32(header[80:])) * int64(binary.LittleEndian.Uint32(header[84:]))
	entryBytes = (entryBytes + sector - 1) / sector * sector
	entries, err := d.ReadSectors(start*sector, entryBytes)
	if err != nil {
		return false, err
	}
	backupEntries := last - entryBytes/sector
	binary.LittleEndian.PutUint64(header[48:], uint64(backupEntries-1)) // last usable
	binary.LittleEndian.PutUint64(header[32:], uint64(last))
	backup := append([]byte(nil), header...)
	binary.LittleEndian.PutUint64(backup[24:], uint64(last))
	binary.LittleEndian.PutUint64(backup[32:], 1)
	binary.LittleEndian.PutUint64(backup[72:], uint64(backupEntries))
	for _, w := range []struct {
		data []byte
		at   int64
	}{{entries, backupEntries}, {sum(backup), last}, {sum(header), 1}} {
		if err := d.WriteSectors(w.data, w.at*sector); err != nil {
			return false, err
		}
		if err := d.Flush(); err != nil {
			return false, err
		}
		is, err := d.ReadSectors(w.at*sector, int64(len(w.data)))
		if err == nil && !bytes.Equal(is, w.data) {
			err = fmt.Errorf("read back %s: sector %d is not what was written", d.path, w.at)
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// sum puts the CRC into a header of 92 bytes.
func sum(header []byte) []byte {
	clear(header[16:20])
	binary.LittleEndian.PutUint32(header[16:], crc32.ChecksumIEEE(header[:92]))
	return header
}

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

// deviceAt lets ReadTable read a device at any offset.
type deviceAt struct{ d *Device }

func (r deviceAt) ReadAt(p []byte, off int64) (int, error) {
	sector := int64(r.d.sector)
	from, to := off/sector*sector, (off+int64(len(p))+sector-1)/sector*sector
	data, err := r.d.ReadSectors(from, to-from)
	if err != nil {
		return 0, err
	}
	return copy(p, data[off-from:]), nil
}
