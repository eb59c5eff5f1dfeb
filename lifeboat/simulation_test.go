package lifeboat

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"reimager/disk"
	"reimager/disk/simdisk"
	"reimager/image"
	"reimager/imaging"
)

var (
	simVariants = flag.Int("sim.variants", 5, "how many disks are tried of each cut and fate")
	simOnly     = flag.String("sim.only", "", "the one state to try, as a failure names it: SCENARIO/CUT/FATE/VARIANT")
)

// run is a machine whose power goes again and again.
type run struct {
	*scenario
	sail   func(ctx context.Context, s *scenario, dev *disk.Device) error
	rng    *rand.Rand
	states *atomic.Int64
	told   []string // what has happened, for whoever has to find out
}

// sail is what a run does that was started from its berth: what stages do, with the
// kernel's part of the restore replayed.
func sail(ctx context.Context, s *scenario, dev *disk.Device) error {
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
		if err := s.restore(v, dev); err != nil {
			return err
		}
		if err := v.EndRestore(dev); err != nil {
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
		return &packedSource{r: r, blocks: s.blocks}, r, nil
	}
}

func (s *scenario) restore(v *Voyage, dev *disk.Device) error {
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

// maxCuts is how often the power goes after the first time.
const maxCuts = 2

// goesOn switches a disk on that a cut has left, until it runs through or the power has
// gone often enough. boarded: the gate may still have its turn.
func (r *run) goesOn(ctx context.Context, left *simdisk.Disk, boarded bool) error {
	for cuts := 0; ; cuts++ {
		r.states.Add(1)
		now := left.Now()
		starts, err := r.starts(now)
		if err != nil {
			return err
		}
		switch {
		case starts == startsNew:
			return r.landed(now)
		case starts == startsOld:
			if err := r.intact(now); err != nil {
				return err
			}
			if !boarded || r.rng.IntN(2) == 0 {
				return nil
			}
			if err := r.boots(now, now.Slice(simBerth, 512)); err != nil {
				return fmt.Errorf("chainloaded: %w", err)
			}
		}
		if cuts < maxCuts && r.rng.IntN(2) == 0 {
			left.StopAt = 1 + r.rng.IntN(r.longest())
		}
		err = r.sail(ctx, r.scenario, left.Device())
		if err == nil {
			r.states.Add(1)
			return r.arrived(left.Now())
		}
		if !left.Off() {
			return fmt.Errorf("it holds, and nothing is broken: %w", err)
		}
		cut, fate := left.Cut(), simdisk.Fates()[r.rng.IntN(len(simdisk.Fates()))]
		r.told = append(r.told, fmt.Sprintf("cut at operation %d, %v; what is in the cache %s", left.Operations(), cut, fate))
		left = cut.Left(fate, r.rng)
	}
}

// longest is more than a run has operations.
func (r *run) longest() int { return 100 + len(r.steps) }

// intact tells whether the old disk is as it was, outside the berth.
func (s *scenario) intact(c simdisk.Content) error {
	for _, e := range []image.Extent{{Off: 0, Bytes: simBerth}, {Off: simBerth + simRoom, Bytes: simBytes - simBerth - simRoom}} {
		if at := s.old.Differ(c, e.Off, e.Bytes); at >= 0 {
			return fmt.Errorf("the old system is started, but its disk has changed at byte %d", at)
		}
	}
	return nil
}

// arrived is landed for a run that has come to its end.
func (r *run) arrived(c simdisk.Content) error {
	if starts, err := r.starts(c); starts != startsNew || err != nil {
		return fmt.Errorf("landed, but the machine starts %s, %w", starts, err)
	}
	if c.Slice(simBerth+headerOff, 1)[0] != c.Slice(simBerth+journalOff, 1)[0] {
		return errors.New("landed, but there is a lifeboat")
	}
	return r.landed(c)
}

// landed tells whether the new system and all that was kept are there, and no copy of it.
func (r *run) landed(c simdisk.Content) error {
	for _, e := range r.exact {
		if at := r.want.Differ(c, e.Off, e.Bytes); at >= 0 {
			return fmt.Errorf("the new system is started, but its disk is wrong at byte %d", at)
		}
	}
	berth := c.Slice(simBerth, simRoom)
	if at := bytes.IndexFunc(berth[r.archive.Off-simBerth:][:r.archive.Bytes], func(b rune) bool { return b != 0 }); at >= 0 && r.unmapped != imaging.Discard {
		return fmt.Errorf("landed, but byte %d of the archive was not overwritten", at)
	}
	if bytes.Contains(berth, r.secrets[0]) {
		return errors.New("landed, but the key is there")
	}
	if r.rng.IntN(8) > 0 { // it takes a while
		return nil
	}
	for _, secret := range r.secrets {
		if bytes.Contains(berth, secret) {
			return errors.New("landed, but the archive or its key is in the berth")
		}
	}
	return nil
}

// keepsSecret notes what must not be in the berth at the end: the key, and pieces of the
// archive in plain and encrypted.
func (s *scenario) keepsSecret(b *Boat, c simdisk.Content) error {
	var slot keySlot
	if err := unseal(keyMagic, c.Slice(simBerth+keyOff, blockBytes), &slot); err != nil {
		return err
	}
	section, _ := b.header.Section(Archive)
	s.archive = section.extent()
	s.secrets = [][]byte{[]byte(base64.StdEncoding.EncodeToString(slot.Key)), slot.Key}
	for _, text := range [][]byte{s.files[Archive], c.Slice(section.Off, section.Bytes)} {
		for off := 0; off+32 < len(text); off += 4 * kib {
			s.secrets = append(s.secrets, text[off:off+32])
		}
	}
	return nil
}

func (s *scenario) String() string { return s.name }

// state is a disk that the simulation begins with.
type state struct {
	cut     simdisk.Cut
	n       int
	boarded bool
}

// cuts runs through once and returns each moment at which the power could go.
func (s *scenario) cuts(ctx context.Context, sail func(context.Context, *scenario, *disk.Device) error) ([]state, error) {
	d := s.old.Power()
	var all []state
	boarded := false
	d.Before = func(n int, o simdisk.Operation) {
		all = append(all, state{d.CutBefore(o), n, boarded})
	}
	b, err := s.board(ctx, d.Device())
	if err != nil {
		return nil, err
	}
	if err := s.keepsSecret(b, d.Now()); err != nil {
		return nil, err
	}
	boarded = true
	if err := sail(ctx, s, d.Device()); err != nil {
		return nil, err
	}
	return all, nil
}

// every tries every cut with every fate, some disks of each, and returns the failures.
func (s *scenario) every(ctx context.Context, variants int, only string, states *atomic.Int64, sail func(context.Context, *scenario, *disk.Device) error) (failures []string, err error) {
	cuts, err := s.cuts(ctx, sail)
	if err != nil {
		return nil, err
	}
	work := make(chan state)
	var mu sync.Mutex
	var running sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		running.Go(func() {
			for st := range work {
				for f, fate := range simdisk.Fates() {
					for variant := range variants {
						name := fmt.Sprintf("%s/%d/%s/%d", s, st.n, fate, variant)
						if only != "" && only != name {
							continue
						}
						r := &run{scenario: s, sail: sail, states: states, rng: rand.New(rand.NewPCG(uint64(st.n), uint64(f*1000+variant)))}
						r.told = []string{fmt.Sprintf("cut at operation %d, %v; what is in the cache %s", st.n, st.cut, fate)}
						if err := r.goesOn(ctx, st.cut.Left(fate, r.rng), st.boarded); err != nil {
							mu.Lock()
							failures = append(failures, fmt.Sprintf("%s: %v\n\t%s\n\tgo test ./lifeboat -run TestEveryCut -sim.only '%s'", name, err, strings.Join(r.told, "\n\t"), name))
							mu.Unlock()
						}
					}
				}
			}
		})
	}
	for _, st := range cuts {
		work <- st
	}
	close(work)
	running.Wait()
	return failures, nil
}

// The power may go at any operation, and again, and once more: the machine ends up with
// its new system and all that it keeps, or, before it has cast off, as it was.
func TestEveryCut(t *testing.T) {
	var states atomic.Int64
	for _, s := range scenarios(t) {
		if name, _, _ := strings.Cut(*simOnly, "/"); name != "" && name != s.name {
			continue
		}
		failures, err := s.every(t.Context(), *simVariants, *simOnly, &states, sail)
		if err != nil {
			t.Fatalf("%s: without a cut: %v", s, err)
		}
		for _, f := range failures[:min(3, len(failures))] {
			t.Error(f)
		}
		if len(failures) > 0 {
			t.Fatalf("%s: %d states failed", s, len(failures))
		}
	}
	t.Logf("%d states", states.Load())
	fmt.Fprintf(os.Stderr, "lifeboat: %d states after a power cut were tried\n", states.Load())
}
