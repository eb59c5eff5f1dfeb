package qemutests

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"

	"reimager/qemu-tests/writelog"
)

var (
	prefixes = flag.Int("prefixes", 10, "from how many points of a recorded run TestRecordedRun starts the machine")
	seed     = flag.Uint64("seed", 1, "of what is random in TestRecordedRun and TestPulledPlug")
)

// atOnce is how many disks are made before their machines are started.
const atOnce = 10

// The machine is started from points of a recorded run, in each of its phases, with what
// was not flushed kept, lost, reordered or torn. It comes to its end by itself.
func TestRecordedRun(t *testing.T) {
	t.Parallel()
	p := sailed(t)
	cuts := p.choose(*prefixes, rand.New(rand.NewPCG(*seed, 0)))
	var done atomic.Int64
	for len(cuts) > 0 {
		n := min(atOnce, len(cuts))
		t.Run("cuts", func(t *testing.T) { p.startFrom(t, cuts[:n], &done) })
		cuts = cuts[n:]
	}
	t.Logf("seed %d", *seed)
	fmt.Printf("recorded run: %d of %d complete\n", done.Load(), *prefixes)
}

// startFrom starts the machine from each of these points, and counts those from which it
// completes.
func (p *passage) startFrom(t *testing.T, cuts []writelog.Cut, done *atomic.Int64) {
	must(t, p.cut(t.TempDir(), cuts, func(c writelog.Cut, disk string) error {
		t.Run(fmt.Sprintf("%s, entry %d", p.phaseAt(c.At), c.At), func(t *testing.T) {
			t.Parallel()
			t.Logf("%s: %s; %d writes were not flushed", filepath.Base(disk), c, p.log.Unflushed(c.At))
			complete(t, p, disk)
			if !t.Failed() {
				done.Add(1)
			}
		})
		return nil
	}))
}

// choose spreads n cuts over the phases. Those around casting off and landing are near
// the write of sector 0, which may be lost.
func (p *passage) choose(n int, random *rand.Rand) []writelog.Cut {
	losses := []writelog.Loss{writelog.Torn, writelog.Reordered, writelog.Unflushed, writelog.Nothing}
	type place struct {
		from, to int
		losses   []writelog.Loss
	}
	var places, rest []place
	for _, phase := range phases() {
		from, to, ok := p.interval(phase)
		if !ok {
			continue
		}
		all := place{from, to, losses}
		if phase == phaseCastOff || phase == phaseLanded {
			rest = append(rest, all)
			all = place{from, min(from+1, to), losses[:3]}
		}
		places = append(places, all)
	}
	places = append(places, rest...)
	var cuts []writelog.Cut
	for i := range n {
		in, round := places[i%len(places)], i/len(places)
		cuts = append(cuts, writelog.Cut{At: in.from + random.IntN(in.to-in.from+1), Loss: in.losses[(i+round)%len(in.losses)], Seed: random.Uint64()})
	}
	return cuts
}

// phaseAt tells in which phase the run was, had nothing been lost.
func (p *passage) phaseAt(entry int) string {
	phase := "before boarding"
	for _, m := range p.moments {
		if entry >= m.entry {
			phase = m.phase
		}
	}
	return phase
}

func sailed(t *testing.T) *passage {
	t.Helper()
	p, err := passageOnce()
	must(t, err)
	return p
}
