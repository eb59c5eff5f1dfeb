package filesystem

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"os"
	"strings"
	"testing"

	"reimager/disk"
)

// patch is an image of which some bytes are others.
type patch struct {
	base    []byte
	patches map[int64][]byte
}

func (p *patch) ReadAt(b []byte, off int64) (int, error) {
	n, err := bytes.NewReader(p.base).ReadAt(b, off)
	for at, data := range p.patches {
		if skip := off - at; skip >= 0 && skip < int64(len(data)) {
			copy(b[:n], data[skip:])
		} else if skip < 0 && -skip < int64(n) {
			copy(b[-skip:n], data)
		}
	}
	return n, err
}

func (p *patch) put(off int64, b []byte) { p.patches[off] = b }

func (p *patch) bytes(off, n int64) []byte {
	b := make([]byte, n)
	if _, err := p.ReadAt(b, off); err != nil {
		panic(err)
	}
	return b
}

func readImage(t testing.TB, path string) *patch {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return &patch{b, map[int64][]byte{}}
}

// ext changes the superblock and repairs its checksum.
func (p *patch) ext(change func(sb []byte)) {
	sb := p.bytes(1024, 1024)
	change(sb)
	if binary.LittleEndian.Uint32(sb[0x64:])&extMetadataCsum != 0 {
		binary.LittleEndian.PutUint32(sb[0x3fc:], rawCRC(^uint32(0), sb[:0x3fc]))
	}
	p.put(1024, sb)
}

func (p *patch) btrfs(change func(sb []byte)) {
	sb := p.bytes(btrfsSuperOffset, btrfsSuperBytes)
	change(sb)
	binary.LittleEndian.PutUint32(sb, crc32.Checksum(sb[32:], crc32.MakeTable(crc32.Castagnoli)))
	p.put(btrfsSuperOffset, sb)
}

func (p *patch) xfs(change func(sb []byte)) {
	sb := p.bytes(0, 512)
	change(sb)
	p.xfsSum(0, sb, 224)
}

func (p *patch) xfsSum(off int64, b []byte, at int) {
	clear(b[at : at+4])
	binary.LittleEndian.PutUint32(b[at:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	p.put(off, b)
}

type doubtCase struct {
	name  string
	spoil func(p *patch)
	want  string
}

func doubts(t *testing.T, path, kind string, cases []doubtCase) {
	t.Helper()
	base := readImage(t, path).base
	for _, c := range append(cases, doubtCase{"nothing", func(*patch) {}, ""}) {
		p := &patch{base, map[int64][]byte{}}
		c.spoil(p)
		free, err := Unallocated(context.Background(), p, 0, int64(len(p.base)), disk.Filesystem{Type: kind})
		if err != nil {
			t.Fatal(err)
		}
		if c.want == "" && free.Whole == "" {
			continue
		}
		if c.want == "" || !strings.Contains(free.Whole, c.want) || len(free.Extents) > 0 {
			t.Errorf("%s: %q and %d extents, want %q", c.name, free.Whole, len(free.Extents), c.want)
		}
	}
}

func or32(at int, bits uint32) func([]byte) {
	return func(b []byte) { binary.LittleEndian.PutUint32(b[at:], binary.LittleEndian.Uint32(b[at:])|bits) }
}

func set32(at int, value uint32) func([]byte) {
	return func(b []byte) { binary.LittleEndian.PutUint32(b[at:], value) }
}

func TestExtDoubts(t *testing.T) {
	sb := func(name string, change func([]byte), want string) doubtCase {
		return doubtCase{name, func(p *patch) { p.ext(change) }, want}
	}
	// With blocks of 1024 bytes the descriptors lie in block 2.
	const descriptors = 2 * 1024
	bitmap := func(p *patch) int64 { return int64(binary.LittleEndian.Uint32(p.bytes(descriptors, 4))) * 1024 }
	cases := []doubtCase{
		sb("recover", or32(0x60, 0x4), "needs journal recovery"),
		sb("journal device", or32(0x60, 0x8), "journal device"),
		sb("compression", or32(0x60, 0x1), "unknown incompatible features 0x1"),
		sb("future incompatible", or32(0x60, 0x80000000), "unknown incompatible features 0x80000000"),
		sb("shared blocks", or32(0x64, 0x4000), "unknown read-only compatible features 0x4000"),
		sb("future compatible", or32(0x5c, 0x100000), "unknown compatible features"),
		sb("orphan file", or32(0x64, 0x10000), "orphan file"),
		sb("orphans", set32(0xe8, 12), "orphaned inodes"),
		sb("mounted", func(b []byte) { b[0x3a] = 0 }, "not cleanly unmounted"),
		sb("errors", func(b []byte) { b[0x3a] = 3 }, "not cleanly unmounted, or has errors"),
		sb("error count", set32(0x194, 2), "recorded 2 errors"),
		sb("external journal", set32(0xe4, 0x801), "journal on another device"),
		sb("checksum type", func(b []byte) { b[0x175] = 2 }, "checksums of unknown type"),
		sb("larger than the partition", set32(0x4, 1<<20), "its partition has"),
		sb("no blocks", set32(0x4, 0), "0 blocks"),
		sb("endless", set32(0x150, 1<<31), "blocks of"),
		sb("block size", set32(0x18, 7), "block size"),
		sb("first block", set32(0x14, 0), "begins at block 0"),
		sb("group size", set32(0x20, 8), "groups of 8 blocks"),
		sb("inode size", func(b []byte) { b[0x58], b[0x59] = 100, 0 }, "inodes of 100 bytes"),
		sb("inodes", set32(0, 5), "has 5 inodes"),
		sb("inodes per group", set32(0x28, 0), "groups of 0 inodes"),
		sb("descriptor size", func(b []byte) { b[0xfe] = 32 }, "descriptors of 32 bytes"),
		sb("revision", set32(0x4c, 0), "revision 0"),
		sb("free blocks", set32(0xc, 77), "superblock says 77"),
		sb("reserved descriptors", func(b []byte) { b[0xce]++ }, "ext "),
		sb("uuid", func(b []byte) { b[0x68]++ }, "wrong checksum"),
		{"superblock's checksum", func(p *patch) { p.put(1024+0x200, []byte{9}) }, "superblock has a wrong checksum"},
		{"descriptor", func(p *patch) { p.put(descriptors+12, []byte{9}) }, "descriptor of ext group 0 has a wrong checksum"},
		{"bitmap", func(p *patch) { p.put(bitmap(p)+900, []byte{0x55}) }, "block bitmap of ext group 0 has a wrong checksum"},
		{"other filesystem", func(p *patch) { p.put(64<<10+64, []byte("_BHRfS_M")) }, "signatures of both"},
		{"zfs", func(p *patch) { p.put(131<<10, []byte{0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0}) }, "ext4 or zfs"},
	}
	image := makeExt(t, extVariant{args: strings.Fields("-b 1024"), size: 48 << 20})
	doubts(t, image, "ext4", cases)
	doubts(t, makeExt(t, extVariant{args: strings.Fields("-b 1024 -O mmp"), size: 8 << 20}), "ext4", []doubtCase{
		{"in use", func(p *patch) {
			at := int64(binary.LittleEndian.Uint64(p.bytes(1024+0x168, 8))) * 1024
			p.put(at+4, []byte{1, 0, 0, 0})
		}, "says that it is in use"},
		{"somewhere", func(p *patch) { p.ext(set32(0x168, 1<<30)) }, "multiple mount protection in block"},
	})
}

// Without checksums the structures have to agree with each other.
func TestExtDoubtsWithoutChecksums(t *testing.T) {
	const descriptors = 2 * 1024
	le := binary.LittleEndian
	desc := func(p *patch, at int64) int64 { return int64(le.Uint32(p.bytes(descriptors+at, 4))) }
	number := func(n int64) []byte { return le.AppendUint32(nil, uint32(n)) }
	doubts(t, makeExt(t, extVariant{args: strings.Fields("-t ext3 -b 1024"), size: 48 << 20}), "ext3", []doubtCase{
		{"free count", func(p *patch) { p.put(descriptors+12, []byte{1, 0}) }, "its descriptor says 1"},
		{"uninitialised", func(p *patch) { p.put(descriptors+18, []byte{2}) }, "descriptors have no checksums"},
		{"bitmap outside", func(p *patch) { p.put(descriptors, number(1<<30)) }, "points to block"},
		{"table at the end", func(p *patch) { p.put(descriptors+8, number(48<<10-1)) }, "points to block"},
		{"bitmap twice", func(p *patch) { p.put(descriptors, number(desc(p, 4))) }, "overlaps"},
		{"bitmap of zeros", func(p *patch) { p.put(desc(p, 0)*1024, make([]byte, 1024)) }, "marked free"},
		{"bitmap bit", func(p *patch) { p.put(desc(p, 0)*1024+1000, []byte{0xfe}) }, "its descriptor says"},
	})
}

func TestXFSDoubts(t *testing.T) {
	image := newImage(t, 300<<20)
	tool(t, "mkfs.xfs", "-q", image)
	be := binary.BigEndian
	set := func(at int, value uint32) func([]byte) { return func(b []byte) { be.PutUint32(b[at:], value) } }
	sb := func(name string, change func([]byte), want string) doubtCase {
		return doubtCase{name, func(p *patch) { p.xfs(change) }, want}
	}
	agf := func(change func([]byte)) func(*patch) {
		return func(p *patch) {
			b := p.bytes(512, 512)
			change(b)
			p.xfsSum(512, b, 216)
		}
	}
	tree := func(change func([]byte)) func(*patch) {
		return func(p *patch) {
			at := int64(be.Uint32(p.bytes(512+16, 4))) * 4096
			b := p.bytes(at, 4096)
			change(b)
			p.xfsSum(at, b, 52)
		}
	}
	doubts(t, image, "xfs", []doubtCase{
		sb("in progress", func(b []byte) { b[126] = 1 }, "still being made"),
		sb("external log", func(b []byte) { clear(b[48:56]) }, "log on another device"),
		sb("log outside", set(48, 1<<31), "outside of it"),
		sb("log elsewhere", func(b []byte) { be.PutUint64(b[48:], be.Uint64(b[48:])+8) }, "XFS"),
		sb("realtime", func(b []byte) { b[23] = 1 }, "realtime"),
		sb("needs repair", func(b []byte) { b[219] |= 0x10 }, "needs repair"),
		sb("zoned", func(b []byte) { b[218] |= 0x2 }, "unknown incompatible features 0x200"),
		sb("future read-only", func(b []byte) { b[212] = 1 }, "unknown read-only compatible"),
		sb("log feature", func(b []byte) { b[223] = 1 }, "unknown features of its log"),
		sb("larger than the partition", func(b []byte) { be.PutUint64(b[8:], 1<<30) }, "its partition has"),
		sb("negative", func(b []byte) { b[8] = 0x80 }, "blocks of"),
		sb("groups", set(88, 9), "has 9 groups"),
		sb("version", func(b []byte) { b[101] = b[101]&0xf0 | 6 }, "version 6"),
		sb("free blocks", func(b []byte) { b[151]++ }, "its superblock says"),
		sb("block size", set(4, 3000), "make no sense"),
		{"superblock's checksum", func(p *patch) { p.put(108, []byte("x")) }, "superblock has a wrong checksum"},
		{"header's checksum", func(p *patch) { p.put(512+52, []byte{9}) }, "wrong checksum or UUID"},
		{"header of another group", agf(set(8, 1)), "no header of its own"},
		{"group's length", agf(set(12, 5)), "no header of its own"},
		{"header's count", agf(set(52, 5)), "its header says 5"},
		{"levels", agf(set(28, 10)), "10 levels"},
		{"more levels", agf(set(28, 2)), "makes no sense"},
		{"root outside", agf(set(16, 1<<30)), "points to block"},
		{"tree's checksum", func(p *patch) { p.put(int64(be.Uint32(p.bytes(512+16, 4)))*4096+56, []byte{9}) }, "wrong checksum or place"},
		{"tree's place", tree(set(20, 16)), "wrong checksum or place"},
		{"empty", tree(func(b []byte) { clear(b[6:8]) }), "its header says"},
		{"too many records", tree(func(b []byte) { b[6] = 0xff }), "makes no sense"},
		{"record over the header", tree(set(56, 0)), "lists blocks 0"},
		{"record outside", tree(set(60, 1<<31)), "as free"},
		{"log in use", func(p *patch) {
			start := be.Uint64(p.bytes(48, 8))
			group := int64(start >> p.base[124])
			at := (group*int64(be.Uint32(p.base[84:])) + int64(start&(1<<p.base[124]-1))) * 4096
			p.put(at+2*512, []byte{0, 0, 0, 1})
		}, "needs log recovery"},
	})
}

func TestBtrfsDoubts(t *testing.T) {
	image := newImage(t, 120<<20)
	tool(t, "mkfs.btrfs", "-q", image)
	sb := func(name string, change func([]byte), want string) doubtCase {
		return doubtCase{name, func(p *patch) { p.btrfs(change) }, want}
	}
	doubts(t, image, "btrfs", []doubtCase{
		sb("log", set32(96, 1<<20), "needs log replay"),
		sb("devices", set32(136, 2), "spans 2 devices"),
		sb("error", or32(56, 4), "has the flags"),
		sb("zoned", or32(188, 0x1000), "unknown incompatible features 0x1000"),
		sb("future read-only", or32(180, 0x100), "unknown read-only compatible"),
		sb("compatible", or32(172, 1), "unknown compatible"),
		sb("larger than the partition", set32(213, 9), "its partition has"),
		sb("node size", set32(148, 5000), "make no sense"),
		sb("bytes used", set32(120, 1), "its superblock says 1"),
		sb("generation", set32(72, 1), "generation"),
		sb("level", func(b []byte) { b[198] = 1 }, "generation"),
		sb("chunks of nothing", set32(160, 0), "in no chunk"),
		sb("too many chunks", set32(160, 4000), "4000 bytes of chunks"),
		sb("chunk cut off", set32(160, 70), "cut off"),
		sb("chunk elsewhere", func(b []byte) { b[811+17+48+8+5] = 1 }, "lies at byte"),
		sb("another device", func(b []byte) { b[811+17+48]++ }, "another device"),
		sb("raid", func(b []byte) { b[811+17+24] |= 8 }, "only single and DUP"),
		{"superblock's checksum", func(p *patch) { p.put(btrfsSuperOffset+300, []byte("x")) }, "superblock has a wrong checksum"},
	})
}

// Whatever a single bit of a tree block is turned into, it is noticed.
func TestBtrfsDamagedTree(t *testing.T) {
	image := newImage(t, 120<<20)
	tool(t, "mkfs.btrfs", "-q", image)
	p := readImage(t, image)
	b, err := (&partition{ctx: context.Background(), r: p, size: int64(len(p.base))}).openBtrfs()
	if err == nil {
		err = b.readChunks()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, pointer := range []int{80, 88} { // root and chunk tree
		at, err := b.physical(Extent{int64(binary.LittleEndian.Uint64(b.sb[pointer:])), b.nodeSize})
		if err != nil {
			t.Fatal(err)
		}
		var cases []doubtCase
		for _, where := range []int64{0, 40, 50, 96, 200, b.nodeSize - 1} {
			cases = append(cases, doubtCase{"damaged", func(p *patch) {
				p.put(at[0].Off+where, []byte{p.base[at[0].Off+where] ^ 0x40})
			}, "wrong checksum"})
		}
		doubts(t, image, "btrfs", cases)
	}
}

// repair makes the checksum of a block of btrfs right.
func (p *patch) repair(at int64, n int) {
	b := p.bytes(at, int64(n))
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[32:], crc32.MakeTable(crc32.Castagnoli)))
	for old := range p.patches {
		if old >= at && old < at+int64(n) {
			delete(p.patches, old)
		}
	}
	p.put(at, b)
}
