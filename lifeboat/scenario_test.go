package lifeboat

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"reimager/boot"
	"reimager/disk"
	"reimager/disk/simdisk"
	"reimager/filesystem"
	"reimager/image"
	"reimager/imaging"
)

const kib = 1 << 10

// The disk of the simulation: partition table, a filesystem, the berth in what both
// systems have for swapping, and the end of the disk, where the backup of a GPT goes.
const (
	simBytes = 3072 * kib
	simPart  = 64 * kib
	simBerth = 2432 * kib
	simRoom  = 448 * kib
	simImage = simBerth // where the image ends
	simRun   = "run7"
	// 4864 is the berth's first sector.
	simParameter = boot.LifeboatParameter + "=" + simRun + "@4864"
)

// scenario is a machine before its system is replaced, and all that its run brings.
type scenario struct {
	name     string
	unmapped imaging.Unmapped
	breaks   func(*simdisk.Disk) // what is wrong with the disk as it is first used; nil: nothing
	old      simdisk.Content
	image    []byte
	blocks   *image.Map
	zero     []bool       // ranges of it
	headers  []int64      // of a GPT, held back
	held     []disk.Piece // what the image has in the sectors held back
	landing  []disk.Piece
	grub     *boot.LifeboatCore
	lists    *regexp.Regexp    // of the blocks that GRUB's script loads
	files    map[string][]byte // what boards, in plain
	steps    []step            // of the restore
	fresh    simdisk.Content   // the image
	want     simdisk.Content   // the disk at the end
	exact    []image.Extent    // where it has to be that
	archive  image.Extent      // where it lies
	secrets  [][]byte          // what must not be there at the end
}

// scenarios are all pairs of tables and ways to treat unmapped blocks; name is one of
// them, or empty.
func scenarios(t testing.TB, name string) iter.Seq[*scenario] {
	return func(yield func(*scenario) bool) {
		for _, tables := range [][2]string{{"dos", "dos"}, {"gpt", "gpt"}, {"gpt", "dos"}, {"dos", "gpt"}} {
			for _, u := range []imaging.Unmapped{imaging.Leave, imaging.Zero, imaging.Discard} {
				if name != "" && name != scenarioName(tables[0], tables[1], u) {
					continue
				}
				if !yield(newScenario(t, tables[0], tables[1], u)) {
					return
				}
			}
		}
	}
}

func scenarioName(oldTable, newTable string, u imaging.Unmapped) string {
	return fmt.Sprintf("%s-%s-%s", oldTable, newTable, u)
}

func newScenario(t testing.TB, oldTable, newTable string, u imaging.Unmapped) *scenario {
	t.Helper()
	before, steps := recorded(t)
	s := &scenario{name: scenarioName(oldTable, newTable, u), unmapped: u, steps: steps, grub: fakeGRUB(t), lists: regexp.MustCompile(`(linux|initrd) \(\$root\)(\d+)\+(\d+)`)}
	s.old = simdisk.New(partitioned(t, oldTable, simBytes, noise(1, simBytes), 0x0d))
	s.image = partitioned(t, newTable, simImage, make([]byte, simImage), 0x0e)
	copy(s.image[simPart:], before)
	s.blocks = mapOf(t, s.image, int64(len(before)), newTable == "gpt")
	held := []int64(nil)
	if newTable == "gpt" {
		s.headers = disk.GPTHeaders(simBytes, 512)
		held = s.headers
	}
	h := imaging.NewHeld(512, held)
	for i, r := range s.blocks.Ranges {
		h.Take(image.Range{Index: i, Off: r.Off, Data: s.image[r.Off:r.End()]})
	}
	s.held = h.Taken()
	if newTable == "gpt" {
		land, err := disk.LandGPT(bytes.NewReader(s.image), imaging.At(s.held, s.headers[0]), simBytes, 512)
		if err != nil {
			t.Fatal(err)
		}
		s.landing = land
	}
	s.landing = append(s.landing, disk.Piece{Off: 0, Data: s.image[:512]})
	s.files = map[string][]byte{
		Kernel: noise(2, 9*kib+17), Initrd: noise(3, 17*kib+1), Kernel2: noise(2, 9*kib+17), Initrd2: noise(3, 17*kib+1),
		Archive: noise(4, 21*kib+5), Saved: noise(5, 3*kib), Image: s.packed(),
	}
	s.expect()
	return s
}

// packed is the image as it boards: its mapped bytes but for zeros.
func (s *scenario) packed() []byte {
	var b []byte
	for i, r := range s.blocks.Ranges {
		s.zero = append(s.zero, s.blocks.Zero(i))
		if !s.zero[i] {
			b = append(b, s.image[r.Off:r.End()]...)
		}
	}
	return b
}

// expect says what the disk has to be at the end, but for the berth.
func (s *scenario) expect() {
	end := s.old.Slice(0, simBytes)
	if s.unmapped == imaging.Zero {
		clear(end)
	}
	var written []image.Extent
	for _, r := range s.blocks.Ranges {
		copy(end[r.Off:r.End()], s.image[r.Off:])
		written = append(written, r.Extent)
	}
	for _, st := range s.steps {
		copy(end[simPart+st.off:], st.data)
		written = append(written, image.Extent{Off: simPart + st.off, Bytes: int64(len(st.data))})
	}
	for _, p := range s.landing {
		copy(end[p.Off:], p.Data)
		written = append(written, image.Extent{Off: p.Off, Bytes: int64(len(p.Data))})
	}
	s.want, s.exact = simdisk.New(end), image.Union(written, 0)
	s.fresh = simdisk.New(append(bytes.Clone(s.image), make([]byte, simBytes-simImage)...))
}

// mapOf maps what the image's filesystem uses, its tables and its gap, as a release does.
func mapOf(t testing.TB, img []byte, partBytes int64, gpt bool) *image.Map {
	t.Helper()
	free, err := filesystem.Unallocated(t.Context(), bytes.NewReader(img), simPart, partBytes, disk.Filesystem{Type: "ext4"})
	if err != nil || free.Whole != "" {
		t.Fatalf("Unallocated = %q, %v", free.Whole, err)
	}
	spare := []image.Extent{{Off: simPart + partBytes, Bytes: simImage - simPart - partBytes}}
	if gpt { // its backup is in the image's last 33 sectors
		spare[0].Bytes -= 33 * 512
	}
	for _, e := range free.Extents {
		spare = append(spare, image.Extent{Off: e.Off, Bytes: e.Bytes})
	}
	m := &image.Map{Bytes: simImage}
	const most = 64 * kib
	for _, e := range image.Complement(spare, simImage) {
		for off := e.Off; off < e.End(); off += most {
			n := min(most, e.End()-off)
			m.Ranges = append(m.Ranges, image.MapRange{Extent: image.Extent{Off: off, Bytes: n}, Digest: image.Range{Data: img[off : off+n]}.Digest()})
		}
	}
	return m
}

// partitioned gives a disk a table, and boot code of its own.
func partitioned(t testing.TB, table string, size int64, content []byte, code byte) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	input := "label: dos\nstart=128, size=4608\n"
	if table == "gpt" {
		input = "label: gpt\nstart=128, size=4608\n"
	}
	cmd := exec.Command("sfdisk", "--quiet", path)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	made, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copy(content, made[:1024])
	if table == "gpt" {
		copy(content[:34*512], made[:34*512])
		copy(content[size-33*512:], made[size-33*512:])
	}
	copy(content[:440], bytes.Repeat([]byte{code}, 440))
	return content
}

// fakeGRUB is shaped as GRUB's images are, so that boot's code makes a core of it.
func fakeGRUB(t testing.TB) *boot.LifeboatCore {
	t.Helper()
	le := binary.LittleEndian
	first := make([]byte, 512)
	first[0], first[0x66], first[510], first[511] = 0xeb, 0xeb, 0x55, 0xaa
	le.PutUint16(first[0x5a:], 0x8000)
	copy(first[0x180:], "GRUB ")
	rest := noise(6, 3*512)
	clear(rest[512-24 : 512])
	le.PutUint16(rest[512-4:], 2)
	le.PutUint16(rest[512-2:], 0x820)
	le.PutUint32(rest[512+8:], 900)
	copy(rest[512+0x18:], "\xff\xff\xff")
	c, err := boot.ParseLifeboatCore(first, rest)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 11))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// board is what happens while the old system is there.
func (s *scenario) board(ctx context.Context, dev *disk.Device) (*Boat, error) {
	l, err := NewLoader(dev, Berth{Off: simBerth, Bytes: simRoom, Where: "the berth"}, simRun)
	if err != nil {
		return nil, err
	}
	image := s.files[Image]
	if err := l.Copy(Image, bytes.NewReader(image), int64(len(image)), sha256.Sum256(image)); err != nil {
		return nil, err
	}
	for _, name := range []string{Archive, Saved, Kernel, Initrd, Kernel2, Initrd2} {
		w, err := l.Create(name, int64(len(s.files[name])))
		if err != nil {
			return nil, err
		}
		_, err = w.Write(s.files[name])
		if err := errors.Join(err, w.Close()); err != nil {
			return nil, err
		}
	}
	return l.Finish(ctx, s.grub, []string{"quiet", simParameter}, nil)
}

// packedSource is the image as it comes back from the berth.
type packedSource struct {
	r      io.Reader
	blocks *image.Map
	zero   []bool // ranges of it
	off    int64
	next   int
}

func (p *packedSource) Next(buf []byte) (image.Chunk, error) {
	m := p.blocks
	if p.off == m.Bytes {
		return image.Chunk{}, io.EOF
	}
	end := m.Bytes
	if p.next < len(m.Ranges) {
		r := m.Ranges[p.next]
		if end = r.Off; p.off == r.Off {
			p.next++
			p.off = r.End()
			if p.zero[p.next-1] {
				return image.Chunk{Zeros: r.Bytes}, nil
			}
			data := make([]byte, r.Bytes)
			_, err := io.ReadFull(p.r, data)
			return image.Chunk{Data: data}, err
		}
	}
	n := end - p.off
	p.off = end
	return image.Chunk{Zeros: n}, nil
}
