package screen

import (
	"math/rand/v2"
	"testing"
	"time"

	"reimager/report"
)

// Whatever a run tells, in whatever order, the bar never goes backwards, and stays
// between nothing and all.
func TestNeverBackwards(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 1))
		p := newPage(words(t, "en"), 0)
		last, now := 0.0, time.Unix(0, 0)
		size := func() int64 { return random.Int64N(1 << random.IntN(40)) }
		for range 400 {
			now = now.Add(time.Duration(random.Int64N(int64(5 * time.Second))))
			switch random.IntN(12) {
			case 0:
				p.Note(report.Event{Stage: []string{"gather", "write", "read back", "restore", "land", "else"}[random.IntN(6)]})
			case 1:
				p.Note(report.Event{Work: &report.Work{Image: size(), Mapped: size(), Retained: size()}})
			case 2:
				p.Again()
			case 3:
				p.Note(report.Event{Run: "x", Rehearsal: random.IntN(9) == 0})
			default:
				p.Note(report.Event{Count: &report.Count{What: []string{"verify", "retain", "write"}[random.IntN(3)], Done: size(), Total: size()}})
			}
			s := p.at(now)
			if s.Fraction < last || s.Fraction > 1 || s.Minutes < 0 {
				t.Fatalf("seed %d: from %f to %f, %d minutes", seed, last, s.Fraction, s.Minutes)
			}
			last = s.Fraction
		}
	}
}

// simulate runs a machine whose steps move bytes at these rates per second, and looks
// at each second. In the middle of its write one may begin again.
func simulate(t *testing.T, work report.Work, rates map[string]float64, failing bool, look func(now time.Duration, s State)) time.Duration {
	t.Helper()
	p := newPage(words(t, "en"), 0)
	begin := time.Unix(0, 0)
	now := begin
	step := func(stage, what string, total int64, upTo float64) {
		p.Note(report.Event{Stage: stage})
		p.Note(report.Event{Work: &work})
		for done := 0.0; done < upTo*float64(total); done += rates[what] {
			p.Note(report.Event{Count: &report.Count{What: what, Done: int64(done), Total: total}})
			now = now.Add(time.Second)
			look(now.Sub(begin), p.at(now))
		}
	}
	step("gather", "verify", work.Image, 1)
	if failing {
		step("write", "write", work.Mapped, 0.5)
		p.Again()
	}
	step("write", "write", work.Mapped, 1)
	step("read back", "compare", work.Mapped, 1)
	step("land", "", 0, 0)
	s := p.at(now)
	if s.Fraction < 0.9 || s.Step != Restart {
		t.Errorf("at its end: step %v, fraction %f", s.Step, s.Fraction)
	}
	return now.Sub(begin)
}

// The remaining time is there soon, does not jump, and is about right, although no step
// is as fast as the one before.
func TestRemaining(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, tt := range []struct {
		name    string
		work    report.Work
		rates   map[string]float64
		failing bool
		ups     int // how often more time may be told of than before
	}{
		{"even", report.Work{Image: 500 * mib, Mapped: 2000 * mib}, map[string]float64{"verify": 8 * mib, "write": 8 * mib, "compare": 8 * mib}, false, 1},
		{"slow writes", report.Work{Image: 500 * mib, Mapped: 2000 * mib}, map[string]float64{"verify": 20 * mib, "write": 5 * mib, "compare": 12 * mib}, false, 4},
		{"again", report.Work{Image: 500 * mib, Mapped: 2000 * mib}, map[string]float64{"verify": 8 * mib, "write": 8 * mib, "compare": 8 * mib}, true, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			type sample struct {
				now     time.Duration
				minutes int
			}
			var all []sample
			took := simulate(t, tt.work, tt.rates, tt.failing, func(now time.Duration, s State) { all = append(all, sample{now, s.Minutes}) })
			last, ups := 0, 0
			for _, s := range all {
				if s.minutes == 0 && s.now > 10*time.Second {
					t.Fatalf("after %s nothing is known of the remaining time", s.now)
				}
				if last != 0 && s.minutes > last {
					ups++
				}
				last = s.minutes
				if half := took / 2; s.now > half && !tt.failing {
					if left := (took - s.now).Minutes(); float64(s.minutes) < left/2-1 || float64(s.minutes) > 3*left+2 {
						t.Errorf("after %s of %s: %d minutes left", s.now, took, s.minutes)
					}
				}
			}
			if ups > tt.ups {
				t.Errorf("the remaining time grew %d times; want at most %d", ups, tt.ups)
			}
			if last != 1 {
				t.Errorf("in the last second: %d minutes left", last)
			}
		})
	}
}
