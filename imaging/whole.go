package imaging

import "context"

// WriteWhole writes an image and its sector 0. Sector 0 is cleared before anything
// else and written when check, which may read back, has nothing against the rest: at
// no time does a disk with half an image look bootable.
func WriteWhole(ctx context.Context, job Job, check func(*Result) error) (*Result, error) {
	if err := job.Check(); err != nil {
		return nil, err
	}
	sector := int64(job.Device.SectorSize())
	if err := WriteSector0(job.Device, make([]byte, sector)); err != nil {
		return nil, err
	}
	result, err := Write(ctx, job)
	if err != nil {
		return nil, err
	}
	if err := check(result); err != nil {
		return nil, err
	}
	return result, WriteSector0(job.Device, result.Sector0)
}
