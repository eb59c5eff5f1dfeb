package disk

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SetPartitions makes the kernel know the partitions of a table that is not on the
// disk: now are those that it knows. Containers of logical partitions, in which nothing
// can be mounted, get no node, since the kernel refuses partitions that overlap.
// include/uapi/linux/blkpg.h.
func (d *Device) SetPartitions(ctx context.Context, now []Partition, table *Table) error {
	for _, p := range now {
		err := d.blkpg(ctx, unix.BLKPG_DEL_PARTITION, unix.BlkpgPartition{Pno: int32(p.Number)})
		// ENXIO: it has gone by itself.
		if err != nil && !errors.Is(err, unix.ENXIO) {
			return fmt.Errorf("drop partition %d of %s: %w", p.Number, d.path, err)
		}
	}
	for _, e := range table.Entries {
		if e.Extended {
			continue
		}
		err := d.blkpg(ctx, unix.BLKPG_ADD_PARTITION, unix.BlkpgPartition{Start: e.Start, Length: e.Bytes, Pno: int32(e.Number)})
		if err != nil {
			return fmt.Errorf("make partition %d of %s known: %w", e.Number, d.path, err)
		}
	}
	return nil
}

func (d *Device) blkpg(ctx context.Context, op int32, p unix.BlkpgPartition) error {
	arg := &unix.BlkpgIoctlArg{Op: op, Datalen: int32(unsafe.Sizeof(p)), Data: (*byte)(unsafe.Pointer(&p))}
	err := whileBusy(ctx, func() error { return d.ioctl(unix.BLKPG, unsafe.Pointer(arg)) })
	runtime.KeepAlive(&p)
	return err
}
