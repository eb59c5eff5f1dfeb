package simdisk

import (
	"fmt"
	"math/rand/v2"
)

// Fate is what becomes of the writes that were not flushed as the power goes.
type Fate string

// The fates. What is torn is torn between sectors of SectorBytes.
const (
	Survives   Fate = "survives"
	Lost       Fate = "lost"
	Reordered  Fate = "reordered"  // any of them are there, in any order, and some of the one under way
	Scattered  Fate = "scattered"  // of each, the one under way too, any sectors are there
	Torn       Fate = "torn"       // all survive; the one under way is there up to a sector
	Unreadable Fate = "unreadable" // as torn, and the sector behind can't be read until it is written
)

// Fates are all of them.
func Fates() []Fate { return []Fate{Survives, Lost, Reordered, Scattered, Torn, Unreadable} }

// Cut is the moment at which the power goes: all that decides what may be left.
type Cut struct {
	medium   Content
	pending  []Operation
	underway Operation
	unread   map[int64]bool
}

// Cut is the moment at which the power went, of a disk that is off.
func (d *Disk) Cut() Cut {
	if !d.off {
		panic("simulated disk: the power is still on")
	}
	return Cut{d.medium, d.pending, d.underway, d.unread}
}

// CutBefore is the moment at which the power would go at an operation that Before is
// being told of. The disk goes on.
func (d *Disk) CutBefore(o Operation) Cut {
	return Cut{d.medium, append([]Operation(nil), d.pending...), o, nil}
}

// Left is a disk that the cut could have left, under power again. The same random
// numbers give the same disk.
func (c Cut) Left(fate Fate, rng *rand.Rand) *Disk {
	left := append(Content(nil), c.medium...)
	d := &Disk{}
	for s := range c.unread { // and not written since
		d.lose(s)
	}
	pending := c.pending
	if fate == Lost {
		pending = nil
	}
	if fate == Reordered {
		pending = subset(pending, rng)
	}
	for _, o := range pending {
		if fate == Scattered {
			o.scatter(left, rng)
		} else {
			o.apply(left, 0, o.Len)
		}
	}
	sectors := c.underway.Len / SectorBytes // none of a flush
	switch fate {
	case Reordered, Scattered:
		c.underway.scatter(left, rng)
	case Torn, Unreadable:
		n := rng.Int64N(sectors + 1)
		c.underway.apply(left, 0, n*SectorBytes)
		// A single sector is written whole or not at all.
		if fate == Unreadable && sectors > 1 && n < sectors {
			d.lose(c.underway.Off/SectorBytes + n)
		}
	}
	d.medium, d.now = left, append(Content(nil), left...)
	return d
}

// scatter applies runs of sectors, and leaves out others.
func (o Operation) scatter(c Content, rng *rand.Rand) {
	sectors := o.Len / SectorBytes
	there := rng.IntN(2) == 0
	for s := int64(0); s < sectors; there = !there {
		n := 1 + rng.Int64N(sectors-s)
		if there {
			o.apply(c, s*SectorBytes, n*SectorBytes)
		}
		s += n
	}
}

func (d *Disk) lose(sector int64) {
	if d.unread == nil {
		d.unread = map[int64]bool{}
	}
	d.unread[sector] = true
}

// subset is any of the operations in any order.
func subset(all []Operation, rng *rand.Rand) []Operation {
	var some []Operation
	for _, o := range all {
		if rng.IntN(2) == 0 {
			some = append(some, o)
		}
	}
	rng.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	return some
}

func (c Cut) String() string {
	return fmt.Sprintf("%s, with %d operations in the cache", c.underway, len(c.pending))
}
