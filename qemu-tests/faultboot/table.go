package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// place is a kind of system call in a stage of a run. Those of a fault that was asked for by
// name can be on one device only that was opened for writing: "close(sda1)" is on /dev/sda1.
// How often a device is opened to be looked at varies.
type place struct{ stage, call string }

// fault is one cell of the table: the n-th call of a kind in a stage fails; with
// onwards, so do all after it, as on a machine that is broken for good.
type fault struct {
	place
	nth     int
	onwards bool
	errno   unix.Errno
}

// String is how a fault is asked for again.
func (f fault) String() string {
	plus := ""
	if f.onwards {
		plus = "+"
	}
	return fmt.Sprintf("%s/%s/%d%s/%s", f.stage, f.call, f.nth, plus, unix.ErrnoName(f.errno))
}

// namesDevice tells whether the calls are on one device only that was opened for writing.
func (f fault) namesDevice() bool {
	return strings.Contains(f.call, "(") && !strings.HasPrefix(f.call, "ioctl(")
}

// strikes tells whether the n-th call at a place fails.
func (f fault) strikes(p place, n int) bool {
	return p == f.place && (n == f.nth || f.onwards && n > f.nth)
}

// parseFault reads what String has written.
func parseFault(text string) (fault, error) {
	part := strings.Split(text, "/")
	if len(part) != 4 {
		return fault{}, fmt.Errorf("parse fault %q: %d parts, expected STAGE/CALL/NTH/ERRNO", text, len(part))
	}
	number, onwards := strings.CutSuffix(part[2], "+")
	nth, err := strconv.Atoi(number)
	if err != nil || nth < 1 {
		return fault{}, fmt.Errorf("parse fault %q: %q is no count", text, part[2])
	}
	for errno := unix.Errno(1); errno < 134; errno++ {
		if unix.ErrnoName(errno) == part[3] {
			return fault{place{part[0], part[1]}, nth, onwards, errno}, nil
		}
	}
	return fault{}, fmt.Errorf("parse fault %q: %q is no error of Linux", text, part[3])
}

// kindOf returns the number of a call by its name.
func kindOf(name string) (int32, error) {
	base, _, _ := strings.Cut(name, "(")
	for nr, c := range calls() {
		if c.name == base {
			return nr, nil
		}
	}
	if number, ok := strings.CutPrefix(base, "syscall"); ok {
		nr, err := strconv.ParseInt(number, 10, 32)
		return int32(nr), err
	}
	return 0, fmt.Errorf("call %q is not known", name)
}

// table makes at most limit faults out of how often a clean run makes each call in
// each stage. In turn each place gets its first call, all from the first on, its last,
// and then calls between them, evenly spread; the errors of a kind take turns. What
// only Go's runtime calls comes last. The same counts give the same table.
func table(counts map[place]int, limit int) ([]fault, error) {
	var ours, runtimes []place
	for p := range counts {
		if slices.Contains(runtimeCalls(), p.call) {
			runtimes = append(runtimes, p)
		} else {
			ours = append(ours, p)
		}
	}
	all, err := turns(counts, ours)
	if err != nil {
		return nil, err
	}
	more, err := turns(counts, runtimes)
	if err != nil {
		return nil, err
	}
	// Few are spread over the first three turns, which are the telling ones.
	var faults []fault
	for _, round := range [][]fault{slices.Concat(all[:min(3, len(all))]...), slices.Concat(more...), slices.Concat(all[min(3, len(all)):]...)} {
		faults = append(faults, spread(round, limit-len(faults))...)
	}
	return faults, nil
}

// turns makes the faults of all places, turn by turn.
func turns(counts map[place]int, places []place) ([][]fault, error) {
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.stage, b.stage), cmp.Compare(a.call, b.call))
	})
	var all [][]fault
	for _, p := range places {
		nr, err := kindOf(p.call)
		if err != nil {
			return nil, err
		}
		errnos := calls()[nr].errnos
		if errnos == nil {
			errnos = []unix.Errno{unix.EIO}
		}
		for turn, o := range order(counts[p]) {
			if turn == len(all) {
				all = append(all, nil)
			}
			errno := errnos[turn%len(errnos)]
			if o.onwards { // a call that is interrupted for ever is no fault of any machine
				errno = errnos[0]
			}
			all[turn] = append(all[turn], fault{p, o.nth, o.onwards, errno})
		}
	}
	return all, nil
}

// occurrence is one of the calls of a kind, or all from it on.
type occurrence struct {
	nth     int
	onwards bool
}

// order returns the n calls of a kind in the order in which they are worth a try.
func order(n int) []occurrence {
	if n == 0 {
		return nil
	}
	all := []occurrence{{1, false}, {1, true}}
	if n > 1 {
		all = append(all, occurrence{n, false})
	}
	for gaps := [][2]int{{1, n}}; len(gaps) > 0; gaps = gaps[1:] { // breadth first
		low, high := gaps[0][0], gaps[0][1]
		if high-low < 2 {
			continue
		}
		middle := (low + high) / 2
		all = append(all, occurrence{middle, false})
		gaps = append(gaps, [2]int{low, middle}, [2]int{middle, high})
	}
	return all
}

// spread takes at most n of the faults, evenly.
func spread(faults []fault, n int) []fault {
	if len(faults) <= n {
		return faults
	}
	var some []fault
	for i := range n {
		some = append(some, faults[i*len(faults)/n])
	}
	return some
}
