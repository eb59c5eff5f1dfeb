package qemutests

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"

	"reimager/qemu-tests/lab"
)

// Where things are in a berth, by docs/lifeboat.md. The tests read it by themselves, so
// that the page is held to what it says.
const (
	mebibyte = 1 << 20

	berthHeader  = 4096
	berthJournal = 8192 // and one block further
	berthKeySlot = 16384
	berthFixed   = 65536 // sections come behind it
	sealedBytes  = 4096
)

// section is a part of what has boarded.
type section struct {
	Name   string `json:"name"`
	Off    int64  `json:"off"` // on the disk
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// sight is what a disk shows of its lifeboat to somebody who reads it from outside.
type sight struct {
	berth    int64 // where it begins; -1: there is none
	bytes    int64
	runID    string
	sections map[string]section
	state    string // by the journal; "": it has no valid record
	// holding says that a BIOS starts the lifeboat, and not the old system or the new one.
	holding bool
	gate    string // the old system's
}

func (s sight) String() string {
	first := "sector 0 is a system's"
	if s.holding {
		first = "sector 0 is the lifeboat's"
	}
	return fmt.Sprintf("journal %q, %s, gate %q", s.state, first, s.gate)
}

// look reads a disk.
func look(ctx context.Context, disk string) (_ sight, err error) {
	f, err := os.Open(disk)
	if err != nil {
		return sight{}, err
	}
	defer f.Close()
	s := sight{berth: -1}
	if err := s.findBerth(f); err != nil {
		return s, err
	}
	if s.berth >= 0 {
		s.state = journalState(f, s.berth, s.runID)
		code, own := make([]byte, 440), make([]byte, 440)
		_, err = f.ReadAt(code, 0)
		_, ownErr := f.ReadAt(own, s.berth)
		if err := errors.Join(err, ownErr); err != nil {
			return s, err
		}
		s.holding = bytes.Equal(code, own)
	}
	if !s.holding {
		s.gate = gateOn(ctx, disk)
	}
	return s, nil
}

// findBerth looks for a header at each place where one may be.
func (s *sight) findBerth(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	for off := int64(mebibyte); off < info.Size(); off += mebibyte {
		text := sealed(f, off+berthHeader, headerMagic)
		if text == nil {
			continue
		}
		var h struct {
			RunID    string    `json:"run_id"`
			Sections []section `json:"sections"`
			Berth    struct {
				Off   int64 `json:"off"`
				Bytes int64 `json:"bytes"`
			} `json:"berth"`
		}
		if err := json.Unmarshal(text, &h); err != nil {
			return fmt.Errorf("read header at byte %d: %w", off, err)
		}
		if h.Berth.Off != off || s.berth >= 0 {
			return fmt.Errorf("read header at byte %d: it says %d; another is at %d", off, h.Berth.Off, s.berth)
		}
		s.berth, s.bytes, s.runID, s.sections = off, h.Berth.Bytes, h.RunID, map[string]section{}
		for _, part := range h.Sections {
			s.sections[part.Name] = part
		}
	}
	return nil
}

// sealed reads a sealed block; nil: there is none, or it is damaged.
func sealed(r io.ReaderAt, off int64, magic string) []byte {
	block := make([]byte, sealedBytes)
	if _, err := r.ReadAt(block, off); err != nil || string(block[:16]) != magic {
		return nil
	}
	const text = 16 + 4 + sha256.Size
	n := int(binary.LittleEndian.Uint32(block[16:]))
	if n > sealedBytes-text || sha256.Sum256(block[text:text+n]) != [sha256.Size]byte(block[20:text]) {
		return nil
	}
	return block[text : text+n]
}

// journalState is what the newer valid record of a journal says.
func journalState(r io.ReaderAt, berth int64, runID string) string {
	state, newest := "", int64(-1)
	for slot := range int64(2) {
		var record struct {
			RunID    string `json:"run_id"`
			Sequence int64  `json:"sequence"`
			State    string `json:"state"`
		}
		text := sealed(r, berth+berthJournal+slot*sealedBytes, journalMagic)
		if text == nil || json.Unmarshal(text, &record) != nil || record.RunID != runID || record.Sequence <= newest {
			continue
		}
		state, newest = record.State, record.Sequence
	}
	return state
}

// gateOn reads the gate of an old system; "": there is none.
func gateOn(ctx context.Context, disk string) string {
	block, err := lab.ReadFile(ctx, disk, lab.KioskBoot, "/reimager/gate")
	if err != nil {
		return ""
	}
	found := regexp.MustCompile(`(?m)^reimager_gate=(.*)$`).FindSubmatch(block)
	if found == nil {
		return ""
	}
	return string(found[1])
}
