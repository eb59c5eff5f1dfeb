package imaging

import (
	"context"
	"slices"

	"reimager/disk"
	"reimager/image"
)

// WriteWhole writes an image and what makes it bootable: its sector 0 and, where there
// may be a GPT, its headers. These are cleared before anything else and written when
// check, which may read back, has nothing against the rest: at no time does a disk with
// half an image look bootable.
func WriteWhole(ctx context.Context, job Job, check func(*Result) error) (*Result, error) {
	sector := int64(job.Device.SectorSize())
	job.Held = slices.DeleteFunc(disk.GPTHeaders(job.Device.Bytes(), job.Device.SectorSize()), func(off int64) bool {
		_, kept := overlap(image.Extent{Off: off, Bytes: sector}, job.Keep)
		return kept
	})
	if err := job.Check(); err != nil {
		return nil, err
	}
	if _, err := CastOff(job.Device, make([]byte, sector), job.Held); err != nil {
		return nil, err
	}
	result, err := Write(ctx, job)
	if err != nil {
		return nil, err
	}
	if err := check(result); err != nil {
		return nil, err
	}
	// From the end on: a GPT's backup, its header, sector 0.
	landing := slices.Clone(result.Held)
	slices.Reverse(landing)
	return result, Land(job.Device, landing)
}
