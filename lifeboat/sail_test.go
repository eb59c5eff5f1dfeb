package lifeboat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"reimager/disk"
	"reimager/disk/simdisk"
	"reimager/image"
)

// sailing is a run from its berth on.
type sailing func(ctx context.Context, s *scenario, d *simdisk.Disk) error

// sail is what a run does that was started from its berth: what stages do, with the
// kernel's part of the restore replayed.
func sail(ctx context.Context, s *scenario, d *simdisk.Disk) error {
	return sailWith(ctx, s, d, func(v *Voyage) error {
		if err := s.restore(v, d); err != nil {
			return err
		}
		return v.EndRestore(d.Device())
	})
}

func sailWith(ctx context.Context, s *scenario, d *simdisk.Disk, restore func(*Voyage) error) error {
	dev := d.Device()
	v, err := s.voyage(ctx, dev)
	if err != nil {
		return err
	}
	if !v.Done().Reached(Restored) {
		if _, err := v.CastOff(dev); err != nil {
			return err
		}
		if _, err := v.Write(ctx, dev, s.source(v.Boat, dev), nil); err != nil {
			return err
		}
		if err := v.ReadBack(ctx, dev, nil); err != nil {
			return err
		}
		if err := restore(v); err != nil {
			return err
		}
	}
	return v.Land(dev)
}

// voyage opens the lifeboat and proves it.
func (s *scenario) voyage(ctx context.Context, dev *disk.Device) (*Voyage, error) {
	b, err := Open(dev, simBerth, simRun)
	if err != nil {
		return nil, err
	}
	if err := b.Start(dev); err != nil {
		return nil, err
	}
	if b.State() == Boarded {
		if err := b.Verify(ctx, dev, nil); err != nil {
			return nil, err
		}
		if err := b.Enter(dev, Proven); err != nil {
			return nil, err
		}
	}
	if err := s.compare(b, dev, Saved); err != nil {
		return nil, err
	}
	holding, err := b.Holding(s.image[:512])
	if err != nil {
		return nil, err
	}
	return &Voyage{
		Boat: b, Map: s.blocks, Holding: holding, Headers: s.headers, Image: s.held, Landing: s.landing,
		Unmapped: s.unmapped, BIOS: true, Buffers: 2, // one range after the other, so that a seed reproduces
	}, nil
}

func (s *scenario) source(b *Boat, dev *disk.Device) func() (image.Source, io.Closer, error) {
	return func() (image.Source, io.Closer, error) {
		r, err := b.Reader(dev, Image)
		if err != nil {
			return nil, nil, err
		}
		return &packedSource{r: r, blocks: s.blocks, zero: s.zero}, r, nil
	}
}

// restore puts the files back, which changes a filesystem that has to be the image's.
func (s *scenario) restore(v *Voyage, d *simdisk.Disk) error {
	dev, now := d.Device(), d.Now()
	for _, r := range s.blocks.Ranges {
		if r.Off < simPart {
			continue
		}
		if at := s.fresh.Differ(now, r.Off, r.Bytes); at >= 0 {
			return fmt.Errorf("files are put back into a filesystem that is not the image's at byte %d", at)
		}
	}
	if err := v.BeginRestore(dev); err != nil {
		return err
	}
	if err := s.compare(v.Boat, dev, Archive); err != nil {
		return err
	}
	return replay(dev, simPart, s.steps)
}

// compare tells whether a file has come back from the berth.
func (s *scenario) compare(b *Boat, dev *disk.Device, name string) error {
	r, err := b.Reader(dev, name)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(r)
	if err == nil && !bytes.Equal(got, s.files[name]) {
		err = fmt.Errorf("%s comes back otherwise", name)
	}
	return errors.Join(err, r.Close())
}
