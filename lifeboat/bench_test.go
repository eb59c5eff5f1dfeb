package lifeboat

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"reimager/disk"
	"reimager/image"
)

// BenchmarkBoarding loads a lifeboat of 256 MiB into a file, past the page cache, and in
// turns with it writes, flushes and reads back the same bytes and nothing else. ratio is
// the median of how many times longer boarding takes.
//
//	go test ./lifeboat -run '^$' -bench Boarding -benchtime 9x
func BenchmarkBoarding(b *testing.B) {
	name := filepath.Join(b.TempDir(), "disk")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	const size = 300 << 20
	if err := os.Truncate(name, size); err != nil {
		b.Fatal(err)
	}
	dev, err := disk.OpenFile(name)
	if err != nil {
		b.Fatal(err)
	}
	defer dev.Close()
	berth := Berth{Off: mib, Bytes: size - 2*mib, Where: "a file"}
	sections := map[string][]byte{}
	names := []string{Image, Archive, Kernel, Kernel2, Initrd, Initrd2, Saved}
	digests := map[string]image.Digest{} // that a run with a release knows
	for i, n := range []int{200, 16, 12, 12, 8, 8, 1} {
		sections[names[i]] = noise(uint64(i), n*mib)
		if names[i] != Archive && names[i] != Saved {
			digests[names[i]] = sha256.Sum256(sections[names[i]])
		}
	}
	grub := fakeGRUB(b)
	var ratios, boarding []float64
	for b.Loop() {
		plain, err := plainCopy(dev, berth.Off, names, sections)
		if err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		l, err := NewLoader(dev, berth, simRun)
		if err != nil {
			b.Fatal(err)
		}
		for _, name := range names {
			content, n := bytes.NewReader(sections[name]), int64(len(sections[name]))
			digest, known := digests[name]
			if name == Image { // which is in memory
				if err := l.Copy(name, content, n, digest); err != nil {
					b.Fatal(err)
				}
				continue
			}
			create := l.Create
			if known {
				create = func(name string, n int64) (io.WriteCloser, error) { return l.CreateKnown(name, n, digest) }
			}
			w, err := create(name, n)
			if err != nil {
				b.Fatal(err)
			}
			_, err = io.Copy(w, struct{ io.Reader }{content}) // as from a file
			if err := errors.Join(err, w.Close()); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := l.Finish(b.Context(), grub, nil, nil); err != nil {
			b.Fatal(err)
		}
		took := time.Since(start)
		ratios, boarding = append(ratios, float64(took)/float64(plain)), append(boarding, took.Seconds()*1000)
	}
	slices.Sort(ratios)
	slices.Sort(boarding)
	b.ReportMetric(ratios[len(ratios)/2], "ratio")
	b.ReportMetric(boarding[len(boarding)/2], "boarding-ms")
}

// plainCopy writes, flushes and reads back bytes past the page cache, in pieces as large
// as a lifeboat's.
func plainCopy(dev *disk.Device, off int64, names []string, sections map[string][]byte) (took time.Duration, err error) {
	buf, err := disk.Buffer(pieceBytes)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, disk.FreeBuffer(buf)) }()
	start := time.Now()
	for _, do := range []func(p []byte, off int64) error{dev.WriteAt, dev.ReadAt} {
		at := off
		for _, name := range names {
			for content := sections[name]; len(content) > 0; {
				n := copy(buf, content)
				if err := do(buf[:n], at); err != nil {
					return 0, err
				}
				content, at = content[n:], at+int64(n)
			}
		}
		if err := dev.Flush(); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}
