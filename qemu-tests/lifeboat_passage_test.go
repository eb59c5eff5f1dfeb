package qemutests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/qemu-tests/writelog"
	"reimager/vm"
)

// passage is a run with a lifeboat from the old system, which arms it, to the new one,
// with all that it wrote to its disk.
type passage struct {
	*scenario.Kiosk        // its Disk is as the new system has left it
	first           string // the disk before anything was started
	armed           string // the disk when the old system was left
	before          string // the disk when boarding began
	log             *writelog.Log
	lines           []vm.Line
	console         []byte
	resets          []int // entries of the log when the machine reset: armed, boarded, landed
	moments         []moment
	boat            sight // when it had boarded
	old, want       map[int]map[string]lab.Entry
}

// moment is where in the log a phase of the run begins.
type moment struct {
	entry int // so many entries are on the disk
	phase string
}

// The phases that are none of the journal's states.
const (
	phaseBoarding = "boarding"
	phaseCastOff  = "cast off" // and not yet writing
	phaseLanded   = "landed"
)

// phases are all, in their order.
func phases() []string {
	return []string{phaseBoarding, stateBoarded, stateProven, phaseCastOff, stateWriting, stateRestoring, stateRestored, stateKeyless, phaseLanded}
}

// passageOnce is the run from which the tests of the lifeboat take their disks.
var passageOnce = sync.OnceValues(func() (*passage, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	return sail(ctx, filepath.Join(shared, "passage"), scenario.Lifeboat())
})

// sail builds a machine, lets it run to its end and records it.
func sail(ctx context.Context, dir string, spec scenario.Spec) (*passage, error) {
	k, err := scenario.Build(ctx, dir, spec)
	if err != nil {
		return nil, err
	}
	p := &passage{Kiosk: k, first: filepath.Join(dir, "first.raw"), armed: filepath.Join(dir, "armed.raw"), before: filepath.Join(dir, "before.raw")}
	if err := lab.CopySparse(p.first, k.Disk); err != nil {
		return nil, err
	}
	if err := p.readTrees(ctx); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "write.log")
	blockdev, err := vm.LoggedBlockdev(0, k.Disk, file)
	if err != nil {
		return nil, err
	}
	guest, err := lab.Start(ctx, vm.Config{Drives: []vm.Drive{{Blockdev: blockdev, Serial: scenario.Serial}}, MemoryMiB: 512, CPUs: 1})
	if err != nil {
		return nil, err
	}
	defer guest.Kill()
	if err := p.watch(ctx, guest, file); err != nil {
		return nil, err
	}
	p.lines, p.console = guest.Console.Lines(), guest.Console.Bytes()
	if p.log, err = writelog.Open(file); err != nil {
		return nil, err
	}
	return p, p.findMoments(ctx)
}

// watch notes where the log is at each reset: until something is started again, the
// machine writes nothing.
func (p *passage) watch(ctx context.Context, guest *vm.VM, file string) error {
	reset := regexp.MustCompile(saysReset)
	for range 3 {
		if _, err := guest.WaitForMatch(ctx, reset); err != nil {
			return err
		}
		log, err := writelog.Open(file)
		if err != nil {
			return err
		}
		p.resets = append(p.resets, len(log.Entries()))
		if err := log.Close(); err != nil {
			return err
		}
	}
	if err := guest.WaitFor(ctx, p.New.Done()); err != nil {
		return err
	}
	return guest.WaitExit(ctx) // it powers off
}

// readTrees reads what is to be there in the end.
func (p *passage) readTrees(ctx context.Context) error {
	p.old, p.want = map[int]map[string]lab.Entry{}, map[int]map[string]lab.Entry{}
	var err error
	for _, partition := range []int{lab.KioskBoot, lab.KioskRoot, lab.KioskData, lab.KioskLog} {
		if p.old[partition], err = readTree(ctx, p.first, partition); err != nil {
			return err
		}
		if p.want[partition], err = readTree(ctx, p.NewRaw, partition); err != nil {
			return err
		}
		expectRetained(p.Kiosk, p.want[partition], p.old[partition], partition)
	}
	return nil
}

// findMoments repeats the run and looks at the disk whenever sector 0 or the fixed part
// of the berth was written.
func (p *passage) findMoments(ctx context.Context) error {
	berth, err := p.findBerth()
	if err != nil {
		return err
	}
	name := filepath.Join(p.Dir, "replayed.raw")
	defer os.Remove(name)
	if err := lab.CopySparse(name, p.first); err != nil {
		return err
	}
	r, err := writelog.NewReplay(p.log, name)
	if err != nil {
		return err
	}
	defer r.Close()
	for i, e := range p.log.Entries() {
		if i == p.resets[0] {
			if err := errors.Join(r.To(i), lab.CopySparse(p.armed, name)); err != nil {
				return err
			}
		}
		if len(p.moments) == 0 && e.Overlaps(berth, berthFixed) {
			if err := errors.Join(r.To(i), lab.CopySparse(p.before, name)); err != nil {
				return err
			}
			p.moments = []moment{{i + 1, phaseBoarding}}
		}
		if !e.Overlaps(berth, berthFixed) && !e.Overlaps(0, writelog.SectorSize) || len(p.moments) == 0 {
			continue
		}
		if err := r.To(i + 1); err != nil {
			return err
		}
		s, err := look(ctx, name)
		if err != nil {
			return fmt.Errorf("look at the disk after entry %d: %w", i, err)
		}
		last := p.moments[len(p.moments)-1].phase
		if now := s.phase(last); now != last {
			p.moments = append(p.moments, moment{i + 1, now})
		}
		if s.state == stateBoarded && p.boat.state == "" {
			p.boat = s
		}
	}
	return nil
}

// phase tells in what phase a disk is, of which the last one that was seen is known.
func (s sight) phase(last string) string {
	switch {
	case s.holding && (s.state == stateBoarded || s.state == stateProven):
		return phaseCastOff
	case s.holding:
		return s.state
	case last == phaseCastOff || last == stateWriting || last == stateRestoring || last == stateRestored || last == stateKeyless || last == phaseLanded:
		return phaseLanded
	case s.state == "":
		return phaseBoarding
	}
	return s.state
}

// findBerth finds out where the header was written.
func (p *passage) findBerth() (int64, error) {
	for _, e := range p.log.Entries() {
		if !e.Writes() {
			continue
		}
		data, err := io.ReadAll(p.log.Data(e))
		if err != nil {
			return 0, err
		}
		first := (e.Off-berthHeader+mebibyte-1)/mebibyte*mebibyte + berthHeader - e.Off
		for at := first; at < e.Bytes; at += mebibyte {
			if bytes.HasPrefix(data[at:], []byte(headerMagic)) {
				return e.Off + at - berthHeader, nil
			}
		}
	}
	return 0, errors.New("find berth: no header was ever written")
}

// interval returns the entries between which a run is in a phase; ok is false where it
// was never seen.
func (p *passage) interval(phase string) (from, to int, ok bool) {
	for i, m := range p.moments {
		if m.phase != phase {
			continue
		}
		to := p.resets[2]
		if i+1 < len(p.moments) {
			to = p.moments[i+1].entry
		}
		return m.entry, max(m.entry, to-1), true
	}
	return 0, 0, false
}

// cut makes the disk that a power cut would have left.
func (p *passage) cut(dir string, cuts []writelog.Cut, use func(writelog.Cut, string) error) error {
	p.log.SortCuts(cuts)
	name := filepath.Join(dir, "replayed.raw")
	defer os.Remove(name)
	if err := lab.CopySparse(name, p.first); err != nil {
		return err
	}
	r, err := writelog.NewReplay(p.log, name)
	if err != nil {
		return err
	}
	defer r.Close()
	for i, c := range cuts {
		disk := filepath.Join(dir, fmt.Sprintf("cut%d.raw", i))
		if err := r.Cut(c, disk, lab.CopySparse); err != nil {
			return err
		}
		if err := use(c, disk); err != nil {
			return err
		}
	}
	return nil
}

// said tells when the console said something for the first time.
func (p *passage) said(text string) (time.Duration, bool) {
	for _, line := range p.lines {
		if strings.Contains(line.Text, text) {
			return line.At, true
		}
	}
	return 0, false
}
