package bzip2

import (
	"bytes"
	stdlib "compress/bzip2"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"

	dsnet "github.com/dsnet/compress/bzip2"
)

// benchFile returns the compressed file that BZIP2_BENCH_FILE names, or one
// like a disk image of 24 MB.
func benchFile(b *testing.B) []byte {
	if name := os.Getenv("BZIP2_BENCH_FILE"); name != "" {
		file, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		return file
	}
	return compress(b, diskLike(24_000_000), 9)
}

func BenchmarkDecode(b *testing.B) {
	file := benchFile(b)
	for _, bench := range []struct {
		name string
		open func(io.Reader) (io.Reader, error)
	}{
		{"1 worker", func(r io.Reader) (io.Reader, error) { return NewReader(r, Options{Workers: 1}), nil }},
		{"2 workers", func(r io.Reader) (io.Reader, error) { return NewReader(r, Options{Workers: 2}), nil }},
		{"dsnet", func(r io.Reader) (io.Reader, error) { return dsnet.NewReader(r, nil) }},
		{"stdlib", func(r io.Reader) (io.Reader, error) { return stdlib.NewReader(r), nil }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			for b.Loop() {
				r, err := bench.open(bytes.NewReader(file))
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.Copy(io.Discard, r)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(n)
				if c, is := r.(io.Closer); is {
					c.Close()
				}
			}
		})
	}
}

// BenchmarkAgainstLbzip2 alternates with lbzip2 on as many cores, and reports
// the median of the ratios of time. Bytes leave lbzip2 to /dev/null.
func BenchmarkAgainstLbzip2(b *testing.B) {
	if _, err := exec.LookPath("lbzip2"); err != nil {
		b.Skip("the command lbzip2 is needed")
	}
	file := benchFile(b)
	for _, workers := range []int{1, 2} {
		b.Run(strconv.Itoa(workers), func(b *testing.B) {
			var ratios []float64
			for b.Loop() {
				start := time.Now()
				cmd := exec.Command("lbzip2", "-dc", "-n"+strconv.Itoa(workers))
				cmd.Stdin = bytes.NewReader(file)
				null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
				if err != nil {
					b.Fatal(err)
				}
				cmd.Stdout = null
				if err := cmd.Run(); err != nil {
					b.Fatal(err)
				}
				theirs := time.Since(start)
				null.Close()

				start = time.Now()
				r := NewReader(bytes.NewReader(file), Options{Workers: workers})
				for err == nil {
					_, err = r.Next()
				}
				if err != io.EOF {
					b.Fatal(err)
				}
				r.Close()
				ratios = append(ratios, float64(time.Since(start))/float64(theirs))
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "of-lbzip2's-time")
		})
	}
}
