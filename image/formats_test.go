package image

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os/exec"
	"testing"
)

// tool pipes content through a command, which has to be there.
func tool(t testing.TB, content []byte, name string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("the command %s is needed: %v", name, err)
	}
	cmd := exec.Command(name, append(args, "-c")...)
	cmd.Stdin = bytes.NewReader(content)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("run %s %q: %v: %s", name, args, err, stderr.Bytes())
	}
	return out.Bytes()
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// diskLike is n bytes with a boot sector, text, noise and zeros.
func diskLike(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(uint64(n), 3))
	for i := 0; i < n/4; i++ {
		b[i] = 'a' + byte(r.IntN(4)*r.IntN(4))
	}
	for i := n / 4; i < n/3; i++ {
		b[i] = byte(r.Uint32())
	}
	if n >= HeadBytes {
		b[510], b[511] = 0x55, 0xaa
	}
	return b
}

// fixture is what a tool has made of content. At boundaries a part of it is a whole
// file, too, which nobody could know to be only a part.
type fixture struct {
	name       string
	format     Format
	file       []byte
	content    []byte
	boundaries []int
}

// parted is a fixture of several streams.
func parted(name string, format Format, content []byte, streams ...[]byte) fixture {
	f := fixture{name: name, format: format, content: content}
	for _, s := range streams {
		f.file = append(f.file, s...)
		f.boundaries = append(f.boundaries, len(f.file))
	}
	return f
}

// largeFixtures has every kind of file that the tools write.
func largeFixtures(t testing.TB) []fixture {
	b := diskLike(2_500_000)
	head, tail := b[:1_000_000], b[1_000_000:]
	xz := func(content []byte, args ...string) []byte { return tool(t, content, "xz", args...) }
	return []fixture{
		parted("raw", Raw, b[:2_500_000/512*512], b[:2_500_000/512*512]),
		parted("bzip2", Bzip2, b, tool(t, b, "bzip2", "-9")),
		parted("bzip2, two streams", Bzip2, b, tool(t, head, "bzip2", "-1"), tool(t, tail, "bzip2")),
		parted("pbzip2", Bzip2, b, tool(t, b, "pbzip2", "-p2", "-b1")),
		parted("lbzip2", Bzip2, b, tool(t, b, "lbzip2", "-n2", "-1")),
		parted("zstd", Zstd, b, tool(t, b, "zstd", "-q", "-3")),
		parted("zstd, 64 MiB window", Zstd, b, tool(t, b, "zstd", "-q", "--long=26")),
		parted("zstd, two frames", Zstd, b, tool(t, head, "zstd", "-q", "-19"), tool(t, tail, "zstd", "-q", "--no-check")),
		parted("pzstd", Zstd, b, tool(t, b, "pzstd", "-q", "-p2")),
		parted("gzip", Gzip, b, tool(t, b, "gzip", "-9")),
		parted("gzip, three members, one of nothing", Gzip, b, tool(t, head, "gzip", "-1"), tool(t, nil, "gzip"), tool(t, tail, "gzip")),
		parted("xz", XZ, b, xz(b, "-6")),
		parted("xz -9, a dictionary of 64 MiB", XZ, b, xz(b, "-9")),
		parted("xz, many blocks with their sizes", XZ, b, xz(b, "-1", "-T2", "--block-size=300KiB")),
		parted("xz, many blocks without", XZ, b, xz(b, "-1", "-T1", "--block-size=300KiB")),
		parted("xz, no check", XZ, b, xz(b, "-0", "--check=none")),
		parted("xz, CRC32", XZ, b, xz(b, "-0", "--check=crc32")),
		parted("xz, SHA-256", XZ, b, xz(b, "-0", "--check=sha256")),
		parted("xz, streams of different checks, padding, one of nothing", XZ, b, xz(head, "-0", "--check=sha256"), make([]byte, 8), xz(nil), xz(tail, "-0"), make([]byte, 4)),
	}
}

// smallFixtures are such that every length and every bit can be tried.
func smallFixtures(t testing.TB) []fixture {
	b := diskLike(1024)
	head, tail := b[:700], b[700:]
	padding := []byte{0, 0, 0, 0}
	xz := parted("xz", XZ, b, tool(t, head, "xz", "-0", "--check=crc32"), padding, tool(t, tail, "xz", "-0", "--check=crc64"), padding)
	return []fixture{
		parted("bzip2", Bzip2, b, tool(t, head, "bzip2"), tool(t, tail, "bzip2")),
		parted("zstd", Zstd, b, tool(t, head, "zstd", "-q"), tool(t, tail, "zstd", "-q", "--stream-size=324")),
		parted("gzip", Gzip, b, tool(t, head, "gzip"), tool(t, tail, "gzip")),
		xz,
		parted("xz, several blocks", XZ, b, tool(t, b, "xz", "-0", "-T2", "--block-size=400")),
	}
}

// decodeBy decodes with Next or with Read.
func decodeBy(t testing.TB, src io.Reader, workers int, next bool) ([]byte, Format, error) {
	t.Helper()
	d, err := Decode(src, workers)
	if err != nil {
		return nil, "", err
	}
	defer func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	}()
	if !next {
		out, err := io.ReadAll(d)
		return out, d.Format, err
	}
	var out []byte
	buf := make([]byte, 100_000)
	for {
		c, err := d.Next(buf)
		out = append(out, c.Data...)
		out = append(out, make([]byte, c.Zeros)...)
		if err == io.EOF {
			return out, d.Format, nil
		}
		if err != nil {
			return out, d.Format, err
		}
	}
}

func TestFilesOfTheTools(t *testing.T) {
	for _, f := range largeFixtures(t) {
		for _, next := range []bool{false, true} {
			got, format, err := decodeBy(t, bytes.NewReader(f.file), 2, next)
			if err != nil || format != f.format || !bytes.Equal(got, f.content) {
				t.Errorf("%s, Next %v: %d bytes as %q, %v; want the %d", f.name, next, len(got), format, err, len(f.content))
			}
		}
	}
}

// What is Zeros for one format need not be for others, but nothing is held twice.
func TestZerosAreToldApart(t *testing.T) {
	b := diskLike(3_000_000)
	for _, file := range [][]byte{tool(t, b, "bzip2"), tool(t, b, "zstd", "-q")} {
		d, err := Decode(bytes.NewReader(file), 2)
		if err != nil {
			t.Fatal(err)
		}
		var zeros int64
		for err == nil {
			var c Chunk
			c, err = d.Next(nil)
			zeros += c.Zeros
		}
		if err != io.EOF || zeros < 1_800_000 { // of two million
			t.Errorf("%s: %d zeros, %v; want most of 2000000", d.Format, zeros, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}
