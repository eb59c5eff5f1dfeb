package qemutests

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/report"
	"reimager/vm"
)

// How a machine may end whose power was cut.
const (
	endsOld  = "the old system"
	endsNew  = "the new system"
	endsHold = "a hold"
)

// ends tells which it has to be. Before casting off nothing is lost yet, and the machine
// goes on by itself only where the old system's GRUB has the order to start the lifeboat.
func (s sight) ends(landed bool) string {
	if s.holding || landed || s.gate == gateProve && s.state == stateBoarded {
		return endsNew
	}
	return endsOld
}

// complete starts a machine and leaves it alone until it is at its end, which is then
// compared with what it has to be.
func complete(t *testing.T, p *passage, disk string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := look(ctx, disk)
	must(t, err)
	landed := sameBytes(t, disk, p.NewRaw, 0, 512)
	want := s.ends(landed)
	t.Logf("%s; has to end in %s", s, want)
	if want == endsOld {
		p.checkUntouched(t, disk)
	}
	guest := start(t, vm.Config{Drives: []vm.Drive{{Path: disk, Serial: scenario.Serial}}})
	if got := p.end(ctx, t, guest); got != want {
		t.Fatalf("it ended in %s; want %s", got, want)
	}
	if want == endsNew {
		waitExit(ctx, t, guest) // it powers off
		p.checkNew(t, disk, !landed)
		return
	}
	must(t, guest.Kill())
	if last := reportOn(t, disk).Record; last.Outcome == "rehearsed" || last.Error == "" {
		t.Errorf("report: outcome %q, error %q; want a run that failed or was interrupted", last.Outcome, last.Error)
	}
}

// end waits for a machine's end.
func (p *passage) end(ctx context.Context, t *testing.T, guest *vm.VM) string {
	t.Helper()
	const back = "old: BACK AFTER A" // failed run, or one without a report
	all := []string{regexp.QuoteMeta(p.New.Done()), back, saysHolds}
	found, err := guest.WaitForMatch(ctx, regexp.MustCompile(strings.Join(all, "|")))
	must(t, err)
	switch found[0] {
	case back:
		return endsOld
	case saysHolds:
		return endsHold
	}
	return endsNew
}

// checkNew compares a disk with the image, but for what is kept: files, what is outside
// of any filesystem, and what must not be there.
func (p *passage) checkNew(t *testing.T, disk string, finished bool) {
	t.Helper()
	for _, partition := range slices.Sorted(maps.Keys(p.want)) {
		want, got := maps.Clone(p.want[partition]), tree(t, disk, partition)
		forget(want, got, partition)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("partition %d (-want +got):\n%s", partition, diff)
		}
		p.fsck(t, disk, partition)
	}
	behind := int64(512)
	if p.New.GPT { // its header is behind sector 0, and names the end of this disk
		checkTable(t, p.NewRaw, disk)
		behind = 1024
	}
	if !sameBytes(t, disk, p.NewRaw, 0, 512) || !sameBytes(t, disk, p.NewRaw, behind, mebibyte-behind) {
		t.Error("the first MiB of the disk is not the image's")
	}
	p.checkSunk(t, disk, finished)
	p.checkSecrets(t, disk)
}

// fsck asks for faults that no file shows.
func (p *passage) fsck(t *testing.T, disk string, partition int) {
	t.Helper()
	table, err := lab.ReadTable(t.Context(), disk)
	must(t, err)
	e, err := table.Entry(partition)
	must(t, err)
	if out, err := exec.Command("e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", disk, e.Offset)).CombinedOutput(); err != nil {
		t.Errorf("e2fsck of partition %d: %v\n%s", partition, err, out)
	}
}

// checkSunk makes sure that nobody can read what was retained from the berth, and, where
// the machine could finish what it does after landing, that nothing finds a lifeboat.
func (p *passage) checkSunk(t *testing.T, disk string, finished bool) {
	t.Helper()
	if s, err := look(t.Context(), disk); err != nil || s.holding || finished && s.berth >= 0 {
		t.Errorf("%s, %v; want a disk without a lifeboat", s, err)
	}
	b := p.boat
	parts := []section{{Name: "key slot", Off: b.berth + berthKeySlot, Bytes: sealedBytes}, b.sections["archive"]}
	if finished {
		parts = append(parts, section{Name: "head", Off: b.berth, Bytes: berthFixed}, b.sections["state"])
	}
	for _, part := range parts {
		if part.Bytes == 0 || len(bytes.Trim(readRange(t, disk, part.Off, part.Bytes), "\x00")) > 0 {
			t.Errorf("%s: something of it is left in the berth", part.Name)
		}
	}
}

// checkSecrets looks for retained secrets outside of the files that have them.
func (p *passage) checkSecrets(t *testing.T, disk string) {
	t.Helper()
	own := fileBlocks(t, disk, lab.KioskRoot, "/"+scenario.VaultFile)
	if len(own) == 0 {
		t.Fatal("the vault has no blocks")
	}
	found := 0
	for _, off := range findAll(t, disk, scenario.VaultLine) {
		if slices.ContainsFunc(own, func(b int64) bool { return off >= b && off < b+4096 }) {
			found++
			continue
		}
		t.Errorf("byte %d of the disk has a retained secret, outside of its file", off)
		break
	}
	if want := strings.Count(scenario.Vault(), scenario.VaultLine); found != want {
		t.Errorf("the file has %d of its lines; want %d", found, want)
	}
}

// checkUntouched compares a disk that was not cast off with what it was when boarding
// began: GRUB and init have overwritten grubenv, gate and report in place, and the berth
// has its content.
func (p *passage) checkUntouched(t *testing.T, disk string) {
	t.Helper()
	var outside []int64
	for _, off := range changed(t, p.before, disk) {
		if off < p.boat.berth || off >= p.boat.berth+p.boat.bytes {
			outside = append(outside, off)
		}
	}
	if most := 2 + report.FileBytes/report.FileBlockBytes; len(outside) > most {
		t.Errorf("%d blocks outside of the berth were changed, first at byte %d; grubenv, gate and the report are %d", len(outside), outside[0], most)
	}
	if diff := cmp.Diff(p.withoutReport(t, p.before), p.withoutReport(t, disk)); diff != "" {
		t.Errorf("the old system was changed (-was +is):\n%s", diff)
	}
}

func (p *passage) withoutReport(t *testing.T, disk string) map[string]lab.Entry {
	t.Helper()
	files := tree(t, disk, lab.KioskRoot)
	e := files["var/lib/reimager/report"]
	e.SHA256 = ""
	files["var/lib/reimager/report"] = e
	return files
}

// fileBlocks returns where on a disk the blocks of a file are.
func fileBlocks(t *testing.T, disk string, partition int, path string) []int64 {
	t.Helper()
	table, err := lab.ReadTable(t.Context(), disk)
	must(t, err)
	e, err := table.Entry(partition)
	must(t, err)
	out, err := vm.Run(t.Context(), "debugfs", "-R", "blocks "+path, fmt.Sprintf("%s?offset=%d", disk, e.Offset))
	must(t, err)
	var offsets []int64
	for _, field := range strings.Fields(string(out)) {
		var block int64
		if _, err := fmt.Sscan(field, &block); err == nil {
			offsets = append(offsets, e.Offset+block*4096)
		}
	}
	return offsets
}

// findAll returns where on a disk a text is.
func findAll(t *testing.T, disk, text string) (offsets []int64) {
	t.Helper()
	content, err := os.ReadFile(disk)
	must(t, err)
	for at := 0; ; {
		i := bytes.Index(content[at:], []byte(text))
		if i < 0 {
			return offsets
		}
		offsets = append(offsets, int64(at+i))
		at += i + len(text)
	}
}

func readRange(t *testing.T, name string, off, n int64) []byte {
	t.Helper()
	b := make([]byte, n)
	_, err := open(t, name).ReadAt(b, off)
	must(t, err)
	return b
}

// open opens a file for reading as long as the test runs.
func open(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func sameBytes(t *testing.T, one, two string, off, n int64) bool {
	t.Helper()
	return bytes.Equal(readRange(t, one, off, n), readRange(t, two, off, n))
}
