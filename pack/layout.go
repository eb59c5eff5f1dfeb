package pack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"reimager/boot"
	"reimager/disk"
	"reimager/filesystem"
	"reimager/image"
	"reimager/report"
)

// smallGap is the free space between used blocks that is mapped all the same: it
// costs the disk less than another request.
const smallGap = 64 << 10

// Partition is what was found in a partition of the image.
type Partition struct {
	disk.Entry
	Filesystem disk.Filesystem
	FreeBytes  int64  // left out of the map
	Whole      string // why nothing is left out; "" if something may be
}

// layout is what an image does to a disk.
type layout struct {
	table      *disk.Table
	sectorSize int
	partitions []Partition
	firmware   []string
	loaders    []string // of its EFI system partitions
	signed     []string // those of them that Secure Boot may start
	missing    []string // why they are not known, or not enough
	// mapped is what has to be written, in ranges of at most image.RangeBytes.
	mapped []image.Extent
}

// readLayout finds partitions, their filesystems, and what of them is free.
func readLayout(ctx context.Context, img io.ReaderAt, size int64) (*layout, error) {
	l := &layout{}
	if err := l.readTable(img, size); err != nil {
		return nil, err
	}
	var free []image.Extent
	for _, e := range l.table.Entries {
		if e.Extended {
			continue // an EBR lies before each of its partitions: mapped like all that is in none
		}
		if e.Start+e.Bytes > size {
			return nil, fmt.Errorf("read partition table: partition %d ends at byte %d, but the image has %d", e.Number, e.Start+e.Bytes, size)
		}
		p := Partition{Entry: e}
		part := io.NewSectionReader(img, e.Start, e.Bytes)
		var err error
		if p.Filesystem, err = disk.Probe(part); err != nil {
			return nil, fmt.Errorf("look at partition %d: %w", e.Number, err)
		}
		unused, err := filesystem.Unallocated(ctx, img, e.Start, e.Bytes, p.Filesystem)
		if err != nil {
			return nil, fmt.Errorf("look at partition %d: %w", e.Number, err)
		}
		p.Whole = unused.Whole
		if other, is := overlapping(l.table, e); is {
			unused.Extents, p.Whole = nil, fmt.Sprintf("mapped whole: partition %d overlaps it", other)
		}
		for _, u := range unused.Extents {
			free = append(free, image.Extent{Off: e.Start + u.Off, Bytes: u.Bytes})
		}
		p.FreeBytes = unused.Bytes()
		l.partitions = append(l.partitions, p)
	}
	l.mapped = ranges(image.Union(image.Complement(image.Inward(free, image.MapBlockBytes), size), smallGap))
	if err := l.readLoaders(ctx, img); err != nil {
		return nil, err
	}
	l.firmware = l.bootsWith(img)
	return l, nil
}

// readTable reads the partition table, whose sector size a GPT tells by where it lies.
func (l *layout) readTable(img io.ReaderAt, size int64) error {
	var all []error
	for _, sector := range []int{512, 4096} {
		t, err := disk.ReadTable(img, sector)
		if err == nil && size%int64(sector) != 0 {
			err = fmt.Errorf("the image has %d bytes, not a whole number of sectors of %d", size, sector)
		}
		if err == nil {
			l.table, l.sectorSize = t, sector
			return nil
		}
		if all = append(all, err); errors.Is(err, disk.ErrNoTable) {
			break
		}
	}
	return report.Hint(fmt.Errorf("read partition table: %w", errors.Join(all...)), "is it the image of a whole disk?")
}

func overlapping(t *disk.Table, e disk.Entry) (int, bool) {
	for _, o := range t.Entries {
		if o.Number != e.Number && !o.Extended && o.Start < e.Start+e.Bytes && e.Start < o.Start+o.Bytes {
			return o.Number, true
		}
	}
	return 0, false
}

// ranges cuts extents at multiples of image.RangeBytes.
func ranges(extents []image.Extent) []image.Extent {
	var out []image.Extent
	for _, e := range extents {
		for off := e.Off; off < e.End(); {
			end := min(e.End(), (off/image.RangeBytes+1)*image.RangeBytes)
			out = append(out, image.Extent{Off: off, Bytes: end - off})
			off = end
		}
	}
	return out
}

// The types of an EFI system partition in GPT and MBR: UEFI 2.10, 5.2 and 5.3.3.
const (
	espGUID = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	espMBR  = "ef"
)

// removableLoader is what UEFI starts from a disk that none of its boot entries names,
// and a new disk's partition is in none: UEFI 2.10, 3.5.1.1.
const removableLoader = "/EFI/BOOT/BOOTX64.EFI"

// readLoaders looks for what UEFI may start.
func (l *layout) readLoaders(ctx context.Context, img io.ReaderAt) error {
	there := false
	l.signed = []string{}
	for _, p := range l.partitions {
		if p.Type != espGUID && p.Type != espMBR {
			continue
		}
		there = true
		loaders, why, err := filesystem.UEFILoaders(ctx, img, p.Start, p.Bytes)
		if err != nil {
			return fmt.Errorf("look into partition %d: %w", p.Number, err)
		}
		if why != "" {
			l.missing = append(l.missing, fmt.Sprintf("partition %d: %s%s", p.Number, image.ESPNotRead, why))
		}
		for _, loader := range loaders {
			l.loaders = append(l.loaders, loader.Path)
			// A program that no PE32+ header describes is started by no firmware that
			// asks for signatures.
			if signed, err := boot.KernelSigned(loader); err == nil && signed {
				l.signed = append(l.signed, loader.Path)
			} else if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	if there && !slices.Contains(l.loaders, removableLoader) {
		l.missing = append(l.missing, "UEFI finds no "+removableLoader+" on its EFI system partition, and has no boot entry for another loader")
	}
	return nil
}

// bootsWith tells which firmware can boot the image: BIOS runs the code in its first
// sector, UEFI a loader in an EFI system partition.
func (l *layout) bootsWith(img io.ReaderAt) []string {
	const codeBytes = 440
	firmware := []string{}
	code := make([]byte, codeBytes)
	if _, err := img.ReadAt(code, 0); err == nil && !image.AllZero(code) {
		firmware = append(firmware, "bios")
	}
	if slices.Contains(l.loaders, removableLoader) {
		firmware = append(firmware, "uefi")
	}
	return firmware
}
