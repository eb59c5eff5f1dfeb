package disk

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sysfs makes a small /sys with one disk.
func sysfs(t *testing.T, files map[string]string) Sysfs {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, "block", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Sysfs{Sys: dir}
}

func TestList(t *testing.T) {
	s := sysfs(t, map[string]string{
		"sda/size": "393216\n", "sda/queue/logical_block_size": "512\n", "sda/removable": "0\n", "sda/ro": "0\n",
		"sda/device/model": "QEMU HARDDISK   \n", "sda/device/vpd_pg80": "\x00\x80\x00\x14           KIOSK0042", "sda/device/wwid": "naa.5000c500a1b2c3d4\n",
		"sda/sda10/partition": "10\n", "sda/sda10/start": "4096\n", "sda/sda10/size": "8\n",
		"sda/sda2/partition": "2\n", "sda/sda2/start": "2048\n", "sda/sda2/size": "100\n", "sda/sda2/holders/dm-0": "",
		"loop0/size": "8\n", "loop0/queue/logical_block_size": "512\n",
		"sdb/size": "0\n", "sdb/queue/logical_block_size": "512\n",
	})
	got, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	want := []Disk{{
		Name: "sda", Path: "/dev/sda", Bytes: 192 << 20, SectorSize: 512, Serial: "KIOSK0042", WWN: "0x5000c500a1b2c3d4", Model: "QEMU HARDDISK",
		Partitions: []Partition{
			{Name: "sda2", Path: "/dev/sda2", Number: 2, Start: 1 << 20, Bytes: 51200},
			{Name: "sda10", Path: "/dev/sda10", Number: 10, Start: 2 << 20, Bytes: 4096},
		},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	if h := s.Holders(&got[0]); cmp.Diff([]string{"dm-0"}, h) != "" {
		t.Errorf("Holders = %q; want dm-0", h)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1 << 20: "1 MiB", 192 << 20: "192 MiB", 1000 << 20: "0.977 GiB", 3 << 40: "3 TiB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q; want %q", n, got, want)
		}
	}
}

// mbr makes a disk with two primary partitions and three logical ones.
func mbr() []byte {
	b := make([]byte, 40<<20)
	entry := func(sector int64, i int, kind byte, start, size uint32) {
		e := b[sector*512+446+int64(i)*16:]
		e[4] = kind
		binary.LittleEndian.PutUint32(e[8:], start)
		binary.LittleEndian.PutUint32(e[12:], size)
		b[sector*512+510], b[sector*512+511] = 0x55, 0xaa
	}
	binary.LittleEndian.PutUint32(b[440:], 0x01d05e5e)
	entry(0, 0, 0x83, 2048, 2048)
	entry(0, 1, 0x82, 4096, 2048)
	entry(0, 3, 0x05, 8192, 65536)
	entry(8192, 0, 0x83, 2048, 4096) // sda5
	entry(8192, 1, 0x05, 20480, 4096)
	entry(8192+20480, 0, 0x83, 2048, 2048) // sda6, behind 16 MiB of the container
	return b
}

func mbrEntries() []Entry {
	return []Entry{
		{Number: 1, Start: 1 << 20, Bytes: 1 << 20, Type: "83", PartUUID: "01d05e5e-01"},
		{Number: 2, Start: 2 << 20, Bytes: 1 << 20, Type: "82", PartUUID: "01d05e5e-02"},
		{Number: 4, Start: 4 << 20, Bytes: 32 << 20, Type: "05", Extended: true, PartUUID: "01d05e5e-04"},
		{Number: 5, Start: 5 << 20, Bytes: 2 << 20, Type: "83", PartUUID: "01d05e5e-05"},
		{Number: 6, Start: 15 << 20, Bytes: 1 << 20, Type: "83", PartUUID: "01d05e5e-06"},
	}
}

// gpt makes a disk with one partition, for the given sector size.
func gpt(sector int) []byte {
	b := make([]byte, 8<<20)
	b[450], b[510], b[511] = 0xee, 0x55, 0xaa
	entries := b[2*sector:][:128*128]
	copy(entries, "\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4unique guid 0016")
	binary.LittleEndian.PutUint64(entries[32:], uint64(1<<20/sector))
	binary.LittleEndian.PutUint64(entries[40:], uint64(2<<20/sector-1))
	copy(entries[56:], "r\x00o\x00o\x00t\x00")
	h := b[sector:]
	copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	copy(h[56:], "disk guid is 016")
	binary.LittleEndian.PutUint64(h[72:], 2)
	binary.LittleEndian.PutUint32(h[80:], 128)
	binary.LittleEndian.PutUint32(h[84:], 128)
	binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	return b
}

func TestReadTable(t *testing.T) {
	got, err := ReadTable(bytes.NewReader(mbr()), 512)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&Table{Kind: "mbr", UUID: "01d05e5e", Entries: mbrEntries(), EBRs: []int64{4 << 20, 14 << 20}}, got); diff != "" {
		t.Errorf("ReadTable(mbr) (-want +got):\n%s", diff)
	}
	for _, sector := range []int{512, 4096} {
		got, err := ReadTable(bytes.NewReader(gpt(sector)), sector)
		if err != nil {
			t.Fatal(err)
		}
		want := []Entry{{Number: 1, Start: 1 << 20, Bytes: 1 << 20, Type: "0fc63daf-8483-4772-8e79-3d69d8477de4", PartUUID: "71696e75-6575-6720-7569-642030303136", Name: "root"}}
		want[0].PartUUID = got.Entries[0].PartUUID
		if diff := cmp.Diff(want, got.Entries); diff != "" || got.Kind != "gpt" {
			t.Errorf("ReadTable(gpt, %d) (-want +got):\n%s", sector, diff)
		}
	}
}

func TestReadTableErrors(t *testing.T) {
	loop := mbr()
	binary.LittleEndian.PutUint32(loop[8192*512+446+16+8:], 0)
	for _, tt := range []struct {
		name   string
		disk   []byte
		sector int
		want   string
	}{
		{"no table", make([]byte, 4096), 512, "no partition table"},
		{"EBRs in a circle", loop, 512, "the chain may loop"},
		{"made for other sectors", gpt(512), 4096, "EFI PART"},
		{"damaged header", append(gpt(512)[:600:600], make([]byte, 1<<20)...), 512, "CRC"},
		{"too short", make([]byte, 100), 512, "read sector 0"},
	} {
		if _, err := ReadTable(bytes.NewReader(tt.disk), tt.sector); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: ReadTable = %v; want an error with %q", tt.name, err, tt.want)
		}
	}
}

// Numbers are the kernel's: an entry without sectors does not count, an EBR without a
// partition gives no number, one without a signature ends the chain
// (block/partitions/msdos.c).
func TestPartitionNumbers(t *testing.T) {
	numbers := func(b []byte) (n []int) {
		table, err := ReadTable(bytes.NewReader(b), 512)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range table.Entries {
			n = append(n, e.Number)
		}
		return n
	}
	empty := mbr()
	clear(empty[8192*512+446:][:16]) // the first EBR has no partition
	if diff := cmp.Diff([]int{1, 2, 4, 5}, numbers(empty)); diff != "" {
		t.Errorf("empty EBR (-want +got):\n%s", diff)
	}
	sizeless := mbr()
	binary.LittleEndian.PutUint32(sizeless[446+16+12:], 0)
	if diff := cmp.Diff([]int{1, 4, 5, 6}, numbers(sizeless)); diff != "" {
		t.Errorf("entry without sectors (-want +got):\n%s", diff)
	}
	cut := mbr()
	cut[(8192+20480)*512+511] = 0
	if diff := cmp.Diff([]int{1, 2, 4, 5}, numbers(cut)); diff != "" {
		t.Errorf("EBR without a signature (-want +got):\n%s", diff)
	}
}

// A preview sees what the whole image says, however the image is cut into pieces.
func TestPreview(t *testing.T) {
	image := mbr()
	ext := image[5<<20:] // a superblock on sda5
	binary.LittleEndian.PutUint16(ext[1024+56:], 0xef53)
	binary.LittleEndian.PutUint32(ext[1024+96:], 0x40)
	for _, piece := range []int{4 << 20, 1 << 20, 64 << 10, 12345} {
		p := NewPreview(512)
		for b := image; len(b) > 0; b = b[min(piece, len(b)):] {
			p.Feed(b[:min(piece, len(b))])
		}
		table, err := p.Table()
		if err != nil {
			t.Fatalf("pieces of %d: %v", piece, err)
		}
		if diff := cmp.Diff(mbrEntries(), table.Entries); diff != "" {
			t.Errorf("pieces of %d (-want +got):\n%s", piece, diff)
		}
		if fs, err := p.Filesystem(mbrEntries()[3]); err != nil || fs.Type != "ext4" {
			t.Errorf("pieces of %d: Filesystem = %+v, %v; want ext4", piece, fs, err)
		}
		if fs, err := p.Filesystem(mbrEntries()[0]); err != nil || fs.Type != "" {
			t.Errorf("pieces of %d: Filesystem = %+v, %v; want none", piece, fs, err)
		}
	}
	p := NewPreview(512)
	p.Feed(image[:6<<20])
	p.FeedZeros(8 << 20)
	p.Feed(image[14<<20:])
	if table, err := p.Table(); err != nil || len(table.Entries) != 5 {
		t.Errorf("Table with a run of zeros = %v, %v; want five entries", table, err)
	}
	p = NewPreview(512)
	p.Feed(image[:10<<20])
	if _, err := p.Table(); err == nil {
		t.Error("Table of an image cut before its last EBR = nil error")
	}
}

func TestFstab(t *testing.T) {
	const text = `# <file system>
UUID=ab-cd /kiosk/log ext4 defaults 0 2
LABEL="my\040root"	/  ext4 errors=remount-ro 0 1
/dev/sda6 /kiosk/ ext4 noatime,nofail
tmpfs /tmp tmpfs defaults 0 0
UUID=1 none swap sw 0 0
server:/x /net nfs _netdev 0 0
/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0
`
	got, err := ParseFstab(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var local []string
	for _, e := range got {
		if e.Local() {
			local = append(local, e.Spec+" "+e.Dir)
		}
	}
	if diff := cmp.Diff([]string{"LABEL=my root /", "/dev/sda6 /kiosk", "UUID=ab-cd /kiosk/log"}, local); diff != "" {
		t.Errorf("local entries (-want +got):\n%s", diff)
	}
	if _, err := ParseFstab(strings.NewReader("\n/dev/sda1 /\n")); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("ParseFstab of two fields = %v; want an error with the line", err)
	}
}

func TestDeviceOnFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xff}, 4<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	buf, err := Buffer(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	copy(buf, "new")
	for _, step := range []error{d.WriteAt(buf, 1<<20), d.Zero(2<<20, 1<<20), d.Discard(0, 512), d.Flush(), d.ReadAt(buf, 2<<20)} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if !bytes.Equal(buf, make([]byte, len(buf))) {
		t.Error("Zero did not zero")
	}
	if err := d.ReadAt(buf, 4<<20); err == nil || !strings.Contains(err.Error(), "sector 8192") {
		t.Errorf("ReadAt behind the end = %v; want an error with the sector", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got[1<<20:][:3]) != "new" || got[0] != 0xff || got[3<<20] != 0xff {
		t.Error("what was written is not where it belongs")
	}
}

// A disk that is not there must stay so: no file may be made in its place.
func TestOpenMakesNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sdz")
	if _, err := Open(path); err == nil {
		t.Error("Open of nothing = nil error")
	}
	if _, err := OpenFile(path); err == nil {
		t.Error("OpenFile of nothing = nil error")
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("Stat = %v; want that nothing was made", err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "not a block device") {
		t.Errorf("Open of a file = %v; want a refusal", err)
	}
}

// The transfer of a range is split down to the bad sector, which gets its number.
func TestBadSectorIsNamed(t *testing.T) {
	d := NewDevice(nil, "/dev/sdx", 1<<20, 512)
	tries := map[int64]int{}
	bad := func(p []byte, off int64) (int, error) {
		if off <= 77*512 && 77*512 < off+int64(len(p)) {
			if len(p) == 512 {
				tries[77]++
			}
			return 0, os.ErrDeadlineExceeded
		}
		return len(p), nil
	}
	err := d.each("write", make([]byte, 1<<20), 0, bad)
	if err == nil || !strings.HasPrefix(err.Error(), "write /dev/sdx: sector 77: ") {
		t.Errorf("each = %v; want sector 77", err)
	}
	if tries[77] != sectorAttempts {
		t.Errorf("sector 77 was tried %d times; want %d", tries[77], sectorAttempts)
	}
}

func FuzzReadTable(f *testing.F) {
	f.Add(mbr()[:1024], 512)
	f.Add(gpt(512)[:40<<10], 512)
	f.Fuzz(func(t *testing.T, disk []byte, sector int) {
		if sector != 512 && sector != 4096 {
			return
		}
		table, err := ReadTable(bytes.NewReader(disk), sector)
		if err == nil {
			for _, e := range table.Entries {
				if e.Start < 0 || e.Bytes < 0 {
					t.Errorf("entry %+v", e)
				}
			}
		}
		p := NewPreview(sector)
		p.Feed(disk)
	})
}

func FuzzProbe(f *testing.F) {
	f.Add([]byte("XFSB"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Probe(bytes.NewReader(b)); err != nil {
			t.Errorf("Probe = %v; want a verdict", err)
		}
	})
}

func FuzzParseFstab(f *testing.F) {
	f.Add("UUID=a / ext4 defaults 0 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := ParseFstab(strings.NewReader(text))
		if err == nil {
			for _, e := range entries {
				e.Local()
			}
		}
	})
}

func TestProbeSwap(t *testing.T) {
	for _, tt := range []struct {
		signature string
		at        int
		want      string
	}{
		{"SWAPSPACE2", 4086, "swap"},
		{"SWAPSPACE2", 65526, "swap"}, // pages of 64 KiB
		{"S1SUSPEND\x00", 4086, Hibernated},
		{"ULSUSPEND\x00", 4086, Hibernated},
		{"LINHIB0001", 65526, Hibernated},
		{"SWAPSPACE1", 4086, ""}, // the kernel uses it no more
		{"\x00", 4086, ""},       // encrypted by dm-crypt, or no swap
	} {
		b := make([]byte, ProbeBytes)
		copy(b[tt.at:], tt.signature)
		if got, err := Probe(bytes.NewReader(b)); err != nil || got.Type != tt.want {
			t.Errorf("Probe of swap with %q at %d = %q, %v; want %q", tt.signature, tt.at, got.Type, err, tt.want)
		}
	}
}
