package qemutests

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/qemu-tests/writelog"
	"reimager/vm"
)

var powercuts = flag.Int("powercuts", 3, "how many machines TestPulledPlug runs; every third loses its power several times")

// window is a part of a run, from what the console says when it begins.
type window struct {
	name, says string
	length     time.Duration
}

// windows measures how long the parts of a run take.
func (p *passage) windows() ([]window, error) {
	all := []window{{name: "gather", says: "== stage gather"}, {name: "board", says: saysBoard}, {name: "boarded", says: saysBoarded},
		{name: "prove", says: saysProve}, {name: "write", says: saysCast}, {name: "read back", says: "== stage read back"},
		{name: "restore", says: "== stage restore"}, {name: "land", says: "== stage land"}}
	end, ok := p.said(saysLanded)
	if !ok {
		return nil, errors.New("measure a run: it did not land")
	}
	for i := len(all) - 1; i >= 0; i-- {
		begin, ok := p.said(all[i].says)
		if !ok || begin > end {
			return nil, fmt.Errorf("measure a run: the console lacks %q, or has it too late", all[i].says)
		}
		all[i].length, end = end-begin, begin
	}
	return all, nil
}

// QEMU is killed at random moments, spread over the parts of a run; what its disk had not
// flushed may be lost, reordered or torn. The machine is started again, a third of them
// to lose its power again, and comes to its end by itself.
func TestPulledPlug(t *testing.T) {
	t.Parallel()
	p := sailed(t)
	all, err := p.windows()
	must(t, err)
	for _, w := range all {
		t.Logf("%-9s takes %.1f s", w.name, w.length.Seconds())
	}
	var done, cuts atomic.Int64
	t.Run("machines", func(t *testing.T) {
		for i := range *powercuts {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				random := rand.New(rand.NewPCG(*seed, uint64(i)+1))
				plug := &plug{passage: p, disk: filepath.Join(t.TempDir(), "disk.raw"), random: random}
				defer func() {
					cuts.Add(int64(plug.cuts))
					if !t.Failed() {
						done.Add(1)
					}
					fmt.Printf("%3d of %d  %s: %s\n", i+1, *powercuts, plug.story, map[bool]string{true: "FAILED", false: "complete"}[t.Failed()])
				}()
				again, w := i%3 == 2, all[(i*3+random.IntN(3))%len(all)]
				if again { // behind casting off, from where it has to go on each time
					w = all[4+random.IntN(len(all)-4)]
				}
				plug.run(t, w, again)
			})
		}
	})
	fmt.Printf("pulled plug: %d power cuts, seed %d\n%d of %d complete\n", cuts.Load(), *seed, done.Load(), *powercuts)
}

// plug is a machine whose power is cut.
type plug struct {
	*passage
	disk   string
	random *rand.Rand
	cuts   int
	story  string
}

func (p *plug) run(t *testing.T, w window, again bool) {
	t.Helper()
	must(t, lab.CopySparse(p.disk, p.armed))
	after := time.Duration(p.random.Float64() * float64(w.length))
	p.story = fmt.Sprintf("%.2f s into %s", after.Seconds(), w.name)
	p.pull(t, func(guest *vm.VM) {
		wait(withTimeout(t), t, guest, w.says)
		time.Sleep(after)
	})
	for n := 0; again && n < 1+p.random.IntN(3); n++ {
		s, err := look(t.Context(), p.disk)
		must(t, err)
		if s.ends(false) == endsOld {
			break // it goes back, or has landed
		}
		p.pull(t, p.sometime)
	}
	complete(t, p.passage, p.disk)
}

// sometime waits for a random moment of the second start, or its end.
func (p *plug) sometime(guest *vm.VM) {
	begin, _ := p.said(saysBoarded)
	end, _ := p.said(saysLanded)
	after := time.Duration((0.2 + 0.8*p.random.Float64()) * float64(end-begin))
	p.story += fmt.Sprintf(", then after %.1f s", after.Seconds())
	select {
	case <-guest.Exited():
	case <-time.After(after):
	}
}

// pull starts the machine and cuts its power when until returns. Of what no flush has
// followed the disk may lose some.
func (p *plug) pull(t *testing.T, until func(*vm.VM)) {
	t.Helper()
	p.cuts++
	begin, file := p.disk+".begin", p.disk+".log"
	must(t, lab.CopySparse(begin, p.disk))
	blockdev, err := vm.LoggedBlockdev(0, p.disk, file)
	must(t, err)
	guest := start(t, vm.Config{Drives: []vm.Drive{{Blockdev: blockdev, Serial: scenario.Serial}}})
	until(guest)
	must(t, guest.Kill())
	losses := []writelog.Loss{writelog.Nothing, writelog.Unflushed, writelog.Reordered, writelog.Torn}
	cut := writelog.Cut{Loss: losses[p.random.IntN(len(losses))], Seed: p.random.Uint64()}
	log, err := writelog.Open(file)
	must(t, err)
	defer log.Close()
	cut.At = len(log.Entries())
	r, err := writelog.NewReplay(log, begin)
	must(t, err)
	defer r.Close()
	must(t, r.Cut(cut, p.disk, lab.CopySparse))
	p.story += fmt.Sprintf(" (%s: %d)", cut.Loss, log.Unflushed(cut.At))
	must(t, errors.Join(os.Remove(begin), os.Remove(file)))
}
