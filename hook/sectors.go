package hook

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"reimager/disk"
)

// GuardedBytes is how much of the beginning of a disk is guarded against hooks: the
// boot sector, a GPT, and what GRUB embeds before the first partition.
const GuardedBytes = 1 << 20

// Sectors are the first sectors of a disk, to be compared later.
type Sectors struct {
	data   []byte
	sector int64
	table  *disk.Table
}

// Snapshot reads the first n bytes of a disk, or all of a smaller one. Compare will
// leave out what lies in the partitions of the table, which filesystems change; one
// that a boot loader is in counts as none.
func Snapshot(r io.ReaderAt, sectorSize int, table *disk.Table, n int64) (*Sectors, error) {
	s := &Sectors{data: make([]byte, n), sector: int64(sectorSize), table: table}
	got, err := r.ReadAt(s.data, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read boot sectors: %w", err)
	}
	s.data = s.data[:got]
	return s, nil
}

// ChangedError says that something wrote to sectors outside of the partitions.
type ChangedError struct {
	First   int64 // LBA
	Sectors int
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("compare boot sectors: sector %d has changed, in all %d outside of the partitions", e.First, e.Sectors)
}

// Compare reads the same sectors again; a *ChangedError names the first that has
// changed. r should be Direct: the page cache of a disk does not know what was
// written through a partition.
func (s *Sectors) Compare(r io.ReaderAt) error {
	now, err := Snapshot(r, int(s.sector), s.table, int64(len(s.data)))
	if err != nil {
		return err
	}
	if len(now.data) != len(s.data) {
		return fmt.Errorf("compare boot sectors: got %d bytes, expected %d", len(now.data), len(s.data))
	}
	changed := &ChangedError{}
	for off := int64(0); off < int64(len(s.data)); off += s.sector {
		end := min(off+s.sector, int64(len(s.data)))
		if bytes.Equal(s.data[off:end], now.data[off:end]) || s.inPartition(off) {
			continue
		}
		if changed.Sectors == 0 {
			changed.First = off / s.sector
		}
		changed.Sectors++
	}
	if changed.Sectors > 0 {
		return changed
	}
	return nil
}

func (s *Sectors) inPartition(off int64) bool {
	for _, e := range s.table.Entries {
		// A partition cannot hold sector 0, whatever a table says.
		if !bootData(e) && off >= e.Start && off < e.Start+e.Bytes && off > 0 {
			return true
		}
	}
	return false
}

// biosBoot is the type of the GPT partition in which GRUB's core image lies, raw.
const biosBoot = "21686148-6449-6e6f-744e-656564454649"

// bootData tells whether what is called a partition has boot sectors and no
// filesystem: the container of logical partitions with its EBR, or BIOS boot.
func bootData(e disk.Entry) bool { return e.Extended || strings.EqualFold(e.Type, biosBoot) }

// Direct reads a device past the page cache, in whole sectors.
func Direct(d *disk.Device) io.ReaderAt { return direct{d} }

type direct struct{ d *disk.Device }

func (r direct) ReadAt(p []byte, off int64) (int, error) {
	data, err := r.d.ReadSectors(off, min(int64(len(p)), r.d.Bytes()-off))
	n := copy(p, data)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}
