// Package treetest makes trees of files with all that is easily lost, and describes
// them with the system's own tools, for tests of what copies trees. It shares no
// code with what it tests.
package treetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Kind says what a filesystem can hold.
type Kind struct {
	Name       string
	LinkBytes  int    // of a symbolic link's target
	XattrBytes int    // of all extended attributes of a file together
	Flags      uint32 // inode flags that can be set, of linux/fs.h
	DirFlags   uint32 // that only directories can have
}

// Inode flags of linux/fs.h.
const (
	Sync      = 0x8
	Immutable = 0x10
	Append    = 0x20
	NoDump    = 0x40
	NoAtime   = 0x80
	DirSync   = 0x10000
	TopDir    = 0x20000
	NoCOW     = 0x800000
)

// Tmpfs as it is since Linux 6.6.
func Tmpfs() Kind { return Kind{"tmpfs", 4000, 100 << 10, Immutable | Append | NoDump | NoAtime, 0} }

// Ext4 with blocks of 4 KiB, one of which holds a file's extended attributes.
func Ext4() Kind {
	return Kind{"ext4", 4000, 2 << 10, Sync | Immutable | Append | NoDump | NoAtime, DirSync | TopDir}
}

// XFS of version 5.
func XFS() Kind { return Kind{"xfs", 1000, 100 << 10, Sync | Immutable | Append | NoDump | NoAtime, 0} }

// Btrfs with nodes of 16 KiB, in one of which an extended attribute has to fit.
func Btrfs() Kind {
	return Kind{"btrfs", 3500, 8 << 10, Sync | Immutable | Append | NoDump | NoAtime | NoCOW, DirSync}
}

type generator struct {
	t     testing.TB
	rnd   *rand.Rand
	kind  Kind
	dirs  []string
	files []string // regular ones
	all   []string
	flags map[string]uint32
}

// Generate makes a random tree of about size files in the empty directory root;
// the same seed gives the same tree. The caller is root. Files that nobody may
// change are released when the test ends.
func Generate(t testing.TB, root string, seed uint64, size int, kind Kind) {
	t.Helper()
	g := &generator{t: t, rnd: rand.New(rand.NewPCG(seed, 0)), kind: kind, dirs: []string{root}, flags: map[string]uint32{}}
	ReleaseAtEnd(t, root)
	for range size {
		g.entry()
	}
	for _, path := range append(g.all, g.dirs...) {
		g.owner(path)
		g.xattrs(path)
	}
	// Times of directories last, children before parents; then flags.
	for i := len(g.all) - 1; i >= 0; i-- {
		g.times(g.all[i])
	}
	for i := len(g.dirs) - 1; i >= 0; i-- {
		g.times(g.dirs[i])
	}
	for path, flags := range g.flags {
		g.check(path, setFlags(path, flags))
	}
}

func (g *generator) check(path string, err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatalf("generate %q: %v", path, err)
	}
}

// one says yes once in n.
func (g *generator) one(n int) bool { return g.rnd.IntN(n) == 0 }

func (g *generator) name() string {
	switch g.rnd.IntN(8) {
	case 0: // any bytes
		name := make([]byte, 1+g.rnd.IntN(60))
		for i := range name {
			if name[i] = byte(1 + g.rnd.IntN(255)); name[i] == '/' {
				name[i] = '_'
			}
		}
		return string(name) + "x" // neither "." nor ".."
	case 1:
		return strings.Repeat("n", 247) + fmt.Sprintf("%08d", g.rnd.IntN(1e8))
	case 2:
		return " -lead\n\ttrail " + fmt.Sprint(g.rnd.IntN(1e6))
	case 3:
		return "ünïcødé" + fmt.Sprint(g.rnd.IntN(1e6))
	}
	return fmt.Sprint("f", g.rnd.IntN(1e6))
}

func (g *generator) entry() {
	// The newest directory is preferred, so that trees get deep as well as wide.
	dir := g.dirs[len(g.dirs)-1]
	if g.one(2) || len(dir) > 2500 {
		dir = g.dirs[g.rnd.IntN(len(g.dirs))]
	}
	path := filepath.Join(dir, g.name())
	if len(path) > 3000 {
		return
	}
	if _, err := os.Lstat(path); err == nil {
		return
	}
	switch g.rnd.IntN(12) {
	case 0, 1:
		g.check(path, os.Mkdir(path, 0o700))
		g.dirs = append(g.dirs, path)
		g.someFlags(path, g.kind.Flags|g.kind.DirFlags)
		return // its attributes come with those of g.dirs
	case 2:
		target := strings.Repeat("t/", g.rnd.IntN(g.kind.LinkBytes/2-150)) + g.name()
		g.check(path, os.Symlink(target, path))
	case 3:
		g.check(path, unix.Mkfifo(path, 0o600))
	case 4:
		mode := uint32(unix.S_IFCHR)
		if g.one(2) {
			mode = unix.S_IFBLK
		}
		g.check(path, unix.Mknod(path, mode|0o600, int(unix.Mkdev(uint32(g.rnd.IntN(512)), uint32(g.rnd.IntN(1<<18))))))
	case 5:
		if len(g.files) > 0 {
			g.check(path, os.Link(g.files[g.rnd.IntN(len(g.files))], path))
		}
		return
	default:
		g.file(path)
		g.files = append(g.files, path)
		g.someFlags(path, g.kind.Flags)
	}
	g.all = append(g.all, path)
}

// file makes one that is empty, small, large or has holes.
func (g *generator) file(path string) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	g.check(path, err)
	if g.kind.Flags&NoCOW != 0 && g.one(8) {
		g.check(path, setFlags(path, NoCOW))
		g.flags[path] = NoCOW
	}
	size := []int{0, 1, 511, 512, 4096, g.rnd.IntN(5000), g.rnd.IntN(300000), 256 << 10, g.rnd.IntN(900000)}[g.rnd.IntN(9)]
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(g.rnd.Uint32())
	}
	if g.one(4) {
		length := int64(g.rnd.IntN(1 << 18))
		if g.one(8) {
			length *= 10
		}
		g.check(path, f.Truncate(length))
		for range g.rnd.IntN(5) {
			n := min(int64(len(data)), 20000)
			if length > n {
				_, err := f.WriteAt(data[:n], g.rnd.Int64N(length-n))
				g.check(path, err)
			}
		}
	} else {
		_, err := f.Write(data)
		g.check(path, err)
	}
	g.check(path, f.Close())
}

func (g *generator) someFlags(path string, possible uint32) {
	if g.one(6) {
		// Nothing may be put into a directory with them, or linked: set last.
		g.flags[path] |= possible & g.rnd.Uint32() &^ NoCOW
	}
}

func (g *generator) owner(path string) {
	uid, gid := g.rnd.IntN(3)*1000, g.rnd.IntN(3)*1000
	if g.one(4) {
		uid, gid = g.rnd.IntN(1<<31), g.rnd.IntN(1<<31)
	}
	g.check(path, unix.Lchown(path, uid, gid))
	var st unix.Stat_t
	g.check(path, unix.Lstat(path, &st))
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		g.check(path, unix.Chmod(path, uint32(g.rnd.IntN(0o10000))))
	}
}

func (g *generator) xattrs(path string) {
	var st unix.Stat_t
	g.check(path, unix.Lstat(path, &st))
	kind := st.Mode & unix.S_IFMT
	regular, dir := kind == unix.S_IFREG, kind == unix.S_IFDIR
	left := g.kind.XattrBytes
	set := func(name string, value []byte) {
		// Room for the name, and what the filesystem adds.
		if left -= len(name) + len(value) + 24; left > 0 {
			g.check(path+" "+name, unix.Lsetxattr(path, name, value, 0))
		}
	}
	if kind != unix.S_IFLNK && g.one(6) {
		set("system.posix_acl_access", g.acl())
	}
	if dir && g.one(4) {
		set("system.posix_acl_default", g.acl())
	}
	if regular && g.one(6) {
		set("security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	}
	if g.one(6) {
		set("security.selinux", []byte("system_u:object_r:etc_t:s0\x00"))
	}
	if g.one(5) {
		set("trusted.odd=%name", g.bytes(g.rnd.IntN(200)))
	}
	if (regular || dir) && g.one(10) {
		for i := range 100 {
			set(fmt.Sprintf("user.%d", i), g.bytes(g.rnd.IntN(9)))
		}
	}
	if (regular || dir) && g.one(10) {
		set("user.large", g.bytes(min(64<<10, max(0, left-100))))
	}
	if regular || dir {
		if g.one(5) {
			set("user.empty", nil)
		}
	}
}

func (g *generator) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.rnd.Uint32())
	}
	return b
}

// acl is the value of a system.posix_acl_* attribute, linux/posix_acl_xattr.h.
func (g *generator) acl() []byte {
	var b bytes.Buffer
	put := func(tag, perm uint16, id uint32) {
		for _, v := range []any{tag, perm, id} {
			if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
				g.t.Fatal(err)
			}
		}
	}
	perm := func() uint16 { return uint16(g.rnd.IntN(8)) }
	const none = 1<<32 - 1
	b.Write([]byte{2, 0, 0, 0})
	put(0x01, perm(), none)
	for i := range g.rnd.IntN(5) {
		put(0x02, perm(), uint32(1000+100*i+g.rnd.IntN(100)))
	}
	put(0x04, perm(), none)
	for i := range g.rnd.IntN(5) {
		put(0x08, perm(), uint32(1000+100*i+g.rnd.IntN(100)))
	}
	put(0x10, perm(), none)
	put(0x20, perm(), none)
	return b.Bytes()
}

// times are within what ext4 and XFS hold: 1901 to 2446.
func (g *generator) times(path string) {
	t := unix.Timespec{Sec: g.rnd.Int64N(1<<31+14e9) - 1<<31, Nsec: g.rnd.Int64N(1e9)}
	if g.one(5) {
		t = []unix.Timespec{{}, {Sec: -1, Nsec: 999999999}, {Sec: 1<<31 - 1}, {Sec: 1 << 31}, {Sec: 1 << 32, Nsec: 1}, {Sec: -1 << 31}}[g.rnd.IntN(6)]
	}
	g.check(path, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW))
}

// setFlags adds flags to those that a file has.
func setFlags(path string, flags uint32) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	have, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(have|flags))
}
