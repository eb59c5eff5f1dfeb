// Command engine measures the imaging engine against what a user would run without
// it: each pair alternates in one run, and the median of the ratios of time is what
// counts, since machines are noisy. It needs root for loop devices.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"reimager/image"
	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("engine", flag.ContinueOnError)
	flags.SetOutput(stderr)
	runs := flags.Int("runs", 3, "pairs of runs")
	only := flags.String("only", "", "measure only what has this in its name")
	if err := flags.Parse(args); err != nil || *runs < 1 {
		return 2
	}
	if err := measureAll(context.Background(), *runs, *only, stdout); err != nil {
		fmt.Fprintf(stderr, "engine: %v\n", err)
		return 1
	}
	return 0
}

// pair is a command of ours, what it is measured against, and the ratio of times that
// is promised.
type pair struct {
	what, against string
	ours, theirs  string // for sh -c, with the paths of bench.vars
	atMost        float64
	memory        int64 // MiB that ours may take; 0: nothing is promised
}

// pairs are the promises. Everything runs on two processors unless it says otherwise.
func pairs() []pair {
	const flushed = " && sync $LOOP"
	const writing, packing = 128, 512
	return []pair{
		{"decode, dense root", "lbzip2 -dc -n2", "$REIMAGER cat --workers 2 $DENSE.bz2 > /dev/null", "lbzip2 -dc -n2 $DENSE.bz2 > /dev/null", 0.45, 0},
		{"decode, dense root, one core", "lbzip2 -dc -n1", "taskset -c 0 $REIMAGER cat --workers 1 $DENSE.bz2 > /dev/null", "taskset -c 0 lbzip2 -dc -n1 $DENSE.bz2 > /dev/null", 0.45, 0},
		{"decode, disk with many zeros", "lbzip2 -dc -n2", "$REIMAGER cat --workers 2 $DISK.bz2 > /dev/null", "lbzip2 -dc -n2 $DISK.bz2 > /dev/null", 0.38, 0},
		{"write bz2", "bzcat | dd bs=1M", "$WRITE $DISK.bz2 $LOOP", "bzcat $DISK.bz2 | dd of=$LOOP bs=1M status=none" + flushed, 0.22, writing},
		{"write bz2", "lbzip2 -dc | dd oflag=direct", "$WRITE $DISK.bz2 $LOOP", "lbzip2 -dc -n2 $DISK.bz2 | dd of=$LOOP bs=1M oflag=direct iflag=fullblock status=none" + flushed, 0.45, writing},
		{"write zst with map", "bmaptool copy", "$WRITE $ZST $LOOP", "bmaptool -q copy --bmap $ZST/image.bmap $ZST/image.zst $LOOP", 0.80, writing},
		{"write zst with map", "dd of the mapped bytes alone", "$WRITE $ZST $LOOP", "dd if=$MAPPED of=$LOOP bs=1M oflag=direct status=none" + flushed, 1.15, writing},
		{"write zst with map", "dd of these, read past the cache", "$WRITE $ZST $LOOP", "dd if=$MAPPED of=$LOOP bs=1M iflag=direct oflag=direct status=none" + flushed, 1.15, writing},
		{"pack to bz2", "lbzip2 -9 -n2", "rm -rf $OUT && $IMAGEBUILD pack $DISK -o $OUT --format bz2 --workers 2 > /dev/null 2>&1", "lbzip2 -9 -n2 -c $DISK > $OUT.bz2", 2.5, packing},
		{"pack to zst, best level", "lbzip2 -9 -n2", "rm -rf $OUT && $IMAGEBUILD pack $DISK -o $OUT --format zst --workers 2 > /dev/null 2>&1", "lbzip2 -9 -n2 -c $DISK > $OUT.bz2", 1.5, packing},
	}
}

func measureAll(ctx context.Context, runs int, only string, out io.Writer) (err error) {
	b := &bench{vars: map[string]string{}}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.prepare(ctx, out); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%-30s %-34s %8s %8s %7s %8s %9s\n", "what", "against", "ours", "theirs", "ratio", "at most", "memory")
	for _, p := range pairs() {
		if !strings.Contains(p.what, only) {
			continue
		}
		var ours, theirs, ratios []float64
		peak := int64(0)
		for range runs {
			a, memory, err := b.time(ctx, p.ours)
			if err != nil {
				return err
			}
			t, _, err := b.time(ctx, p.theirs)
			if err != nil {
				return err
			}
			ours, theirs, ratios, peak = append(ours, a), append(theirs, t), append(ratios, a/t), max(peak, memory)
		}
		verdict := ""
		if median(ratios) > p.atMost {
			verdict = "  MISSED"
		}
		if p.memory > 0 && peak > p.memory<<20 {
			verdict += fmt.Sprintf("  MORE THAN %d MiB", p.memory)
		}
		fmt.Fprintf(out, "%-30s %-34s %6.2f s %6.2f s %7.3f %8.2f %5d MiB%s\n", p.what, p.against, median(ours), median(theirs), median(ratios), p.atMost, peak>>20, verdict)
	}
	return nil
}

func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// bench is what is measured on.
type bench struct {
	dir  string
	vars map[string]string
	loop string
}

// prepare makes the images: the disk of a Debian, and the used part of another as
// something dense.
func (b *bench) prepare(ctx context.Context, out io.Writer) (err error) {
	if b.dir, err = os.MkdirTemp("", "reimager-bench-"); err != nil {
		return err
	}
	for name, program := range map[string]string{"REIMAGER": "reimager", "IMAGEBUILD": "imagebuild"} {
		if b.vars[name], err = scenario.Program(program); err != nil {
			return err
		}
	}
	cache, err := lab.OpenCache()
	if err != nil {
		return err
	}
	disk, err := lab.BuildDebian(ctx, cache, lab.NewDebian())
	if err != nil {
		return err
	}
	other, err := lab.BuildDebian(ctx, cache, lab.OldDebian("bookworm"))
	if err != nil {
		return err
	}
	b.vars["DISK"], b.vars["DENSE"], b.vars["ZST"] = b.path("disk"), b.path("dense"), b.path("zst")
	b.vars["MAPPED"], b.vars["OUT"], b.vars["BACK"] = b.path("mapped"), b.path("out"), b.path("loop")
	if err := lab.CopySparse(b.vars["DISK"], disk.Disk.Path); err != nil {
		return err
	}
	info, err := os.Stat(b.vars["DISK"])
	if err != nil {
		return err
	}
	for _, command := range []string{
		"$IMAGEBUILD pack $DISK -o $ZST > /dev/null 2>&1",
		"$IMAGEBUILD pack " + other.Disk.Path + " -o " + b.path("other") + " > /dev/null 2>&1",
		"bzip2 -9 -k $DISK",
		fmt.Sprintf("truncate -s %d $BACK && fallocate -l %d $BACK", info.Size(), info.Size()),
	} {
		if _, _, err := b.time(ctx, command); err != nil {
			return err
		}
	}
	if err := mappedBytes(b.path("zst"), b.vars["DISK"], b.vars["MAPPED"], 1<<40); err != nil {
		return err
	}
	const denseBytes = 450 << 20
	if err := mappedBytes(b.path("other"), other.Disk.Path, b.vars["DENSE"], denseBytes); err != nil {
		return err
	}
	// Its partitions are not all there: an empty table makes an image of it.
	if err := clearTable(b.vars["DENSE"]); err != nil {
		return err
	}
	if _, _, err := b.time(ctx, "bzip2 -9 -k $DENSE"); err != nil {
		return err
	}
	loop, err := exec.CommandContext(ctx, "losetup", "--find", "--show", "--direct-io=on", b.vars["BACK"]).Output()
	if err != nil {
		return fmt.Errorf("losetup: %w (loop devices need root)", err)
	}
	b.loop = strings.TrimSpace(string(loop))
	b.vars["LOOP"] = b.loop
	b.vars["WRITE"] = b.vars["REIMAGER"] + " write --yes --verify=false --workers 2 --json"
	return b.sizes(out)
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// sizes tells how large the packed images are.
func (b *bench) sizes(out io.Writer) error {
	size := func(name string) float64 {
		info, err := os.Stat(name)
		if err != nil {
			return 0
		}
		return float64(info.Size())
	}
	raw, bz2, zst := size(b.vars["DISK"]), size(b.vars["DISK"]+".bz2"), size(b.path("zst/image.zst"))
	fmt.Fprintf(out, "disk   %.0f MiB, of which %.0f are mapped; bzip2 -9 %.1f MiB, zst %.1f MiB: %.1f%% smaller\n", raw/(1<<20), size(b.vars["MAPPED"])/(1<<20), bz2/(1<<20), zst/(1<<20), 100*(1-zst/bz2))
	dense, err := b.packDense()
	if err != nil {
		return err
	}
	bz2 = size(b.vars["DENSE"] + ".bz2")
	fmt.Fprintf(out, "dense  %.0f MiB; bzip2 -9 %.1f MiB, zst %.1f MiB: %.1f%% smaller\n", size(b.vars["DENSE"])/(1<<20), bz2/(1<<20), float64(dense)/(1<<20), 100*(1-float64(dense)/bz2))
	return nil
}

// clearTable clears the four entries of an MBR.
func clearTable(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, 64), 446)
	return errors.Join(err, f.Close())
}

// packDense returns the size of the dense file as zst.
func (b *bench) packDense() (int64, error) {
	ctx := context.Background()
	out := b.path("dense-release")
	if _, _, err := b.time(ctx, "$IMAGEBUILD pack $DENSE -o "+out+" > /dev/null 2>&1"); err != nil {
		return 0, err
	}
	info, err := os.Stat(filepath.Join(out, "image.zst"))
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// time runs a command and returns its seconds and the peak memory of its largest
// process in bytes.
func (b *bench) time(ctx context.Context, command string) (float64, int64, error) {
	c := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", command)
	c.Env = os.Environ()
	for name, value := range b.vars {
		c.Env = append(c.Env, name+"="+value)
	}
	start := time.Now()
	text, err := c.CombinedOutput()
	took := time.Since(start).Seconds()
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w\n%s", command, err, text)
	}
	usage, _ := c.ProcessState.SysUsage().(*syscall.Rusage)
	return took, usage.Maxrss << 10, nil
}

// mappedBytes copies what a release maps of a disk, at most limit bytes.
func mappedBytes(release, disk, to string, limit int64) error {
	text, err := os.ReadFile(filepath.Join(release, "image.bmap"))
	if err != nil {
		return err
	}
	m, err := image.ParseMap(text)
	if err != nil {
		return err
	}
	in, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	for _, r := range m.Ranges {
		n := min(r.Bytes, limit)
		if _, err := io.Copy(out, io.NewSectionReader(in, r.Off, n)); err != nil {
			return errors.Join(err, out.Close())
		}
		if limit -= n; limit == 0 {
			break
		}
	}
	return out.Close()
}

func (b *bench) close() error {
	var err error
	if b.loop != "" {
		err = exec.Command("losetup", "-d", b.loop).Run()
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}
