package retain

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// randomHeader has values on both sides of what ustar fields hold.
func randomHeader(rnd *rand.Rand) header {
	text := func(limits ...int) string {
		name := strings.Repeat("n", limits[rnd.IntN(len(limits))])
		if name != "" && rnd.IntN(3) == 0 {
			name = []string{"é", "\xff", "a\nb", "12 a=b", " "}[rnd.IntN(5)] + name
		}
		return name
	}
	number := func(limits ...int64) int64 { return limits[rnd.IntN(len(limits))] }
	h := header{
		flag: "01234567"[rnd.IntN(7)], name: "d/" + text(1, 97, 98, 99, 155, 1000, 16000), linkname: text(0, 1, 99, 100, 101, 4095),
		uname: text(0, 5, 30, 31, 32, 200), gname: text(0, 5, 30, 31, 32, 200),
		uid: number(0, 1, 1<<21-1, 1<<21, maxID), gid: number(0, 1, 1<<21-1, 1<<21, maxID), mode: rnd.Uint32N(0o10000),
		devmajor: rnd.Uint32N(1 << 12), devminor: rnd.Uint32N(1 << 20),
		mtime: unix.Timespec{Sec: number(0, 1, -1, -2, 1<<31, 1<<33-1, 1<<33, -1<<40, 1<<62, -1<<62), Nsec: number(0, 0, 1, 999999999, 100000000, 123456789)},
	}
	if h.flag == flagFile {
		h.size = number(0, 1, 512, 1<<33-1, 1<<33, 1<<50)
		h.stored = h.size
		if rnd.IntN(3) == 0 {
			h.setSparse(addExtent(nil, 512, min(1024, h.size)), true)
		}
	}
	for range rnd.IntN(3) {
		if h.xattrs == nil {
			h.xattrs = map[string]string{}
		}
		h.xattrs["user."+text(1, 2, 10)+[]string{"", "=", "%", "%3D"}[rnd.IntN(4)]] = strings.Repeat("\x00\n= ", rnd.IntN(3000))
	}
	if rnd.IntN(3) == 0 {
		h.flags, h.aclNames = inodeFlags(rnd.Uint32())&keptFlagBits, "user:1:ann\ngroup:5:staff\n"
	}
	return h
}

// What is written is read back as it was, by us and by the standard library.
func TestHeaders(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		want := randomHeader(rnd)
		b := appendHeader(nil, &want)
		if len(b)%tarBlock != 0 {
			t.Fatalf("%d bytes, which are no whole blocks, of %+v", len(b), want)
		}
		got, err := newReader(bytes.NewReader(b)).header()
		if err != nil {
			t.Fatalf("read %+v: %v", want, err)
		}
		got.name = strings.TrimSuffix(got.name, "/")
		if diff := cmp.Diff(&want, got, cmp.AllowUnexported(header{}, extent{})); diff != "" {
			t.Fatalf("ours: %s", diff)
		}
		std, err := tar.NewReader(bytes.NewReader(b)).Next()
		if err != nil {
			t.Fatalf("archive/tar reads %+v: %v", want, err)
		}
		gotStd := header{flag: std.Typeflag, name: strings.TrimSuffix(std.Name, "/"), linkname: std.Linkname, uname: std.Uname, gname: std.Gname,
			uid: int64(std.Uid), gid: int64(std.Gid), mode: uint32(std.Mode), size: std.Size,
			mtime:    unix.Timespec{Sec: std.ModTime.Unix(), Nsec: int64(std.ModTime.Nanosecond())},
			devmajor: uint32(std.Devmajor), devminor: uint32(std.Devminor)}
		for key, value := range std.PAXRecords {
			if strings.HasPrefix(key, paxXattr) {
				if gotStd.xattrs == nil {
					gotStd.xattrs = map[string]string{}
				}
				gotStd.xattrs[xattrName(key)] = value
			}
		}
		// It knows nothing of these.
		want.stored, want.sparse, want.extents, want.flags, want.aclNames = 0, false, nil, 0, ""
		if diff := cmp.Diff(want, gotStd, cmp.AllowUnexported(header{}, extent{})); diff != "" {
			t.Fatalf("archive/tar: %s", diff)
		}
	}
}

// A broken archive is an error, in bounded memory and time; a whole one is read
// the same again when it is written again.
func FuzzReader(f *testing.F) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		h := randomHeader(rnd)
		h.size, h.stored = 0, 0
		h.setSparse(nil, false)
		f.Add(append(appendHeader(nil, &h), make([]byte, archiveEndBytes)...))
	}
	f.Add(appendHeader(nil, &header{flag: flagFile, name: "f", size: 1 << 40, stored: 1 << 40}))
	f.Fuzz(func(t *testing.T, archive []byte) {
		r := newReader(bytes.NewReader(archive))
		for {
			h, err := r.header()
			if err != nil {
				if err != io.EOF && r.at > int64(len(archive)) {
					t.Errorf("%v at byte %d of %d", err, r.at, len(archive))
				}
				return
			}
			if h.stored < 0 || h.size < 0 || h.mtime.Nsec < 0 || h.mtime.Nsec > 999999999 || r.left < 0 {
				t.Fatalf("took %+v", h)
			}
			if _, err := beneath(h.name); err != nil || h.uid < 0 || h.gid < 0 || h.linkname != strings.Trim(h.linkname, "\x00") {
				continue // which is never written
			}
			again := *h
			again.stored = h.size
			again.setSparse(h.extents, h.sparse)
			got, err := newReader(bytes.NewReader(appendHeader(nil, &again))).header()
			if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%+v was not read again: %v", again, err)
			}
			if err == nil && strings.TrimRight(got.name, "/") != strings.TrimRight(h.name, "/") {
				t.Fatalf("%q was read again as %q", h.name, got.name)
			}
		}
	})
}
