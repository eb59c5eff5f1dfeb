package imaging

import (
	"bytes"
	"fmt"

	"reimager/disk"
)

// WriteSector0 writes the first sector of a disk, flushes it and reads it back.
func WriteSector0(dev *disk.Device, sector []byte) error {
	if err := dev.WriteSectors(sector, 0); err != nil {
		return err
	}
	if err := dev.Flush(); err != nil {
		return err
	}
	is, err := ReadSector0(dev)
	if err == nil && !bytes.Equal(is, sector) {
		err = fmt.Errorf("read back %s: sector 0 is not what was written", dev.Path())
	}
	return err
}

// ReadSector0 reads the first sector of a disk.
func ReadSector0(dev *disk.Device) ([]byte, error) {
	return dev.ReadSectors(0, int64(dev.SectorSize()))
}
