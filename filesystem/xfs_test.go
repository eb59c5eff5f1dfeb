package filesystem

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// headerFree is how many blocks the headers of all groups say are in their trees.
func headerFree(t testing.TB, image string) int64 {
	t.Helper()
	groups := field(t, tool(t, "xfs_db", "-r", "-c", "sb 0", "-c", "p agcount", image), "agcount =")
	var sum int64
	for n := range groups {
		sum += field(t, tool(t, "xfs_db", "-r", "-c", "agf "+strconv.FormatInt(n, 10), "-c", "p freeblks", image), "freeblks =")
	}
	return sum
}

func TestXFSFree(t *testing.T) {
	for _, c := range []struct {
		args      string
		mountable bool
	}{
		{"", true},
		{"-m rmapbt=1 -i nrext64=1", true},
		{"-b size=1024 -d agcount=3", true},
		{"-s size=4096 -m reflink=0 -l su=32k", true},
		{"-m crc=0", false}, // of which newer kernels know nothing
	} {
		t.Run(c.args, func(t *testing.T) {
			image := newImage(t, 320<<20)
			tool(t, "mkfs.xfs", append(strings.Fields("-q "+c.args), image)...)
			var want map[string]string
			if c.mountable {
				if free := unallocated(t, image); free.Whole != "" {
					t.Fatalf("just made: %s", free.Whole)
				}
				withMount(t, image, "rw", func(dir string) { churn(t, dir) })
				want = contents(t, image, "ro,norecovery")
			}
			free := unallocated(t, image)
			blockSize := field(t, tool(t, "xfs_db", "-r", "-c", "sb 0", "-c", "p blocksize", image), "blocksize =")
			if got, want := free.Bytes(), headerFree(t, image)*blockSize; got != want {
				t.Fatalf("%d bytes are free, want %d; %s", got, want, free.Whole)
			}
			spoil(t, image, free)
			tool(t, "xfs_repair", "-n", "-f", image)
			if c.mountable {
				if diff := cmp.Diff(want, contents(t, image, "ro,norecovery")); diff != "" {
					t.Errorf("files differ (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// A small log is written over and over, so that its head comes to lie anywhere.
func TestXFSLogRound(t *testing.T) {
	for _, name := range []string{"TEST_DIR", "TEST_DEV", "QA_CHECK_FS"} {
		t.Setenv(name, "x") // mkfs.xfs makes small logs only for the tests of XFS itself
	}
	image := newImage(t, 64<<20)
	tool(t, "mkfs.xfs", "-q", "-l", "size=6m", image)
	round := false
	for i := range 16 {
		withMount(t, image, "rw", func(dir string) {
			for n := range 100 + 250*i {
				if err := os.WriteFile(dir+"/"+strconv.Itoa(i%2*5000+n), nil, 0o600); err != nil {
					t.Fatal(err)
				}
				if n%150 == 0 {
					tool(t, "sync", "-f", dir)
				}
			}
		})
		if free := unallocated(t, image); free.Whole != "" {
			t.Fatal(free.Whole)
		}
		x, l := openLog(t, image)
		if first, err := l.read(0); err != nil {
			t.Fatal(err)
		} else if be := binary.BigEndian; be.Uint32(first) != 1 && !(be.Uint32(first) == 0xfeedbabe && be.Uint32(first[4:]) == 1) {
			round = true
		}
		if want := field(t, tool(t, "xfs_logprint", "-t", image), "head:"); l.head%l.sectors != want {
			t.Errorf("head of the log is %d, want %d; %d blocks", l.head, want, x.logBlocks)
		}
	}
	if !round { // see to it that more is written
		t.Error("the log never went round")
	}
}

func openLog(t testing.TB, path string) (*xfs, *xfsLog) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	x, err := (&partition{ctx: context.Background(), r: bytes.NewReader(b), size: int64(len(b))}).openXFS()
	if err != nil {
		t.Fatal(err)
	}
	l := &xfsLog{x: x, sectors: x.logBlocks * x.blockSize / logSector}
	if err := l.scan(); err != nil {
		t.Fatal(err)
	}
	return x, l
}

// unmounted makes a log that ends with an unmount record at a sector.
func unmounted(sectors, record int) []byte {
	be := binary.BigEndian
	log := make([]byte, sectors*logSector)
	for i := range sectors {
		cycle := uint32(8)
		if i <= record+1 || record == sectors-1 {
			cycle = 9
		}
		be.PutUint32(log[i*logSector:], cycle)
	}
	if record == sectors-1 { // it goes on at the start
		for i := range sectors {
			be.PutUint32(log[i*logSector:], 9)
		}
		be.PutUint32(log, 10)
	}
	head := log[record*logSector:]
	be.PutUint32(head, 0xfeedbabe)
	be.PutUint32(head[4:], 9)
	be.PutUint32(head[8:], 2)
	be.PutUint32(head[12:], logSector)
	be.PutUint32(head[40:], 1)
	be.PutUint32(head[320:], 32<<10)
	log[(record+1)%sectors*logSector+9] = 0x20
	return log
}

func TestXFSLogHead(t *testing.T) {
	const sectors = 24
	clean := func(log []byte) error {
		p := &partition{ctx: context.Background(), r: bytes.NewReader(log), size: int64(len(log))}
		return (&xfs{p: p, blockSize: 4096, logBlocks: sectors * logSector / 4096}).cleanLog()
	}
	for record := range sectors {
		if err := clean(unmounted(sectors, record)); err != nil {
			t.Errorf("unmount record at sector %d: %v", record, err)
		}
	}
	be := binary.BigEndian
	for name, spoil := range map[string]func(log []byte){
		"no unmount record":         func(log []byte) { log[8*logSector+9] = 0 },
		"two operations":            func(log []byte) { be.PutUint32(log[7*logSector+40:], 2) },
		"more was written":          func(log []byte) { be.PutUint32(log[9*logSector:], 9) },
		"more was written, further": func(log []byte) { be.PutUint32(log[15*logSector:], 9) },
		"a sector is missing":       func(log []byte) { be.PutUint32(log[3*logSector:], 8) },
		"nothing but zeros":         func(log []byte) { clear(log) },
		"no record":                 func(log []byte) { be.PutUint32(log[7*logSector:], 9) },
		"endless record":            func(log []byte) { be.PutUint32(log[7*logSector+12:], 1<<31) },
		"endless header":            func(log []byte) { be.PutUint32(log[7*logSector+320:], 1<<31) },
	} {
		log := unmounted(sectors, 7)
		spoil(log)
		if clean(log) == nil {
			t.Errorf("%s: taken for clean", name)
		}
	}
}

func TestXFSNeedsRecovery(t *testing.T) {
	for _, how := range []string{"shutdown", "shutdown -f"} {
		image := newImage(t, 300<<20)
		tool(t, "mkfs.xfs", "-q", image)
		withMount(t, image, "rw", func(dir string) {
			churn(t, dir)
			tool(t, "xfs_io", "-x", "-c", how, dir)
		})
		if got, want := unallocated(t, image).Whole, "mapped whole: XFS needs log recovery"; got != want {
			t.Errorf("after %s: %q, want %q", how, got, want)
		}
	}
}
