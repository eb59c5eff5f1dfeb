package lifeboat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"reimager/disk/simdisk"
	"reimager/image"
	"reimager/imaging"
)

// attempts is how often a run is tried before the machine is held, as in PID 1.
const attempts = 3

// insists is a run that is tried again after an error. The last one is returned.
func (s *scenario) insists(ctx context.Context, d *simdisk.Disk) (err error) {
	for range attempts {
		if err = sail(ctx, s, d); err == nil || d.Off() {
			return err
		}
	}
	return err
}

// held tells whether a machine that could not go on is as it may be: the old system
// whole, or one that starts the lifeboat and has lost nothing that is kept. A sector 0
// that cannot be read starts nothing.
func (r *run) held(c simdisk.Content, bad func(simdisk.Operation) bool) error {
	if bad != nil && bad(simdisk.Operation{Len: 512}) {
		return nil
	}
	starts, err := r.starts(c)
	switch {
	case starts == startsOld:
		return r.intact(c)
	case starts == startsNew:
		return r.landed(c)
	case starts == "":
		return err
	}
	if r.restored(c) {
		return nil
	}
	berth := c.Slice(simBerth, simRoom)
	for i, secret := range r.secrets {
		if encrypted := i == 0 || i > 1+(len(r.secrets)-2)/2; encrypted && !bytes.Contains(berth, secret) {
			return errors.New("it holds, and what is kept is lost")
		}
	}
	return err
}

// An operation that fails once, whether it was done or not, never costs more than time.
func TestErrorsAreSettled(t *testing.T) {
	for _, s := range []*scenario{newScenario(t, "gpt", "gpt", imaging.Zero), newScenario(t, "dos", "dos", imaging.Leave)} {
		cuts, err := s.cuts(t.Context(), sail)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cuts {
			for _, fails := range []simdisk.Failure{simdisk.FailBefore, simdisk.FailAfter} {
				d := s.old.Power()
				d.FailAt, d.Fails = c.n, fails
				b, err := s.board(t.Context(), d.Device())
				r := &run{scenario: s, rng: rand.New(rand.NewPCG(1, uint64(c.n)))}
				if err != nil {
					if err := r.intact(d.Now()); err != nil {
						t.Errorf("%s: operation %d fails: %v", s, c.n, err)
					}
					continue
				}
				if err := s.keepsSecret(b, d.Now()); err != nil {
					t.Fatal(err)
				}
				if err := s.insists(t.Context(), d); err != nil {
					t.Errorf("%s: operation %d, %v, fails %s it is done: %v", s, c.n, c.cut, fails, err)
				} else if err := r.arrived(d.Now()); err != nil {
					t.Errorf("%s: operation %d, %v, fails %s it is done: %v", s, c.n, c.cut, fails, err)
				}
			}
		}
	}
}

// spots are bad places of a disk, which show from some operation on.
type spots struct {
	extents []image.Extent
	reads   bool
	writes  bool
	from    int
}

func (b spots) on(d *simdisk.Disk) func(simdisk.Operation) bool {
	return func(o simdisk.Operation) bool {
		if o.Kind == simdisk.Flush || d.Operations() < b.from || o.Kind == "" && !b.reads || o.Kind != "" && !b.writes {
			return false
		}
		for _, e := range b.extents {
			if o.Off < e.End() && e.Off < o.Off+o.Len {
				return true
			}
		}
		return false
	}
}

// anyhow makes bad spots where they hurt.
func anyhow(s *scenario, rng *rand.Rand) spots {
	where := []image.Extent{
		{Off: 0, Bytes: 512}, {Off: 512, Bytes: 512}, {Off: simBytes - 512, Bytes: 512},
		{Off: simBerth, Bytes: headBytes}, {Off: simBerth + journalOff, Bytes: blockBytes}, {Off: simBerth + journalOff + blockBytes, Bytes: blockBytes},
		{Off: simBerth + sectionsOff, Bytes: simRoom - sectionsOff}, {Off: simPart, Bytes: 160 * kib}, {Off: 0, Bytes: simBytes},
	}
	b := spots{reads: rng.IntN(2) == 0, from: rng.IntN(180)}
	b.writes = !b.reads || rng.IntN(2) == 0
	for range 1 + rng.IntN(2) {
		w := where[rng.IntN(len(where))]
		sector := w.Off/512 + rng.Int64N(w.Bytes/512)
		b.extents = append(b.extents, image.Extent{Off: sector * 512, Bytes: 512 * min(1+rng.Int64N(8), simBytes/512-sector)})
	}
	return b
}

// Where the medium itself fails, with power cuts or without, the machine may hold. It
// never says that it has landed when it has not, and never loses both systems' files.
func TestBadSpots(t *testing.T) {
	all := []*scenario{newScenario(t, "gpt", "gpt", imaging.Leave), newScenario(t, "dos", "dos", imaging.Zero)}
	const runs = 3000
	var running sync.WaitGroup
	for worker := range runtime.GOMAXPROCS(0) {
		running.Go(func() {
			for seed := worker; seed < runs; seed += runtime.GOMAXPROCS(0) {
				s := *all[seed%len(all)]
				if err := s.withBadSpots(t.Context(), rand.New(rand.NewPCG(uint64(seed), 3))); err != nil {
					t.Errorf("%s: seed %d: %v", &s, seed, err)
				}
			}
		})
	}
	running.Wait()
}

func (s *scenario) withBadSpots(ctx context.Context, rng *rand.Rand) error {
	b := anyhow(s, rng)
	d := s.old.Power()
	d.Bad = b.on(d)
	boat, err := s.board(ctx, d.Device())
	r := &run{scenario: s, rng: rng}
	if err != nil {
		return r.intact(d.Now())
	}
	if err := s.keepsSecret(boat, d.Now()); err != nil {
		return err
	}
	for range maxCuts {
		if rng.IntN(2) == 0 {
			d.StopAt = d.Operations() + 1 + rng.IntN(r.longest())
		}
		err = s.insists(ctx, d)
		if !d.Off() {
			break
		}
		cut := d.Cut()
		b.from -= d.Operations()
		d = cut.Left(simdisk.Fates()[rng.IntN(len(simdisk.Fates()))], rng)
		d.Bad = b.on(d)
		err = fmt.Errorf("the power has gone")
	}
	if err != nil {
		return r.held(d.Now(), d.Bad)
	}
	// What does not sink is warned of.
	if starts, err := r.starts(d.Now()); starts != startsNew || err != nil {
		return fmt.Errorf("landed, but the machine starts %q, %w", starts, err)
	}
	return r.landed(d.Now())
}
