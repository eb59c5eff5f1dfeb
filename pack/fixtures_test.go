package pack

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"aead.dev/minisign"

	"reimager/disk"
	"reimager/image"
	"reimager/imaging"
	"reimager/report"
)

const (
	sector = 512
	mib    = 1 << 20
)

// quiet is a reporter that nobody hears.
func quiet() *report.Reporter { return report.New(io.Discard, nil, time.Now()) }

// entry is a partition of an MBR.
type entry struct {
	kind         byte
	start, bytes int64
}

// mbr writes a partition table with some boot code.
func mbr(entries ...entry) []byte {
	b := make([]byte, sector)
	copy(b, "\xeb\xfe boot code")
	for i, e := range entries {
		at := b[446+16*i:]
		at[4] = e.kind
		binary.LittleEndian.PutUint32(at[8:], uint32(e.start/sector))
		binary.LittleEndian.PutUint32(at[12:], uint32(e.bytes/sector))
	}
	b[510], b[511] = 0x55, 0xaa
	return b
}

// swapHeader is the first page of a swap area, as mkswap makes it.
func swapHeader(bytes int64) []byte {
	b := make([]byte, 4096)
	binary.LittleEndian.PutUint32(b[1024:], 1)
	binary.LittleEndian.PutUint32(b[1028:], uint32(bytes/4096-1))
	copy(b[4086:], "SWAPSPACE2")
	return b
}

// random is n bytes that do not compress, always the same for a seed.
func random(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := mathrand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

// kiosk is an image of 6 MiB: swap with something in it, something unknown, a hole.
func kiosk(t *testing.T) string {
	t.Helper()
	b := make([]byte, 6*mib)
	copy(b, mbr(entry{0x82, mib, 2 * mib}, entry{0x83, 4 * mib, mib}))
	copy(b[mib:], swapHeader(2*mib))
	copy(b[2*mib:], "swapped out: a password")
	copy(b[4*mib:], random(300_000, 1))
	copy(b[5*mib+5000:], "between partition and end")
	name := filepath.Join(t.TempDir(), "kiosk.img")
	must(t, os.WriteFile(name, b, 0o600))
	return name
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// key makes a key pair.
func key(t *testing.T) (sign func(*image.Manifest, []byte) ([]byte, error), trusted image.Key) {
	t.Helper()
	public, private, err := minisign.GenerateKey(rand.Reader)
	must(t, err)
	text, err := public.MarshalText()
	must(t, err)
	trusted, err = image.ParseKey("fleet.pub", text)
	must(t, err)
	return func(_ *image.Manifest, text []byte) ([]byte, error) {
		r := minisign.NewReader(bytes.NewReader(text))
		if _, err := io.Copy(io.Discard, r); err != nil {
			return nil, err
		}
		return r.SignWithComments(private, "trusted words", "untrusted words"), nil
	}, trusted
}

func options(disk, out string, format image.Format) Options {
	return Options{Disk: disk, Output: out, Format: format, Name: "kiosk", Version: "1", Counter: 1, Workers: 2, Report: quiet()}
}

func pack(t *testing.T, o Options) *Result {
	t.Helper()
	done, err := Pack(t.Context(), o)
	must(t, err)
	return done
}

// write writes a release, or an image with a map, to a new file.
func write(t *testing.T, name string, o image.InputOptions, size int64) (string, error) {
	t.Helper()
	target := filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(target, nil, 0o600))
	must(t, os.Truncate(target, size))
	in, err := image.OpenInput(name, o)
	if err != nil {
		return "", err
	}
	defer in.Close()
	src, err := image.Decode(in, 2)
	if err != nil {
		return "", err
	}
	defer src.Close()
	dev, err := disk.OpenFile(target)
	must(t, err)
	defer dev.Close()
	_, err = imaging.WriteWhole(t.Context(), imaging.Job{Device: dev, Source: src, Map: in.Map}, func(done *imaging.Result) error {
		return imaging.ReadBack(t.Context(), dev, done.Map, done.Held, nil)
	})
	return target, err
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	return b
}

// sparseFile leaves holes where there are zeros.
func sparseFile(name string, b []byte) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	for off := 0; off < len(b); off += 64 << 10 {
		if part := b[off:min(len(b), off+64<<10)]; !image.AllZero(part) {
			if _, err := f.WriteAt(part, int64(off)); err != nil {
				return err
			}
		}
	}
	return errors.Join(f.Truncate(int64(len(b))), f.Close())
}

// signedProgram is a PE32+ file with a certificate table behind all else: Microsoft's
// "PE Format".
func signedProgram() []byte {
	const at, table = 0x80, 70000
	b := make([]byte, table+16)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], at)
	copy(b[at:], "PE\x00\x00")
	optional := b[at+24:]
	le.PutUint16(optional, 0x20b)
	le.PutUint32(optional[108:], 16)
	le.PutUint32(optional[112+8*4:], table)
	le.PutUint32(optional[112+8*4+4:], 16)
	le.PutUint32(b[table:], 16)
	return b
}
