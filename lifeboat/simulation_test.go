package lifeboat

import (
	"context"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"reimager/disk/simdisk"
)

var (
	simVariants = flag.Int("sim.variants", 6, "how many disks are tried of each cut and fate")
	simSeed     = flag.Uint64("sim.seed", 0, "other random numbers")
	simOnly     = flag.String("sim.only", "", "the one state to try, as a failure names it: SCENARIO/CUT/FATE/VARIANT")
)

// run is a machine whose power goes again and again.
type run struct {
	*scenario
	sail   sailing
	rng    *rand.Rand
	states *atomic.Int64
	told   []string // what has happened, for whoever has to find out
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
			left.StopAt = 1 + r.rng.IntN(1+r.rng.IntN(r.longest())) // what is left may be short
		}
		err = r.sail(ctx, r.scenario, left)
		if !left.Off() {
			if err != nil {
				return fmt.Errorf("it holds, and nothing is broken: %w", err)
			}
			return r.arrived(left.Now())
		}
		cut, fate := left.Cut(), simdisk.Fates()[r.rng.IntN(len(simdisk.Fates()))]
		r.told = append(r.told, fmt.Sprintf("cut at operation %d, %v; what is in the cache %s", left.Operations(), cut, fate))
		left = cut.Left(fate, r.rng)
	}
}

// longest is about what a run has of operations.
func (r *run) longest() int { return 100 + len(r.steps) }

func (s *scenario) String() string { return s.name }

// state is a disk that the simulation begins with.
type state struct {
	cut     simdisk.Cut
	n       int
	boarded bool
}

// cuts runs through once and returns each moment at which the power could go.
func (s *scenario) cuts(ctx context.Context, sail sailing) ([]state, error) {
	d := s.old.Power()
	if s.breaks != nil {
		s.breaks(d)
	}
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
	if err := sail(ctx, s, d); err != nil {
		return nil, err
	}
	return all, nil
}

// try is a disk that a cut has left.
type try struct {
	state
	fate    simdisk.Fate
	variant int
}

func (s *scenario) named(t try) string { return fmt.Sprintf("%s/%d/%s/%d", s, t.n, t.fate, t.variant) }

// every tries every cut with every fate, some disks of each, and returns the failures.
func (s *scenario) every(ctx context.Context, variants int, only string, states *atomic.Int64, sail sailing) (failures []string, err error) {
	cuts, err := s.cuts(ctx, sail)
	if err != nil {
		return nil, err
	}
	work := make(chan try)
	var mu sync.Mutex
	var running sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		running.Go(func() {
			for t := range work {
				if failure := s.try(ctx, t, states, sail); failure != "" {
					mu.Lock()
					failures = append(failures, failure)
					mu.Unlock()
				}
			}
		})
	}
	for _, c := range cuts {
		for _, fate := range simdisk.Fates() {
			for variant := range variants {
				if t := (try{c, fate, variant}); only == "" || only == s.named(t) {
					work <- t
				}
			}
		}
	}
	close(work)
	running.Wait()
	return failures, nil
}

// try tells what went wrong, and how it can be seen again.
func (s *scenario) try(ctx context.Context, t try, states *atomic.Int64, sail sailing) string {
	h := fnv.New64a()
	h.Write([]byte(s.named(t)))
	r := &run{scenario: s, sail: sail, states: states, rng: rand.New(rand.NewPCG(h.Sum64(), *simSeed))}
	r.told = []string{fmt.Sprintf("cut at operation %d, %v; what is in the cache %s", t.n, t.cut, t.fate)}
	err := r.goesOn(ctx, t.cut.Left(t.fate, r.rng), t.boarded)
	if err == nil {
		return ""
	}
	return fmt.Sprintf("%s: %v\n\t%s\n\tgo test ./lifeboat -run TestEveryCut -sim.seed %d -sim.only '%s'", s.named(t), err, strings.Join(r.told, "\n\t"), *simSeed, s.named(t))
}

// The power may go at any operation, and again, and once more: the machine ends up with
// its new system and all that it keeps, or, before it has cast off, as it was.
func TestEveryCut(t *testing.T) {
	var states atomic.Int64
	name, _, _ := strings.Cut(*simOnly, "/")
	for s := range scenarios(t, name) {
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
	// Shown with -v, and so by `just unit`.
	fmt.Printf("lifeboat: %d states that a power cut may leave were tried\n", states.Load())
}
