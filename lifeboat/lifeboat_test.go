package lifeboat

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"reimager/disk/simdisk"
	"reimager/image"
	"reimager/imaging"
)

// berthed is a lifeboat whose archive takes several pieces, on an otherwise full disk.
func berthed(t *testing.T, archive []byte) (*simdisk.Disk, *Boat) {
	t.Helper()
	d := simdisk.New(bytes.Repeat([]byte{0xee}, 24*mib)).Power()
	l, err := NewLoader(d.Device(), Berth{Off: mib, Bytes: 20 * mib, Where: "the berth"}, simRun)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{Archive: archive, Kernel: noise(1, 5000), Kernel2: noise(1, 5000), Initrd: noise(2, 9000), Initrd2: noise(2, 9000)}
	for _, name := range []string{Archive, Kernel, Initrd, Kernel2, Initrd2} {
		w, err := l.Create(name, int64(len(files[name])))
		if err != nil {
			t.Fatal(err)
		}
		for part := range slices.Chunk(files[name], 100_003) {
			if _, err := w.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		r, err := l.Reader(name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, files[name]) {
			t.Errorf("%s comes back from the loader otherwise, %v", name, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	read := int64(0)
	b, err := l.Finish(t.Context(), fakeGRUB(t), []string{simParameter}, func(n int64) { read += n })
	if err != nil {
		t.Fatal(err)
	}
	sum := int64(0)
	for _, s := range b.Header().Sections {
		sum += s.Bytes
	}
	if read != sum {
		t.Errorf("progress of Finish is %d bytes; want %d", read, sum)
	}
	return d, b
}

// An archive of several pieces comes back, is encrypted on the disk, and is gone for good
// when its key is.
func TestArchive(t *testing.T) {
	for _, n := range []int{1, 4096, pieceBytes - 1, pieceBytes, pieceBytes + 1, 2*pieceBytes + 5000} {
		archive := bytes.Repeat([]byte("secret! "), n/8+1)[:n]
		d, _ := berthed(t, archive)
		dev := d.Device()
		b, err := Open(dev, mib, simRun)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Verify(t.Context(), dev, nil); err != nil {
			t.Error(err)
		}
		r, err := b.Reader(dev, Archive)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, archive) {
			t.Errorf("%d bytes: the archive comes back otherwise, %v", n, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		now := d.Now()
		if n > 100 && bytes.Contains(now.Slice(0, now.Bytes()), []byte("secret! ")) {
			t.Errorf("%d bytes: the archive lies in plain on the disk", n)
		}
		for _, e := range image.Complement([]image.Extent{{Off: mib, Bytes: 20 * mib}}, now.Bytes()) {
			if got := now.Slice(e.Off, e.Bytes); bytes.Count(got, []byte{0xee}) != len(got) {
				t.Errorf("%d bytes: something was written outside the berth", n)
			}
		}
		if err := errors.Join(b.EraseKey(dev), b.EraseArchive(dev)); err != nil {
			t.Error(err)
		}
		if _, err := b.Reader(dev, Archive); err == nil || !strings.Contains(err.Error(), "its key was erased") {
			t.Errorf("Reader after EraseKey = %v; want that it was erased", err)
		}
		s, _ := b.header.Section(Archive)
		if got := d.Now().Slice(s.Off, s.Bytes); !image.AllZero(got) {
			t.Errorf("%d bytes: the archive is left", n)
		}
		if err := b.Sink(dev); err != nil {
			t.Error(err)
		}
		if _, err := Open(dev, mib, simRun); !errors.Is(err, ErrNoBoat) {
			t.Errorf("Open of a sunk boat = %v; want ErrNoBoat", err)
		}
	}
}

// One bit of any section, or another run's boat, is found.
func TestOpenAndVerify(t *testing.T) {
	d, b := berthed(t, noise(7, 10_000))
	for _, s := range b.Header().Sections {
		rotten := d.Now().Power()
		dev := rotten.Device()
		block := d.Now().Slice(s.Off, 512)
		block[17] ^= 1
		if err := dev.WriteSectors(block, s.Off); err != nil {
			t.Fatal(err)
		}
		if err := b.Verify(t.Context(), dev, nil); err == nil || !strings.Contains(err.Error(), "section "+s.Name+" of") {
			t.Errorf("Verify with a wrong bit in %s = %v", s.Name, err)
		}
	}
	dev := d.Device()
	if err := b.Verify(t.Context(), dev, nil, "sail"); err == nil || !strings.Contains(err.Error(), "it has none") {
		t.Errorf("Verify of no section = %v", err)
	}
	for _, at := range []int64{0, 2 * mib, 24*mib - 4096} {
		if _, err := Open(dev, at, simRun); !errors.Is(err, ErrNoBoat) {
			t.Errorf("Open at %d = %v; want ErrNoBoat", at, err)
		}
	}
	if _, err := Open(dev, mib, "run8"); !errors.Is(err, ErrNoBoat) || !strings.Contains(err.Error(), `run "run7", expected "run8"`) {
		t.Errorf("Open of another run = %v", err)
	}
	for run, want := range map[string]bool{simRun: true, "run8": false} {
		if is, err := found(d.Now(), mib, 24*mib, run); is != want || err != nil {
			t.Errorf("found(%s) = %v, %v; want %v", run, is, err, want)
		}
	}
}

// Each pair of states: what may follow what.
func TestStates(t *testing.T) {
	want := map[State][]State{
		Boarded:   {Boarded, Proven, Writing},
		Proven:    {Proven, Writing},
		Writing:   {Writing, Restoring},
		Restoring: {Writing, Restoring, Restored},
		Restored:  {Restored, Keyless},
		Keyless:   {Keyless},
	}
	d, _ := berthed(t, noise(7, 10_000))
	for _, from := range order() {
		for _, to := range append(order(), "", "sunk") {
			dev := d.Now().Power().Device()
			b, err := Open(dev, mib, simRun)
			if err != nil {
				t.Fatal(err)
			}
			b.now.State = from
			may := slices.Contains(want[from], to)
			if err := b.Enter(dev, to); (err == nil) != may {
				t.Errorf("Enter(%s) in %s = %v; want allowed %v", to, from, err, may)
			}
			again, err := Open(dev, mib, simRun)
			if err != nil {
				t.Fatal(err)
			}
			if may && again.State() != to || !may && again.State() != Boarded {
				t.Errorf("after Enter(%s) in %s the journal says %s", to, from, again.State())
			}
		}
	}
}

// A slot that is torn, or cannot be read, leaves the state before; that it has restored
// is in both.
func TestJournalBearsALostSlot(t *testing.T) {
	d, b := berthed(t, noise(7, 10_000))
	dev := d.Device()
	before := b.State()
	for _, s := range order()[1:] {
		if err := b.Start(dev); err != nil {
			t.Fatal(err)
		}
		if err := b.Enter(dev, s); err != nil {
			t.Fatal(err)
		}
		for slot := range 2 {
			lost := d.Now().Power()
			bad := mib + journalOff + int64(slot)*blockBytes
			lost.Bad = func(o simdisk.Operation) bool { return o.Off < bad+512 && bad < o.Off+o.Len }
			got, err := Open(lost.Device(), mib, simRun)
			if err != nil {
				t.Fatalf("%s without slot %d: %v", s, slot, err)
			}
			want := s
			if slot == b.slot && s != Restored {
				want = before
			}
			if got.State() != want {
				t.Errorf("%s without slot %d: State = %s; want %s", s, slot, got.State(), want)
			}
		}
		before = s
	}
	if b.Starts() != len(order())-1 || b.Attempts() != 1 {
		t.Errorf("Starts, Attempts = %d, %d", b.Starts(), b.Attempts())
	}
	lost := d.Now().Power()
	lost.Bad = func(o simdisk.Operation) bool { return o.Off >= mib+journalOff && o.Off < mib+keyOff }
	if _, err := Open(lost.Device(), mib, simRun); err == nil || errors.Is(err, ErrNoBoat) {
		t.Errorf("Open without a journal = %v; want an error that is not ErrNoBoat", err)
	}
}

// Without a boat the order of events is the same, and firmware's: on a BIOS sector 0 is
// first and last, on UEFI the headers of a GPT come with it.
func TestVoyageWithoutBoat(t *testing.T) {
	for _, bios := range []bool{true, false} {
		for _, table := range []string{"gpt", "dos"} {
			s := newScenario(t, "gpt", table, imaging.Leave)
			d := s.old.Power()
			var order []int64
			d.Before = func(_ int, o simdisk.Operation) {
				if o.Kind == simdisk.Write && o.Len == 512 && (o.Off <= 512 || o.Off == simBytes-512) {
					order = append(order, o.Off)
				}
			}
			holding := bytes.Repeat([]byte{'H'}, 512)
			v := &Voyage{Map: s.blocks, Holding: holding, Headers: s.headers, Image: s.held, Landing: s.landing, BIOS: bios, Buffers: 2}
			if err := sailWithout(t, s, v, d); err != nil {
				t.Fatal(err)
			}
			want := []int64{0, 0}
			if table == "gpt" {
				want = []int64{0, simBytes - 512, 512, simBytes - 512, 512, 0}
				if !bios {
					want = []int64{simBytes - 512, 0, 512, simBytes - 512, 512, 0}
				}
			}
			if !slices.Equal(order, want) {
				t.Errorf("%s, BIOS %v: what firmware looks at is written in the order %d; want %d", table, bios, order, want)
			}
			for _, e := range s.exact {
				if at := s.want.Differ(d.Now(), e.Off, e.Bytes); at >= 0 {
					t.Errorf("%s, BIOS %v: the disk is wrong at byte %d", table, bios, at)
				}
			}
		}
	}
}

func sailWithout(t *testing.T, s *scenario, v *Voyage, d *simdisk.Disk) error {
	dev := d.Device()
	source := func() (image.Source, io.Closer, error) {
		packed := io.NopCloser(bytes.NewReader(s.files[Image]))
		return &packedSource{r: packed, blocks: s.blocks, zero: s.zero}, packed, nil
	}
	if _, err := v.Write(t.Context(), dev, source, nil); err == nil || !strings.Contains(err.Error(), "not cast off") {
		t.Errorf("Write before CastOff = %v", err)
	}
	if undone, err := v.CastOff(dev); undone || err != nil {
		return fmt.Errorf("CastOff = %v, %w", undone, err)
	}
	if _, err := v.Write(t.Context(), dev, source, nil); err != nil {
		return err
	}
	err := v.ReadBack(t.Context(), dev, nil)
	return errors.Join(err, v.BeginRestore(dev), replay(dev, simPart, s.steps), v.EndRestore(dev), v.Land(dev))
}

// Casting off is refused while it is not known that this machine starts the lifeboat, and
// where sector 0 is neither's.
func TestCastOffRefuses(t *testing.T) {
	s := newScenario(t, "dos", "dos", imaging.Leave)
	d := s.old.Power()
	dev := d.Device()
	b, err := s.board(t.Context(), dev)
	if err != nil {
		t.Fatal(err)
	}
	holding, err := b.Holding(s.image[:512])
	if err != nil {
		t.Fatal(err)
	}
	v := &Voyage{Boat: b, Map: s.blocks, Holding: holding, Image: s.held, Landing: s.landing, BIOS: true}
	if undone, err := v.CastOff(dev); !undone || err == nil || !strings.Contains(err.Error(), "boarded, expected proven") {
		t.Errorf("CastOff before it is proven = %v, %v", undone, err)
	}
	if err := b.Enter(dev, Proven); err != nil {
		t.Fatal(err)
	}
	if err := v.Land(dev); err == nil || !strings.Contains(err.Error(), "proven, expected restored") {
		t.Errorf("Land before it has restored = %v", err)
	}
	other := bytes.Clone(holding)
	other[0x100] ^= 1
	if err := dev.WriteSectors(other, 0); err != nil {
		t.Fatal(err)
	}
	if undone, err := v.CastOff(dev); undone || err == nil || !strings.Contains(err.Error(), "neither") {
		t.Errorf("CastOff of another lifeboat's disk = %v, %v", undone, err)
	}
}

// What Need says is enough.
func TestNeedIsEnough(t *testing.T) {
	sizes := map[string]int64{Image: 70_001, Archive: 4097, Saved: 1, Kernel: 8191, Kernel2: 8191, Initrd: 12_289, Initrd2: 12_289}
	berth := Berth{Off: mib, Bytes: Need(sizes[Kernel], sizes[Initrd], sizes[Image], sizes[Archive], sizes[Saved])}
	l, err := NewLoader(simdisk.New(make([]byte, 4*mib)).Power().Device(), berth, simRun)
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range sizes {
		if err := l.add(name, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	if left := berth.Off + berth.Bytes - l.next; left != coreMost+scriptMost {
		t.Errorf("%d bytes are left for core and script; want %d", left, coreMost+scriptMost)
	}
	if _, err := l.Finish(t.Context(), fakeGRUB(t), nil, nil); err != nil {
		t.Error(err)
	}
}

// found tells whether a lifeboat of the run lies there.
func found(r io.ReaderAt, off, diskBytes int64, runID string) (bool, error) {
	block := make([]byte, blockBytes)
	if _, err := r.ReadAt(block, off+headerOff); err != nil {
		return false, fmt.Errorf("look for lifeboat: %w", err)
	}
	h, err := ParseHeader(block, off, diskBytes)
	if errors.Is(err, ErrNoBoat) {
		return false, nil
	}
	return err == nil && h.RunID == runID, err
}
