package lifeboat

import (
	"context"
	"sync/atomic"
	"testing"

	"reimager/disk/simdisk"
	"reimager/imaging"
)

// wrong are runs with one mistake each, which the simulation has to find.
func wrong() map[string]sailing {
	return map[string]sailing{
		"writes before it has cast off": func(ctx context.Context, s *scenario, d *simdisk.Disk) error {
			v, err := s.voyage(ctx, d.Device())
			if err != nil {
				return err
			}
			if !v.Done().Reached(Writing) {
				dev := d.Device()
				src, closer, err := s.source(v.Boat, dev)()
				if err != nil {
					return err
				}
				defer closer.Close()
				if _, err := imaging.Write(ctx, imaging.Job{Device: dev, Source: src, Map: s.blocks, Keep: v.Boat.Keep(), Held: s.headers, Buffers: 2}); err != nil {
					return err
				}
			}
			return sail(ctx, s, d)
		},
		"says that it has restored before it has": func(ctx context.Context, s *scenario, d *simdisk.Disk) error {
			return sailWith(ctx, s, d, func(v *Voyage) error {
				if err := v.BeginRestore(d.Device()); err != nil {
					return err
				}
				if err := v.EndRestore(d.Device()); err != nil {
					return err
				}
				return replay(d.Device(), simPart, s.steps)
			})
		},
		"erases the key before it has restored": func(ctx context.Context, s *scenario, d *simdisk.Disk) error {
			return sailWith(ctx, s, d, func(v *Voyage) error {
				if err := s.restore(v, d); err != nil {
					return err
				}
				if err := v.Boat.EraseKey(d.Device()); err != nil {
					return err
				}
				return v.EndRestore(d.Device())
			})
		},
		"goes on restoring after a cut": withoutWriting(Restoring),
		"lands before the archive is gone": func(ctx context.Context, s *scenario, d *simdisk.Disk) error {
			v, err := s.voyage(ctx, d.Device())
			if err == nil && v.Done().Reached(Restored) {
				err = imaging.Put(d.Device(), s.landing[len(s.landing)-1])
			}
			if err != nil {
				return err
			}
			return sail(ctx, s, d)
		},
		"takes a write that was cut short for whole": withoutWriting(Writing),
	}
}

// withoutWriting is a voyage that was cut in a state and does not write the image again.
func withoutWriting(state State) func(context.Context, *scenario, *simdisk.Disk) error {
	return func(ctx context.Context, s *scenario, d *simdisk.Disk) error {
		dev := d.Device()
		v, err := s.voyage(ctx, dev)
		if err != nil {
			return err
		}
		if v.Done() != state {
			return sail(ctx, s, d)
		}
		if err := s.restore(v, d); err != nil {
			return err
		}
		if err := v.EndRestore(dev); err != nil {
			return err
		}
		return v.Land(dev)
	}
}

// The simulation sees what it is there to see.
func TestSimulationIsNotBlind(t *testing.T) {
	s := newScenario(t, "gpt", "gpt", imaging.Leave)
	var states atomic.Int64
	for name, sail := range wrong() {
		failures, err := s.every(t.Context(), 1, "", &states, sail)
		if err != nil {
			t.Fatalf("%s: without a cut: %v", name, err)
		}
		if len(failures) == 0 {
			t.Errorf("a run that %s passes", name)
			continue
		}
		t.Logf("a run that %s fails in %d states: %.200s", name, len(failures), failures[0])
	}
}

// So it does disks whose flush is a lie, always or just once, which nothing of ours can
// make up for.
func TestSimulationSeesLostFlushes(t *testing.T) {
	s := newScenario(t, "gpt", "gpt", imaging.Leave)
	var puts []int // of sector 0, and the erasing of the archive
	d := s.old.Power()
	b, err := s.board(t.Context(), d.Device())
	if err != nil {
		t.Fatal(err)
	}
	archive, _ := b.header.Section(Archive)
	d.Before = func(n int, o simdisk.Operation) {
		if o.Kind == simdisk.Write && (o.Off == 0 || o.Off == archive.Off) {
			puts = append(puts, n)
		}
	}
	if err := sail(t.Context(), s, d); err != nil {
		t.Fatal(err)
	}
	if len(puts) != 3 {
		t.Fatalf("sector 0 and the archive are written by the operations %d; want three", puts)
	}
	for i, lies := range []func(*simdisk.Disk){
		func(d *simdisk.Disk) { d.Lies = true },
		func(d *simdisk.Disk) { d.LieAt = puts[0] + 1 },
		func(d *simdisk.Disk) { d.LieAt = puts[1] + 1 },
		func(d *simdisk.Disk) { d.LieAt = puts[2] + 1 },
	} {
		s.breaks = lies
		var states atomic.Int64
		variants := 2
		if i == 0 { // it takes its time
			variants = 1
		}
		failures, err := s.every(t.Context(), variants, "", &states, sail)
		if err != nil {
			t.Fatal(err)
		}
		if len(failures) == 0 {
			t.Error("a disk that does not flush passes")
			continue
		}
		t.Logf("%d states: %.200s", len(failures), failures[0])
	}
}
