package lifeboat

import (
	"errors"
	"fmt"
	"slices"

	"reimager/disk"
	"reimager/imaging"
)

// State is how far a lifeboat has come; what is recorded has happened, and is on the
// disk. Casting off and landing are told by sector 0 itself.
type State string

// The states, in their order.
const (
	Boarded   State = "boarded"   // all is in the berth
	Proven    State = "proven"    // this machine has started it from there
	Writing   State = "writing"   // cast off: the image is being written
	Restoring State = "restoring" // filesystems of the new system may be mounted for writing
	Restored  State = "restored"  // the new system is whole; only sector 0 is missing
	Keyless   State = "keyless"   // nobody can read the archive any more
)

func order() []State { return []State{Boarded, Proven, Writing, Restoring, Restored, Keyless} }

// Reached tells whether a state is at least as far as another one.
func (s State) Reached(other State) bool {
	return slices.Index(order(), s) >= slices.Index(order(), other)
}

func (s State) valid() bool { return slices.Contains(order(), s) }

// mayBecome says which state may follow. A cut leads back from restoring to writing,
// never behind restored: from there on the archive may be gone.
func (s State) mayBecome(next State) bool {
	switch {
	case !s.valid() || !next.valid():
		return false
	case s == next:
		return true
	case s == Restoring:
		return next == Writing || next == Restored
	case s == Boarded && next == Writing:
		return true // sector 0 tells that it was proven: a slot of the journal was lost
	}
	return slices.Index(order(), next) == slices.Index(order(), s)+1
}

// record is what a slot of the journal holds. Of two the one with the higher sequence
// counts, and the other one is written next: a torn record leaves the one before.
type record struct {
	RunID    string `json:"run_id"`
	Sequence uint64 `json:"sequence"`
	State    State  `json:"state"`
	Starts   int    `json:"starts"`   // how often the lifeboat was started from its berth
	Attempts int    `json:"attempts"` // how often the write was begun
}

func (r record) check(runID string) error {
	switch {
	case r.RunID != runID:
		return fmt.Errorf("read journal of the lifeboat: run %q, expected %q", r.RunID, runID)
	case r.Sequence == 0 || r.Sequence >= 1<<62 || !r.State.valid() || r.Starts < 0 || r.Attempts < 0:
		return fmt.Errorf("read journal of the lifeboat: sequence %d, state %q, %d starts, %d attempts are no record", r.Sequence, r.State, r.Starts, r.Attempts)
	}
	return nil
}

func parseRecord(block []byte, runID string) (record, error) {
	var r record
	err := unseal(journalMagic, block, &r)
	if err == nil {
		err = r.check(runID)
	}
	return r, err
}

func slotOff(b Berth, slot int) int64 { return b.Off + journalOff + int64(slot)*blockBytes }

// readJournal returns the record that counts, and its slot. One that is torn or cannot
// be read is none: the rules of recovery bear that the other one is a step behind.
func readJournal(dev *disk.Device, b Berth, runID string) (now record, slot int, err error) {
	var all []error
	for i := range 2 {
		block, err := dev.ReadSectors(slotOff(b, i), blockBytes)
		var r record
		if err == nil {
			r, err = parseRecord(block, runID)
		}
		if err != nil {
			all = append(all, err)
		} else if r.Sequence > now.Sequence {
			now, slot = r, i
		}
	}
	if now.Sequence == 0 {
		return record{}, 0, errors.Join(all...)
	}
	return now, slot, nil
}

// note writes a record into the older slot, flushes it and reads it back.
func (b *Boat) note(dev *disk.Device, r record) error {
	r.RunID, r.Sequence = b.header.RunID, b.now.Sequence+1
	block, err := seal(journalMagic, r)
	if err != nil {
		return err
	}
	slot := 1 - b.slot
	if err := imaging.Put(dev, disk.Piece{Off: slotOff(b.header.Berth, slot), Data: block}); err != nil {
		return fmt.Errorf("write journal of the lifeboat: %w", err)
	}
	b.now, b.slot = r, slot
	return nil
}

// State is how far the boat has come, by its journal.
func (b *Boat) State() State { return b.now.State }

// Starts is how often it was started from its berth.
func (b *Boat) Starts() int { return b.now.Starts }

// Attempts is how often the write was begun.
func (b *Boat) Attempts() int { return b.now.Attempts }

// Start counts that it was started from its berth.
func (b *Boat) Start(dev *disk.Device) error {
	next := b.now
	next.Starts++
	return b.note(dev, next)
}

// Enter records that a state is reached. It refuses one that may not follow.
func (b *Boat) Enter(dev *disk.Device, state State) error {
	if !b.now.State.mayBecome(state) {
		return fmt.Errorf("enter state %s of the lifeboat: it is %s", state, b.now.State)
	}
	next := b.now
	next.State = state
	if state == Writing {
		next.Attempts++
	}
	if err := b.note(dev, next); err != nil {
		return err
	}
	if state != Restored {
		return nil
	}
	// Into both slots: behind this there is no archive to restore from, so that no bad
	// sector may make an earlier state count.
	return b.note(dev, next)
}
