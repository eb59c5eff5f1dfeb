package lifeboat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"reimager/boot"
	"reimager/disk"
	"reimager/image"
	"reimager/imaging"
)

// Voyage is what happens to a disk between the old and the new system, in its order:
// CastOff, Write, ReadBack, BeginRestore, the restore itself, EndRestore, Land. Each may
// be done again. After a power cut it begins with CastOff again, or, where Done is
// Restored or later, with Land.
type Voyage struct {
	Boat     *Boat // nil: none; then a cut costs the machine
	Map      *image.Map
	Holding  []byte       // sector 0 until the machine lands
	Headers  []int64      // of a GPT, which are held back: offsets
	Image    []disk.Piece // what the image has in the sectors held back
	Landing  []disk.Piece // what they become, in the order of writing, sector 0 last
	Unmapped imaging.Unmapped
	BIOS     bool // starts this machine: sector 0 decides, and nothing else
	Buffers  int  // of the engine; 0: its own number
	// Warn takes what stops nothing; Written is called after each range; Comparing is told
	// how many bytes were compared after a cut; Landed is called when the disk boots the
	// new system, before the lifeboat is cleared away. Each may be nil.
	Warn      func(error)
	Written   func()
	Comparing func(bytes int64)
	Landed    func()

	castOff bool
	resumed bool // the disk holds a part of the image
}

// Done is how far the boat had come when it was found; empty without one.
func (v *Voyage) Done() State {
	if v.Boat == nil {
		return ""
	}
	return v.Boat.opened
}

// at tells whether the boat is at least in a state.
func (v *Voyage) at(s State) bool { return v.Boat != nil && v.Boat.State().Reached(s) }

// CastOff is the point of no return. Outside the berth the disk is as it was until
// sector 0 is replaced; undone says that it still is, for good, after an error.
func (v *Voyage) CastOff(dev *disk.Device) (undone bool, err error) {
	if v.at(Restored) {
		return false, nil // the disk has its headers
	}
	if v.Boat != nil {
		if undone, err := v.mayCastOff(dev); err != nil {
			return undone, err
		}
	}
	castOff := imaging.CastOff
	if v.BIOS {
		castOff = imaging.CastOffBIOS
	}
	undone, err = castOff(dev, v.Holding, v.Headers)
	v.castOff = err == nil
	return undone, err
}

// mayCastOff tells by sector 0 whether this is the first time, and refuses it unless this
// machine has started the lifeboat.
func (v *Voyage) mayCastOff(dev *disk.Device) (undone bool, err error) {
	sector0, err := dev.ReadSectors(0, int64(dev.SectorSize()))
	if err != nil {
		return false, err // nobody can say which system it starts
	}
	v.resumed = bytes.Equal(sector0, v.Holding)
	switch {
	case v.resumed:
	case boot.IsHolding(sector0) || v.at(Writing):
		return false, fmt.Errorf("cast off %s: sector 0 is neither that of the old system nor this lifeboat's", dev.Path())
	case !v.at(Proven):
		return true, fmt.Errorf("cast off %s: the lifeboat is %s, expected %s", dev.Path(), v.Boat.State(), Proven)
	}
	return false, nil
}

// Write writes the image, or what is missing of it, and treats what the image does not
// map. source is called if there is something to write.
func (v *Voyage) Write(ctx context.Context, dev *disk.Device, source func() (image.Source, io.Closer, error), progress func(bytes int64)) (written int64, err error) {
	if !v.castOff {
		return 0, fmt.Errorf("write %s: it is not cast off", dev.Path())
	}
	if err := v.enter(dev, Writing); err != nil {
		return 0, err
	}
	job := imaging.Job{
		Device: dev, Map: v.Map, Unmapped: v.Unmapped, Keep: v.keep(), Held: v.Headers,
		Buffers: v.Buffers, Progress: progress, Written: v.Written, Warn: v.Warn,
	}
	missing := true
	if v.resumed {
		differing, err := imaging.Differing(ctx, dev, v.Map, v.Image, v.Comparing)
		if err != nil {
			return 0, err
		}
		missing = slices.Contains(differing, true)
		job.Only = func(i int) bool { return differing[i] }
	}
	v.resumed = v.Boat != nil
	if missing {
		src, closer, err := source()
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, closer.Close()) }()
		job.Source = src
	}
	result, err := imaging.Write(ctx, job)
	if err != nil {
		return 0, err
	}
	return result.Bytes, nil
}

func (v *Voyage) enter(dev *disk.Device, s State) error {
	if v.Boat == nil {
		return nil
	}
	return v.Boat.Enter(dev, s)
}

func (v *Voyage) keep() []image.Extent {
	if v.Boat == nil {
		return nil
	}
	return v.Boat.Keep()
}

// ReadBack compares the disk with the map; what is held back is not there yet.
func (v *Voyage) ReadBack(ctx context.Context, dev *disk.Device, progress func(bytes int64)) error {
	return imaging.ReadBack(ctx, dev, v.Map, v.Image, progress)
}

// BeginRestore has to return before a filesystem of the new system is mounted for
// writing.
func (v *Voyage) BeginRestore(dev *disk.Device) error { return v.enter(dev, Restoring) }

// EndRestore is for a disk on which all is, unmounted, but what boots it. On a BIOS that
// is sector 0 alone, so that the headers of a GPT are written here.
func (v *Voyage) EndRestore(dev *disk.Device) error {
	// What unmounting wrote may still be in the disk's cache.
	if err := dev.Flush(); err != nil {
		return err
	}
	if v.BIOS {
		for _, p := range v.Landing {
			if p.Off == 0 {
				continue
			}
			if err := imaging.Put(dev, p); err != nil {
				return err
			}
		}
	}
	return v.enter(dev, Restored)
}

// Land makes the disk boot the new system. The archive goes first: whoever finds the
// new system finds no copy of what it keeps.
func (v *Voyage) Land(dev *disk.Device) error {
	if err := dev.Flush(); err != nil {
		return err
	}
	if err := v.erase(dev); err != nil {
		return err
	}
	for _, p := range v.Landing {
		if v.BIOS && p.Off != 0 {
			continue
		}
		if err := imaging.PutSettled(dev, p); err != nil {
			return err
		}
	}
	if v.Landed != nil {
		v.Landed()
	}
	if v.Boat != nil {
		if err := v.sink(dev); err != nil && v.Warn != nil {
			v.Warn(err) // the machine boots its new system all the same
		}
	}
	return nil
}

// erase erases key and archive.
func (v *Voyage) erase(dev *disk.Device) error {
	if v.Boat == nil {
		return nil
	}
	if !v.at(Restored) {
		return fmt.Errorf("land %s: the lifeboat is %s, expected %s", dev.Path(), v.Boat.State(), Restored)
	}
	if v.Done() == Restored { // as far as one slot says; it has to be both
		if err := v.Boat.Enter(dev, Restored); err != nil {
			return err
		}
	}
	if err := v.Boat.EraseKey(dev); err != nil {
		return err
	}
	if err := v.Boat.Enter(dev, Keyless); err != nil {
		return err
	}
	return v.Boat.EraseArchive(dev)
}

// sink leaves of the lifeboat what unmapped blocks may hold.
func (v *Voyage) sink(dev *disk.Device) error {
	all := []error{v.Boat.Sink(dev)}
	for _, e := range v.Boat.Keep() {
		switch v.Unmapped {
		case imaging.Zero:
			all = append(all, dev.Zero(e.Off, e.Bytes))
		case imaging.Discard:
			all = append(all, dev.Discard(e.Off, e.Bytes))
		}
	}
	return errors.Join(append(all, dev.Flush())...)
}
