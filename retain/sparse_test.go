package retain

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// sparseFile makes a file of size bytes with a block of data at each offset.
func sparseFile(t testing.TB, path string, size int64, at ...int64) {
	t.Helper()
	f, err := os.Create(path)
	check(t, err)
	check(t, f.Truncate(size))
	for i, offset := range at {
		data := bytes.Repeat([]byte{byte('a' + i)}, 4096)
		_, err := f.WriteAt(data[:min(4096, size-offset)], offset)
		check(t, err)
	}
	check(t, f.Close())
}

// A file of 1 TiB with three blocks of data costs kilobytes and no time, in each
// step and for tar.
func TestHugeSparseFile(t *testing.T) {
	const size = 1 << 40
	old := tree(t, "d/")
	file := filepath.Join(old, "d/huge")
	sparseFile(t, file, size, 0, 1<<30, size-4096)
	start := time.Now()
	plan := scan(t, old, "/d")
	archive, summary := capture(t, plan)
	if plan.ArchiveBytes > 32<<10 || len(archive) < 12<<10 {
		t.Errorf("the plan has %d bytes for an archive of %d; want about 12 KiB", plan.ArchiveBytes, len(archive))
	}
	if got := summary.Entries[1]; got.Bytes != size || got.HoleBytes != size-3*4096 {
		t.Errorf("captured %d bytes, %d in holes; want %d with all but 12 KiB in holes", got.Bytes, got.HoleBytes, int64(size))
	}
	target := t.TempDir()
	report := restore(t, target, archive, Options{Owners: ByID})
	if diff := cmp.Diff([]Difference(nil), verify(t, target, archive, Options{Owners: ByID})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(summary.Entries, []Record{report.Entries[0].Record, report.Entries[1].Record}); diff != "" {
		t.Error(diff)
	}
	unpacked := t.TempDir()
	cmd := exec.Command("tar", "-xpf", "-", "-C", unpacked)
	cmd.Stdin = bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("tar: %v\n%s", err, out)
	}
	for _, dir := range []string{target, unpacked} {
		copied := filepath.Join(dir, "d/huge")
		if st := lstat(t, copied); st.Size != size || st.Blocks*512 > 64<<10 {
			t.Errorf("%s: size %d, %d bytes allocated; want %d, about 12 KiB", copied, st.Size, st.Blocks*512, int64(size))
		}
		// filefrag-free check that shares no code: read the three blocks.
		f, err := os.Open(copied)
		check(t, err)
		for i, at := range []int64{0, 1 << 30, size - 4096, 4096} {
			got := make([]byte, 4096)
			_, err := f.ReadAt(got, at)
			check(t, err)
			want := bytes.Repeat([]byte{byte('a' + i)}, 4096)
			if at == 4096 {
				want = make([]byte, 4096)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s: other data at %d", copied, at)
			}
		}
		check(t, f.Close())
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

// Every place where a hole can be, and every size about a block.
func TestSparseFiles(t *testing.T) {
	old := tree(t, "k/")
	at := func(name string) string { return filepath.Join(old, "k", name) }
	for _, size := range []int64{1, 511, 512, 513, 4096, 4097, 8192, 70000, smallBytes, 3 * bufferBytes, 3*bufferBytes + 17} {
		name := strings.Repeat("n", int(size%150)) + time.Duration(size).String()
		sparseFile(t, at(name+"-hole"), size)
		sparseFile(t, at(name+"-full"), size, 0)
		if size > 4096 {
			sparseFile(t, at(name+"-end"), size, (size-1)/4096*4096)
		}
		if size > 8192 {
			sparseFile(t, at(name+"-middle"), size, 4096)
			sparseFile(t, at(name+"-é\xff"), size, 8192)
		}
	}
	// More extents than fit in a block of the map.
	var many []int64
	for i := range int64(400) {
		many = append(many, i*8192)
	}
	sparseFile(t, at("many"), 1e7, many...)
	archive, _ := capture(t, scan(t, old, "/k"))
	target := t.TempDir()
	restore(t, target, archive, Options{Owners: ByID})
	if diff := cmp.Diff([]Difference(nil), verify(t, target, archive, Options{Owners: ByID})); diff != "" {
		t.Error(diff)
	}
	compareTrees(t, filepath.Join(old, "k"), filepath.Join(target, "k"))
	if os.Geteuid() == 0 {
		unpackWithTar(t, old, archive)
	}
	for name := range snapshot(t, filepath.Join(old, "k")) {
		want, got := lstat(t, at(name)), lstat(t, target, "k", name)
		if got.Blocks > want.Blocks {
			t.Errorf("%q of %d bytes has %d blocks; want %d", name, got.Size, got.Blocks, want.Blocks)
		}
	}
	// The standard library reads it, too, holes expanded.
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		check(t, err)
		if h.Typeflag != tar.TypeReg {
			continue
		}
		got, err := io.ReadAll(r)
		check(t, err)
		want, err := os.ReadFile(filepath.Join(old, h.Name))
		check(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%q has other content for archive/tar", h.Name)
		}
	}
}

// What GNU tar writes in its sparse format 1.0 is put back; other formats are
// refused, without taking the time of 4 TiB.
func TestSparseArchive(t *testing.T) {
	source := tree(t, "z=last")
	sparseFile(t, filepath.Join(source, "huge"), 4<<40, 1<<40)
	for _, test := range []struct{ format, version, wrong string }{
		{"pax", "1.0", ""},
		{"pax", "0.1", "sparse, and not of format 1.0"},
		{"pax", "0.0", "sparse, and not of format 1.0"},
		{"gnu", "0.0", "type 'S'"},
	} {
		archive, err := exec.Command("tar", "-C", source, "--format="+test.format, "--sparse", "--sparse-version="+test.version, "-cf", "-", "huge", "z").Output()
		check(t, err)
		target := t.TempDir()
		report, err := Restore(t.Context(), target, bytes.NewReader(archive), Options{Owners: ByID})
		text := ""
		if err != nil {
			text = err.Error()
		}
		for _, c := range report.Conflicts {
			text += c.Why
		}
		if (text == "") != (test.wrong == "") || !strings.Contains(text, test.wrong) {
			t.Errorf("%s %s: %q; want %q", test.format, test.version, text, test.wrong)
		}
		if test.wrong != "" {
			continue
		}
		if st := lstat(t, target, "huge"); st.Size != 4<<40 || st.Blocks > 128 {
			t.Errorf("%s %s: %d bytes in %d blocks", test.format, test.version, st.Size, st.Blocks)
		}
		if diff := cmp.Diff([]Difference(nil), verify(t, target, archive, Options{Owners: ByID})); diff != "" {
			t.Error(diff)
		}
	}
}

// A hole that was filled, and a file that lost its holes, are found.
func TestVerifyFindsFilledHoles(t *testing.T) {
	old := tree(t, "d/")
	sparseFile(t, filepath.Join(old, "d/f"), 8<<20, 1<<20)
	archive, _ := capture(t, scan(t, old, "/d"))
	for _, test := range []struct {
		what   string
		change func(f *os.File) error
	}{
		{"content", func(f *os.File) error { _, err := f.WriteAt([]byte("x"), 5<<20); return err }},
		{"content", func(f *os.File) error { _, err := f.WriteAt([]byte("x"), 8<<20-1); return err }},
		{"content", func(f *os.File) error { return f.Truncate(8<<20 + 1) }},
		{"content", func(f *os.File) error { return f.Truncate(8<<20 - 1) }},
		{"content", func(f *os.File) error { return f.Truncate(1<<20 + 7) }},
		{"content", func(f *os.File) error { _, err := f.WriteAt([]byte("x"), 1<<20+4095); return err }},
		{"holes", func(f *os.File) error { _, err := f.WriteAt(make([]byte, 2<<20), 3<<20); return err }},
	} {
		target := t.TempDir()
		restore(t, target, archive, Options{})
		path := filepath.Join(target, "d/f")
		before := lstat(t, path)
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		check(t, err)
		check(t, errors.Join(test.change(f), f.Close()))
		check(t, os.Chtimes(path, time.Time{}, time.Unix(before.Mtim.Unix())))
		var got []string
		for _, d := range verify(t, target, archive, Options{}) {
			got = append(got, string(d.Path)+" "+d.What)
		}
		if diff := cmp.Diff([]string{"/d/f " + test.what}, got); diff != "" {
			t.Error(diff)
		}
	}
}

// A map says where writes go: nothing but a right one is taken.
func FuzzSparseMap(f *testing.F) {
	f.Add(appendSparseMap(nil, []extent{{0, 512}, {4096, 100}}, 4196), int64(4196), int64(612))
	f.Add(appendSparseMap(nil, nil, 1<<40), int64(1<<40), int64(0))
	f.Add(appendPadding([]byte("2\n0\n9\n5\n9\n"), 10), int64(100), int64(18))
	f.Add([]byte("9223372036854775807\n"), int64(100), int64(18))
	f.Fuzz(func(t *testing.T, text []byte, size, data int64) {
		if size < 0 || data < 0 || data > 1<<50 {
			return
		}
		in := bufio.NewReader(bytes.NewReader(text))
		extents, read, err := readSparseMap(in, size, int64(len(text))+data)
		if err != nil {
			return
		}
		end := int64(0)
		for _, e := range extents {
			if e.offset < end || e.bytes <= 0 || e.offset+e.bytes > size {
				t.Fatalf("extent %v after byte %d in a file of %d", e, end, size)
			}
			end = e.offset + e.bytes
		}
		if read+extentBytes(extents) != int64(len(text))+data {
			t.Errorf("map of %d bytes and data of %d; want %d stored", read, extentBytes(extents), int64(len(text))+data)
		}
		again, _, err := readSparseMap(bufio.NewReader(bytes.NewReader(appendSparseMap(nil, extents, size))), size, storedBytes(extents, size))
		if err != nil || !cmp.Equal(extents, again, cmp.AllowUnexported(extent{})) {
			t.Errorf("%v was read back as %v, %v", extents, again, err)
		}
	})
}

// A file with holes in it and no data is found out as such on every filesystem
// whose holes can be asked for.
func TestDataExtents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, test := range []struct {
		size int64
		at   []int64
		want []extent
	}{
		{0, nil, nil},
		{1 << 20, nil, nil},
		{1 << 20, []int64{0}, []extent{{0, 4096}}},
		{1<<20 + 5, []int64{1 << 20}, []extent{{1 << 20, 5}}},
		{1 << 20, []int64{4096, 8192, 65536}, []extent{{4096, 8192}, {65536, 4096}}},
	} {
		sparseFile(t, path, test.size, test.at...)
		fd, err := unix.Open(path, unix.O_RDONLY, 0)
		check(t, err)
		got, sparse, err := dataExtents(fd, test.size)
		check(t, errors.Join(err, unix.Close(fd)))
		if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(extent{})); diff != "" || sparse != (test.size > 0) {
			t.Errorf("%d bytes, data at %v: sparse %v, %s", test.size, test.at, sparse, diff)
		}
	}
}
