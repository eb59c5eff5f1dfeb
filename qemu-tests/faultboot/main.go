// Command faultboot is the /init of a virtual machine in which the real init runs
// again and again, in a container, against a small disk in memory; each time one
// system call of its worker fails. It says on the serial line what became of the
// machine each time. The table of faults is made from what a clean run calls.
//
// Kernel parameters: faults.part=before or after (the point of no return), spoiled
// (machines with which something is wrong from the start), boarding (of a lifeboat), aboard
// (starts from it) or adrift (such starts when the power was cut behind casting off);
// faults.limit=N; faults.only=NAME, where the name is that in the table;
// faults.also=NAME,NAME… for more than the table has; faults.job=, where the job is with
// which a lifeboat boards.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"reimager/config"
	"reimager/wake"
)

// Baked in by the test.
const (
	diskFile = "/faultboot/old.zst"
	runID    = "faultboot"
)

func main() { os.Exit(run0(os.Args)) }

func run0(args []string) int {
	if args[0] == stubName {
		fmt.Fprintln(os.Stderr, stub(args))
		return 1
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "this is the init of a test's virtual machine")
		return 2
	}
	if err := errors.Join(wake.Mount(), wake.QuietConsole()); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	out, err := os.OpenFile(serialTTY, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		out = os.Stderr
	}
	if err := test(out); err != nil {
		fmt.Fprintf(out, "FAULTS broken: %v\n", err)
	}
	err = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	fmt.Fprintf(out, "FAULTS broken: power off: %v\n", err)
	select {}
}

// Result is a line of the table.
type Result struct {
	Fault   string   `json:"fault"`
	End     string   `json:"end"`
	Hit     []string `json:"hit"`
	Wrong   []string `json:"wrong,omitempty"`
	Notable []string `json:"notable,omitempty"`
	Seconds float64  `json:"seconds"`
}

func test(out io.Writer) error {
	debug.SetMemoryLimit(300 << 20)
	o, err := readOptions()
	if err != nil {
		return err
	}
	v, err := prepare()
	if err != nil {
		return err
	}
	switch o.part {
	case "boarding":
		if err := replaceWord("reimager.job", o.job); err != nil {
			return err
		}
		v.boards, v.talks = true, o.only != ""
		if err := v.broken(out, o); err != nil {
			return err
		}
		fmt.Fprintln(out, "FAULTS done")
		return nil
	case "aboard", "adrift":
		if err := v.embark(o); err != nil {
			return err
		}
	}
	clean, _, err := v.try(forFaults())
	if err != nil {
		return err
	}
	if got := judge(clean, false, v); got.end != endNew || len(got.wrong) > 0 {
		return fmt.Errorf("a clean run ends so: %+v, after\n%s", got, clean.log)
	}
	if err := v.keepNew(); err != nil {
		return err
	}
	record, err := readRecord()
	if err != nil {
		return err
	}
	v.warned = len(record.Warnings)
	fmt.Fprintf(out, "FAULTS a clean run takes %.1f s\n", clean.took.Seconds())
	v.talks = o.only != ""
	if o.part == "spoiled" {
		err = v.spoiled(out, o.only)
	} else {
		err = v.broken(out, o)
	}
	if err == nil {
		fmt.Fprintln(out, "FAULTS done")
	}
	return err
}

// options are those of the kernel command line.
type options struct {
	part, only, also, job string
	limit                 int
}

func readOptions() (o options, err error) {
	var limit string
	for name, value := range map[string]*string{"part": &o.part, "only": &o.only, "limit": &limit, "also": &o.also, "job": &o.job} {
		if *value, err = wake.Cmdline("faults." + name); err != nil {
			return o, err
		}
	}
	if o.limit, err = strconv.Atoi(limit); err != nil {
		err = fmt.Errorf("read faults.limit: %w", err)
	}
	return o, err
}

// broken lets one system call after the other fail.
func (v *victim) broken(out io.Writer, o options) error {
	faults, err := v.plan(out, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "FAULTS %d to try\n", len(faults))
	for _, f := range faults {
		if err := v.attempt(out, f); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
	}
	return nil
}

// prepare makes the disk.
func prepare() (*victim, error) {
	drivers, err := wake.NewDrivers(config.ModuleIndexPath, func(error) {})
	if err != nil {
		return nil, err
	}
	drivers.LoadFirst(context.Background())
	if err := os.MkdirAll(ownDir, 0o700); err != nil {
		return nil, err
	}
	packed, err := os.ReadFile(diskFile)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(cmdlineFile, cmdline, 0o600); err != nil {
		return nil, err
	}
	v := &victim{}
	if v.old, err = io.ReadAll(z); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", diskFile, err)
	}
	for range 200 { // the disk appears soon
		if _, err = os.Stat(victimPath); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return nil, err
	}
	v.now = make([]byte, len(v.old))
	if err := v.restore(); err != nil {
		return nil, err
	}
	return v, v.look()
}

// try runs once and reads the disk; the old disk is back before.
func (v *victim) try(t trapped, faults ...fault) (*ending, map[place]int, error) {
	if err := v.restore(); err != nil {
		return nil, nil, err
	}
	e, counts, err := run(t, faults)
	if err != nil {
		return nil, nil, err
	}
	return e, counts, v.read()
}

// leadsBack is a fault after which there is something to undo.
func leadsBack() fault {
	return fault{place: place{"gather", "umount2"}, nth: 1, errno: unix.EIO}
}

// plan makes the table.
func (v *victim) plan(out io.Writer, o options) ([]fault, error) {
	if o.only != "" {
		f, err := parseFault(o.only)
		return []fault{f}, err
	}
	_, counts, err := v.try(forCount())
	if err != nil {
		return nil, err
	}
	if o.part == "before" { // and a run that goes back, for what undoing calls
		_, undo, err := v.try(forCount(), leadsBack())
		if err != nil {
			return nil, err
		}
		for p, n := range undo {
			if p.stage == "undo" {
				counts[p] = n
			}
		}
	}
	all := 0
	for p, n := range counts {
		if v.boards && p.stage != "board" {
			delete(counts, p)
			continue
		}
		if v.lifeboat == nil && !v.boards && slices.Contains([]string{"wake", "gather", "undo"}, p.stage) != (o.part == "before") {
			delete(counts, p)
			continue
		}
		all += n
	}
	fmt.Fprintf(out, "FAULTS a clean run makes %d calls of %d kinds (%s)\n", all, len(counts), o.part)
	faults, err := table(counts, o.limit)
	if err != nil || o.also == "" {
		return faults, err
	}
	for name := range strings.SplitSeq(o.also, ",") {
		f, err := parseFault(name)
		if err != nil {
			return nil, err
		}
		faults = append(faults, f)
	}
	return faults, nil
}

// attempt tries one fault and says what came of it.
func (v *victim) attempt(out io.Writer, f fault) error {
	nr, err := kindOf(f.call)
	if err != nil {
		return err
	}
	calls, faults := []int32{nr}, []fault{f}
	if f.stage == "undo" { // a run that goes well does not come there
		calls, faults = append(calls, unix.SYS_UMOUNT2), append(faults, leadsBack())
	}
	e, _, err := v.try(forFaults(calls...), faults...)
	if err != nil {
		return err
	}
	if v.boards {
		return v.tell(out, f.String(), e, v.judgeBoarding(e))
	}
	if v.lifeboat != nil {
		got, err := v.judgeAboard(e)
		return errors.Join(err, v.tell(out, f.String(), e, got))
	}
	// Undoing is tried twice.
	return v.tell(out, f.String(), e, judge(e, f.stage == "undo" && f.onwards, v))
}

// tell says what became of the machine.
func (v *victim) tell(out io.Writer, name string, e *ending, got verdict) error {
	line, err := json.Marshal(Result{name, got.end, e.hit, got.wrong, got.notable, e.took.Seconds()})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "FAULT %s\n", line)
	if len(got.wrong) > 0 || v.talks {
		lines := strings.Split(strings.TrimSpace(e.log), "\n")
		for _, l := range lines[max(0, len(lines)-60):] {
			fmt.Fprintf(out, "LOG   %s\n", l)
		}
	}
	return nil
}
