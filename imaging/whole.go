package imaging

import (
	"context"

	"reimager/image"
)

// WriteWhole writes an image and its sector 0. Sector 0 is cleared before anything
// else and written when check, which may read back, has nothing against the rest: at
// no time does a disk with half an image look bootable.
func WriteWhole(ctx context.Context, job Job, check func(*Result) error) (*Result, error) {
	if err := job.Check(); err != nil {
		return nil, err
	}
	sector := int64(job.Device.SectorSize())
	first := job.Map == nil || len(job.Map.Ranges) > 0 && job.Map.Ranges[0].Off == 0
	if k, is := overlap(image.Extent{Off: 0, Bytes: sector}, job.Keep); first && is {
		return nil, errKept(job.Device, image.Extent{Off: 0, Bytes: sector}, k)
	}
	if first {
		if err := WriteSector0(job.Device, make([]byte, sector)); err != nil {
			return nil, err
		}
	}
	result, err := Write(ctx, job)
	if err != nil {
		return nil, err
	}
	if err := check(result); err != nil {
		return nil, err
	}
	if result.Sector0 == nil {
		return result, nil
	}
	return result, WriteSector0(job.Device, result.Sector0)
}
