package main

import (
	"bytes"
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

// judgeBoarding says whether a machine may end so whose lifeboat boarded. Where it does not
// start, nothing of it is left that could, and no key.
func (v *victim) judgeBoarding(e *ending) verdict {
	got := verdict{end: endWrong}
	at := v.findHeader(v.now)
	switch outcome := e.outcome(); {
	case e.problem != "":
		got.blame("%s", e.problem)
	case outcome == "start the lifeboat":
		got.end = "boarded"
		if diff := v.isOld(); diff != "" || at == nil {
			got.blame("it has boarded, header %v, but %s", at != nil, diff)
		}
		return got
	case outcome == goBack:
		got.end = endBack
		judgeBack(&got, e, false, v)
	case outcome == goOn:
		got.end = endNew
		judgeNew(&got, v)
	default:
		got.blame("it ends with the outcome %q", outcome)
	}
	if at != nil {
		got.blame("there is a lifeboat in the berth")
	}
	for off := v.tail().Off; off < v.tail().Extent().End(); off += blockBytes {
		if block := v.now[off : off+blockBytes]; bytes.HasPrefix(block, []byte("reimager keyslot")) || bytes.HasPrefix(block, []byte(`{"gathered":`)) {
			got.blame("byte %d of the disk has a key, or what was gathered", off)
		}
	}
	if got.end == endBack && bytes.Contains(v.now, []byte("reimager_gate=prove")) {
		got.blame("GRUB would start the lifeboat")
	}
	return got
}

// tail is what is free behind the last partition.
func (v *victim) tail() lifeboat.Berth {
	const mib = 1 << 20
	end := int64(0)
	for number, p := range v.parts {
		if number != containerPartition {
			end = max(end, p.start+p.bytes)
		}
	}
	off := (end + mib - 1) / mib * mib
	return lifeboat.Berth{Off: off, Bytes: int64(len(v.old)) - off}
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
	if v.lifeboat = v.findHeader(v.old); v.lifeboat == nil {
		return lifeboat.ErrNoBoat
	}
	return nil
}

func (v *victim) findHeader(content []byte) *lifeboat.Header {
	const mib, header = 1 << 20, 4096
	for off := int64(mib); off < int64(len(content)); off += mib {
		h, err := lifeboat.ParseHeader(content[off+header:][:blockBytes], off, int64(len(content)))
		if err == nil {
			return &h
		}
	}
	return nil
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
