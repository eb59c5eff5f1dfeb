package writelog

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"reimager/vm"
)

const diskBytes = 4 << 20

// record has a real QEMU write to a disk, by the commands of qemu-io, and returns the
// disk as it was, as it is, and the log.
func record(t *testing.T, cut bool, commands ...string) (before, after, log string) {
	t.Helper()
	dir := t.TempDir()
	before, after, log = filepath.Join(dir, "before"), filepath.Join(dir, "after"), filepath.Join(dir, "log")
	for _, name := range []string{before, after} {
		must(t, os.WriteFile(name, bytes.Repeat([]byte{'.'}, diskBytes), 0o600))
	}
	blockdev, err := vm.LoggedBlockdev(0, after, log)
	must(t, err)
	guest, err := vm.Start(t.Context(), vm.Config{Accel: "tcg", MemoryMiB: 64, Extra: []string{"-S"}, Log: t.Logf,
		Drives: []vm.Drive{{Blockdev: blockdev, Device: ",id=disk0"}}})
	must(t, err)
	for _, c := range commands {
		said, err := guest.HMP(t.Context(), `qemu-io -d disk0 "`+c+`"`)
		must(t, err)
		if said != "" {
			t.Fatalf("qemu-io %s: %s", c, said)
		}
	}
	if cut {
		must(t, guest.Kill())
	} else {
		must(t, guest.Quit(t.Context()))
	}
	return before, after, log
}

// usual is one of everything, in two flush intervals and a bit.
func usual() []string {
	return []string{"write -P 65 0 4k", "flush", "write -P 66 512 1k", "write -f -P 67 8k 1k", "discard 64k 64k",
		"write -z 1M 64k", "writev -P 68 2M 1k 1k", "flush", "write -P 69 3M 2k", "write -P 70 3M 512"}
}

func TestOpen(t *testing.T) {
	_, _, file := record(t, false, usual()...)
	log, err := Open(file)
	must(t, err)
	defer log.Close()
	type entry struct {
		Off, Bytes int64
		Flags      Flag
	}
	var got []entry
	for _, e := range log.Entries() {
		got = append(got, entry{e.Off, e.Bytes, e.Flags})
	}
	want := []entry{{0, 4096, 0}, {0, 0, Flush}, {512, 1024, 0}, {8192, 1024, 0}, {0, 0, Flush}, {65536, 65536, Discard},
		{1 << 20, 65536, 0}, {2 << 20, 2048, 0}, {0, 0, Flush}, {3 << 20, 2048, 0}, {3 << 20, 512, 0}}
	// QEMU may flush once more before it ends.
	if diff := cmp.Diff(want, got[:min(len(got), len(want))]); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	if first := log.Entries()[0]; !first.Overlaps(4000, 512) || first.Overlaps(4096, 512) || !first.Writes() || log.Entries()[1].Writes() {
		t.Error("the first entry writes 4 KiB from byte 0 on, the second nothing")
	}
}

// What was replayed is what QEMU has left, also when QEMU was killed.
func TestReplayEqualsDisk(t *testing.T) {
	for name, cut := range map[string]bool{"ended": false, "killed": true} {
		t.Run(name, func(t *testing.T) {
			before, after, file := record(t, cut, usual()...)
			log, err := Open(file)
			must(t, err)
			defer log.Close()
			r, err := NewReplay(log, before)
			must(t, err)
			must(t, r.To(len(log.Entries())))
			must(t, r.Close())
			got, want := read(t, before), read(t, after)
			if !bytes.Equal(got, want) {
				t.Error("the replayed disk differs from QEMU's")
			}
		})
	}
}

// A log that ends in the middle of what no flush has followed is read up to there.
func TestOpenCutLog(t *testing.T) {
	_, _, file := record(t, false, usual()...)
	whole, err := Open(file)
	must(t, err)
	must(t, whole.Close())
	n := whole.flushed(len(whole.Entries()))
	sure := whole.Entries()[n-1].data
	must(t, os.Truncate(file, sure))
	log, err := Open(file)
	must(t, err)
	must(t, log.Close())
	if got := len(log.Entries()); got != n {
		t.Errorf("%d entries; want %d", got, n)
	}
	must(t, os.Truncate(file, sure-SectorSize))
	if _, err := Open(file); err == nil {
		t.Error("a log that lacks what was flushed was opened")
	}
}

// TestCut looks at where the unflushed writes of 2 KiB and then one sector may be.
func TestCut(t *testing.T) {
	before, _, file := record(t, true, usual()...)
	log, err := Open(file)
	must(t, err)
	defer log.Close()
	n := 11 // all but what QEMU may flush at its end
	var cuts []Cut
	for seed := range uint64(40) {
		for _, loss := range []Loss{Torn, Reordered, Unflushed, Nothing} {
			cuts = append(cuts, Cut{At: n, Loss: loss, Seed: seed})
		}
	}
	log.SortCuts(cuts)
	r, err := NewReplay(log, before)
	must(t, err)
	defer r.Close()
	seen := map[Loss]map[string]bool{Torn: {}, Reordered: {}, Unflushed: {}, Nothing: {}}
	disk := filepath.Join(t.TempDir(), "disk")
	for _, c := range cuts {
		must(t, r.Cut(c, disk, func(dst, src string) error { return os.WriteFile(dst, read(t, src), 0o600) }))
		left := read(t, disk)
		if left[0] != 'A' || left[2<<20] != 'D' || left[64<<10] != 0 {
			t.Fatalf("%s: something that was flushed is lost", c)
		}
		// One letter for each of the sectors.
		seen[c.Loss][string([]byte{left[3<<20], left[3<<20+512], left[3<<20+1024], left[3<<20+1536]})] = true
	}
	for loss, want := range map[Loss]map[string]bool{
		Nothing: {"FEEE": true}, Unflushed: {"....": true},
		Reordered: {"....": true, "EEEE": true, "F...": true, "FEEE": true},
	} {
		if diff := cmp.Diff(want, seen[loss]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", loss, diff)
		}
	}
	if n := len(seen[Torn]); n < 12 || !seen[Torn]["..E."] && !seen[Torn]["F.E."] && !seen[Torn]["E.E."] {
		t.Errorf("torn: %d disks, %v; want most of 24", n, seen[Torn])
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func FuzzOpen(f *testing.F) {
	super := make([]byte, 1024)
	copy(super, "rhswfsj\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02")
	super[512], super[520] = 1, 1
	f.Add(super)
	f.Add(append(super, make([]byte, 512)...))
	f.Fuzz(func(t *testing.T, content []byte) {
		name := filepath.Join(t.TempDir(), "log")
		must(t, os.WriteFile(name, content, 0o600))
		log, err := Open(name)
		if err != nil {
			return
		}
		defer log.Close()
		for _, e := range log.Entries() {
			if e.Off < 0 || e.Bytes < 0 || e.Writes() && e.data+e.Bytes > int64(len(content)) {
				t.Errorf("entry %+v lies outside of the log", e)
			}
		}
	})
}
