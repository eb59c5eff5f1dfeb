// Command bench measures what a reimage costs the machine's users: its downtime,
// from the last line of the old system to the first of the new, against the same
// job done by a shell script with bzcat and dd in the same machine. The two
// alternate in one run; the median of the ratios is what counts, since machines
// are noisy.
package main

import (
	"context"
	_ "embed" // the shell script
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"reimager/qemu-tests/lab"
	"reimager/qemu-tests/scenario"
	"reimager/report"
	"reimager/vm"
)

//go:embed baseline.sh
var baselineInit string

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	runs := flags.Int("runs", 3, "pairs of runs")
	if err := flags.Parse(args); err != nil || *runs < 1 {
		return 2
	}
	if err := downtime(context.Background(), *runs, stdout); err != nil {
		fmt.Fprintf(stderr, "bench: %s\n", report.Explain(err))
		return 1
	}
	return 0
}

func downtime(ctx context.Context, runs int, out io.Writer) error {
	dir, err := os.MkdirTemp("", "reimager-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ours, err := scenario.Build(ctx, filepath.Join(dir, "ours"), scenario.Spec{})
	if err != nil {
		return err
	}
	theirs, err := baseline(ctx, filepath.Join(dir, "theirs"))
	if err != nil {
		return err
	}
	raw, err := os.Stat(ours.NewRaw)
	if err != nil {
		return err
	}
	packed, err := os.Stat(ours.NewImage)
	if err != nil {
		return err
	}
	initrd, err := os.Stat(ours.Initrd)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "classic initrd: %.2f MiB (at most 8 is promised)\n", float64(initrd.Size())/(1<<20))
	fmt.Fprintf(out, "downtime with an image of %d MiB (%d MiB as bzip2), emulated machine, 2 CPUs\n", raw.Size()>>20, packed.Size()>>20)
	ratio, err := pairs(ctx, runs, side{"reimager", ours}, side{"shell script", theirs}, out)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "downtime: median ratio %.2f (at most 0.60 is promised)\n", ratio)
	return lifeboatCost(ctx, dir, runs, out)
}

// lifeboatCost compares a run that has a lifeboat with the same one without: it boards,
// and starts once more.
func lifeboatCost(ctx context.Context, dir string, runs int, out io.Writer) error {
	spec := scenario.Lifeboat()
	with, err := scenario.Build(ctx, filepath.Join(dir, "with"), spec)
	if err != nil {
		return err
	}
	spec.Config = strings.Replace(spec.Config, `lifeboat = "require"`, `lifeboat = "off"`, 1)
	without, err := scenario.Build(ctx, filepath.Join(dir, "without"), spec)
	if err != nil {
		return err
	}
	ratio, err := pairs(ctx, runs, side{"with a lifeboat", with}, side{"without", without}, out)
	if err == nil {
		fmt.Fprintf(out, "downtime with a lifeboat: median ratio %.2f; most of it is one more start of firmware, GRUB and kernel\n", ratio)
	}
	return err
}

// side is one of the two that are compared.
type side struct {
	name string
	*scenario.Kiosk
}

// pairs measures two kiosks in turns, and returns the median of the ratios.
func pairs(ctx context.Context, runs int, one, other side, out io.Writer) (float64, error) {
	var ratios []float64
	for i := range runs {
		a, machine, err := measure(ctx, one.Kiosk)
		if err != nil {
			return 0, err
		}
		b, _, err := measure(ctx, other.Kiosk)
		if err != nil {
			return 0, err
		}
		ratios = append(ratios, a.Seconds()/b.Seconds())
		fmt.Fprintf(out, "  run %d: %s %.1f s, %s %.1f s, ratio %.2f; init in gather after %.2f s, peak memory %.0f MiB\n",
			i+1, one.name, a.Seconds(), other.name, b.Seconds(), ratios[i], machine.WakeSeconds, float64(machine.PeakBytes)/(1<<20))
	}
	sort.Float64s(ratios)
	return ratios[len(ratios)/2], nil
}

// baseline is the same kiosk, which is armed in the same way but boots the shell
// script's initrd.
func baseline(ctx context.Context, dir string) (*scenario.Kiosk, error) {
	return scenario.Build(ctx, dir, scenario.Spec{Old: func(o *lab.KioskSpec) {
		o.BootScript = "#!/bin/sh\nreimager arm /data/release && cp /data/baseline.initrd /boot/reimager/initrd && sync && reboot\n"
	}, OldData: func(ctx context.Context, kernel lab.Kernel) (lab.Tree, error) {
		initrd, err := lab.Initrd(ctx, kernel, baselineInit, []string{"ahci", "sd_mod", "ext4"}, []string{"crc32c_generic"})
		return lab.Tree{lab.Text("baseline.initrd", 0o644, string(initrd))}, err
	}})
}

// measure runs a copy of a kiosk and returns its downtime, and what the record says
// of the machine if there is one.
func measure(ctx context.Context, k *scenario.Kiosk) (time.Duration, report.Machine, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	disk := filepath.Join(k.Dir, "run.raw")
	if err := lab.CopySparse(disk, k.Disk); err != nil {
		return 0, report.Machine{}, err
	}
	defer os.Remove(disk)
	down, err := boot(ctx, k, disk)
	if err != nil {
		return 0, report.Machine{}, err
	}
	var record report.Record
	if text, err := lab.ReadFile(ctx, disk, lab.KioskLog, "/log/record.json"); err == nil {
		if err := json.Unmarshal(text, &record); err != nil {
			return 0, report.Machine{}, err
		}
	}
	return down, record.Machine, nil
}

// boot runs a machine from its old system to its new one.
func boot(ctx context.Context, k *scenario.Kiosk, disk string) (time.Duration, error) {
	guest, err := lab.Start(ctx, vm.Config{Drives: []vm.Drive{{Path: disk, Serial: scenario.Serial}}, MemoryMiB: 512})
	if err != nil {
		return 0, err
	}
	defer guest.Kill()
	const last = "reboot: Restarting system"
	for _, text := range []string{last, k.New.Banner()} {
		if err := guest.WaitFor(ctx, text); err != nil {
			return 0, err
		}
	}
	var from, to time.Duration
	for _, line := range guest.Console.Lines() {
		switch {
		case strings.Contains(line.Text, last) && from == 0:
			from = line.At
		case strings.Contains(line.Text, k.New.Banner()):
			to = line.At
		}
	}
	return to - from, nil
}
