package lifeboat

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"

	"reimager/disk/simdisk"
	"reimager/image"
	"reimager/imaging"
)

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
		return fmt.Errorf("landed, but the machine starts %q, %w", starts, err)
	}
	if is, err := found(c, simBerth, simBytes, simRun); is || err != nil {
		return fmt.Errorf("landed, but a lifeboat is found, %w", err)
	}
	if r.unmapped == imaging.Zero {
		if at := r.want.Differ(c, 0, simBytes); at >= 0 {
			return fmt.Errorf("landed, but byte %d is left in the berth", at)
		}
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
	if s.unmapped != imaging.Discard { // the rest of the berth is nobody's, too
		s.exact = image.Complement(b.Keep(), simBytes)
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

// restored tells whether the journal says that the archive may go.
func (s *scenario) restored(c simdisk.Content) bool {
	for slot := range 2 {
		r, err := parseRecord(c.Slice(simBerth+journalOff+int64(slot)*blockBytes, blockBytes), simRun)
		if err == nil && r.State.Reached(Restored) {
			return true
		}
	}
	return false
}
