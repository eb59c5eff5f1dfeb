package zstd

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// benchFile returns the compressed file that ZSTD_BENCH_FILE names, or one of
// frames of 16 MiB.
func benchFile(b *testing.B) []byte {
	if name := os.Getenv("ZSTD_BENCH_FILE"); name != "" {
		file, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		return file
	}
	var file []byte
	for i := range 6 {
		file = append(file, tool(b, prose(uint64(i), 16<<20), "zstd", "-1")...)
	}
	return file
}

// decoders are what is compared.
func decoders() map[string]func(*testing.B, []byte) int64 {
	ours := func(workers int) func(*testing.B, []byte) int64 {
		return func(b *testing.B, file []byte) (n int64) {
			r := NewReader(bytes.NewReader(file), Options{Workers: workers})
			defer r.Close()
			for {
				c, err := r.Next()
				if err == io.EOF {
					return n
				}
				if err != nil {
					b.Fatal(err)
				}
				n += int64(len(c.Data)) + c.Zeros
			}
		}
	}
	return map[string]func(*testing.B, []byte) int64{
		"1 worker":  ours(1),
		"2 workers": ours(2),
		"klauspost": func(b *testing.B, file []byte) int64 {
			r, err := zstd.NewReader(onlyReader{bytes.NewReader(file)}, zstd.WithDecoderConcurrency(2))
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			n, err := io.Copy(io.Discard, r)
			if err != nil {
				b.Fatal(err)
			}
			return n
		},
		"command": func(b *testing.B, file []byte) int64 {
			cmd := exec.Command("zstd", "-dc") // its output goes to /dev/null
			cmd.Stdin = bytes.NewReader(file)
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
			return 0
		},
	}
}

// onlyReader hides what else a reader can do.
type onlyReader struct{ io.Reader }

func BenchmarkDecode(b *testing.B) {
	file := benchFile(b)
	for name, decode := range decoders() {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.SetBytes(decode(b, file))
			}
		})
	}
}

// BenchmarkRatios alternates two workers with the others and reports the medians of
// how much faster they are.
func BenchmarkRatios(b *testing.B) {
	file := benchFile(b)
	all := decoders()
	ratios := make(map[string][]float64)
	for b.Loop() {
		start := time.Now()
		all["2 workers"](b, file)
		ours := time.Since(start)
		for name, decode := range all {
			start = time.Now()
			decode(b, file)
			ratios[name] = append(ratios[name], float64(time.Since(start))/float64(ours))
		}
	}
	for _, name := range []string{"1 worker", "klauspost", "command"} {
		slices.Sort(ratios[name])
		unit := map[string]string{"1 worker": "×-one-worker", "klauspost": "×-klauspost", "command": "×-command"}[name]
		b.ReportMetric(ratios[name][len(ratios[name])/2], unit)
	}
}
