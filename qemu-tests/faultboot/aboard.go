package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"reimager/image"
	"reimager/lifeboat"
)

// keySlot is where in a berth the archive's key is, and how long that is: docs/lifeboat.md.
const (
	keySlot      = 16384
	keySlotBytes = 4096
)

// embark lets a lifeboat board. The old disk is then one that starts it: whole, or, for
// the part "adrift", one that it has begun to rewrite.
func (v *victim) embark(o options) error {
	if err := replaceWord("reimager.job", o.job); err != nil {
		return err
	}
	e, _, err := v.try(forFaults())
	if err != nil {
		return err
	}
	if got := e.outcome(); got != "start the lifeboat" {
		return fmt.Errorf("boarding ends with %q, after\n%s", got, e.log)
	}
	v.old = bytes.Clone(v.now)
	if err := v.findBerth(); err != nil {
		return err
	}
	if err := replaceWord("reimager.lifeboat", fmt.Sprintf("%s@%d", runID, v.lifeboat.Berth.Off/sectorBytes)); err != nil {
		return err
	}
	// The first writes cast off and begin with the image.
	broken := fault{place{"write", "pwrite64"}, 4, true, unix.EIO}
	if e, _, err = v.try(forFaults(unix.SYS_PWRITE64), broken); err != nil {
		return err
	}
	v.holding = bytes.Clone(v.now[:sectorBytes])
	if !e.held || bytes.Equal(v.holding, v.old[:sectorBytes]) {
		return fmt.Errorf("a write that fails does not end in a hold behind casting off, but so:\n%s", e.log)
	}
	if o.part == "adrift" {
		v.old = bytes.Clone(v.now)
	}
	return nil
}

// replaceWord sets a word of the container's command line.
func replaceWord(key, value string) error {
	text, err := os.ReadFile(cmdlineFile)
	if err != nil {
		return err
	}
	var words []string
	for _, w := range strings.Fields(string(text)) {
		if !strings.HasPrefix(w, key+"=") {
			words = append(words, w)
		}
	}
	return os.WriteFile(cmdlineFile, []byte(strings.Join(append(words, key+"="+value), " ")+"\n"), 0o600)
}

// findBerth finds the header, which is in the second block of a berth.
func (v *victim) findBerth() error {
	const mib, header = 1 << 20, 4096
	for off := int64(mib); off < int64(len(v.old)); off += mib {
		h, err := lifeboat.ParseHeader(v.old[off+header:][:blockBytes], off, int64(len(v.old)))
		if err == nil {
			v.lifeboat = &h
			return nil
		}
		if !errors.Is(err, lifeboat.ErrNoBoat) {
			return err
		}
	}
	return lifeboat.ErrNoBoat
}

func (v *victim) inBerth(off int64) bool {
	return v.lifeboat != nil && off >= v.lifeboat.Berth.Off && off < v.lifeboat.Berth.Extent().End()
}

// judgeAboard says whether a machine that was started from its lifeboat may end so. Where
// its disk starts the lifeboat again, that comes to the new system.
func (v *victim) judgeAboard(e *ending) (verdict, error) {
	got := verdict{end: endWrong}
	switch sector := v.sector0(); {
	case e.problem != "":
		got.blame("%s", e.problem)
	case sector == "old" && !bytes.Equal(v.old[:sectorBytes], v.holding):
		got.end = endBack
		judgeBack(&got, e, true, v)
	case sector == "new":
		got.end = endNew
		judgeNew(&got, v)
		v.judgeErased(&got)
		if e.held {
			got.blame("the new system is complete, and the machine holds")
		}
	case bytes.Equal(v.now[:sectorBytes], v.holding):
		got.end = endHold
		if e.rebooted {
			got.end = "again"
		}
		next, _, err := run(forFaults(), nil)
		if err == nil {
			err = v.read()
		}
		if err != nil {
			return got, err
		}
		if next.problem != "" || next.outcome() != goOn {
			got.blame("the next start, of which nothing is broken, ends so: %q %s, with\n%s", next.outcome(), next.problem, next.log)
		}
		judgeNew(&got, v)
		v.judgeErased(&got)
	default:
		got.blame("its disk would boot what nobody knows")
	}
	if e.rebooted && (e.outcome() == goOn) != (got.end == endNew) {
		got.blame("the outcome %q, with a disk that ends %s", e.outcome(), got.end)
	}
	return got, nil
}

// judgeErased: whoever finds the new system finds no copy of what it keeps.
func (v *victim) judgeErased(got *verdict) {
	archive, _ := v.lifeboat.Section(lifeboat.Archive)
	for name, at := range map[string]image.Extent{"key": {Off: v.lifeboat.Berth.Off + keySlot, Bytes: keySlotBytes}, "archive": {Off: archive.Off, Bytes: archive.Bytes}} {
		if in := v.now[at.Off:at.End()]; len(in) == 0 || !image.AllZero(in) {
			got.blame("the %s is still in the berth", name)
		}
	}
}
