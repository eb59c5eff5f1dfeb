package retain

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkBesideTar puts 10,000 small files through scan, capture and restore, and
// in turns with it through tar | tar, on tmpfs. It reports medians, and how many
// times longer than tar we take: ratio by the clock, cpu-ratio by processor time,
// which other work on the machine disturbs less.
//
//	go test ./retain -run '^$' -bench BesideTar -benchtime 9x
func BenchmarkBesideTar(b *testing.B) {
	base, err := os.MkdirTemp("/dev/shm", "retain-")
	check(b, err)
	defer os.RemoveAll(base)
	old := filepath.Join(base, "old")
	for i := range 10000 {
		dir := filepath.Join(old, "k", fmt.Sprint(i/100))
		check(b, os.MkdirAll(dir, 0o755))
		check(b, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), make([]byte, 1000), 0o644))
	}
	var took times
	for b.Loop() {
		target, err := os.MkdirTemp(base, "new-")
		check(b, err)
		took.measure("tar", func() {
			const script = `tar -C "$1" --xattrs --acls -cf - . | tar -C "$2" --xattrs --acls -xpf -`
			check(b, exec.Command("sh", "-c", script, "sh", old, target).Run())
		})
		check(b, os.RemoveAll(target))
		check(b, os.Mkdir(target, 0o755))
		took.measure("ours", func() {
			var plan *Plan
			took.measure("scan", func() { plan = scan(b, old, "/k") })
			in, out := io.Pipe()
			go func() {
				_, err := Capture(context.Background(), plan, out, nil)
				out.CloseWithError(err)
			}()
			_, err := Restore(context.Background(), target, in, Options{})
			check(b, err)
		})
		archive, _ := capture(b, scan(b, old, "/k"))
		took.measure("verify", func() {
			if found := verify(b, target, archive, Options{}); len(found) > 0 {
				b.Errorf("differences %v", found)
			}
		})
		check(b, os.RemoveAll(target))
	}
	for _, what := range []string{"tar", "scan", "ours", "verify"} {
		b.ReportMetric(took.median(what)*1000, what+"-ms")
	}
	b.ReportMetric(took.median("ours")/took.median("tar"), "ratio")
	b.ReportMetric(took.median("ours cpu")/took.median("tar cpu"), "cpu-ratio")
}

// times are in seconds.
type times map[string][]float64

func (t *times) measure(what string, do func()) {
	if *t == nil {
		*t = times{}
	}
	cpu := func() (sum float64) {
		for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
			var u unix.Rusage
			if unix.Getrusage(who, &u) == nil {
				sum += float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
			}
		}
		return sum
	}
	start, startCPU := time.Now(), cpu()
	do()
	(*t)[what] = append((*t)[what], time.Since(start).Seconds())
	(*t)[what+" cpu"] = append((*t)[what+" cpu"], cpu()-startCPU)
}

func (t times) median(what string) float64 {
	all := slices.Sorted(slices.Values(t[what]))
	return all[len(all)/2]
}
