package prove

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"reimager/disk"
	"reimager/report"
	"reimager/vm"
)

// jobParameter names the job on the kernel command line, as stages.JobParameter.
const jobParameter = "reimager.job"

// config describes the machine without what boots it.
func (r *run) config(memory int64, console *os.File) vm.Config {
	device := ""
	if r.machine.wwn != "" {
		device = ",wwn=" + r.machine.wwn
	}
	return vm.Config{
		Accel: r.accel, MemoryMiB: int(memory / mib), Console: console,
		Drives: []vm.Drive{{Path: r.disk, Bus: r.machine.bus, Serial: r.machine.serial, Device: device}},
		Log:    r.Report.Detail,
	}
}

// withVM starts the machine, keeps its console's log, and its screen if use fails.
func (r *run) withVM(ctx context.Context, log string, configure func(*vm.Config), memory int64, use func(context.Context, *vm.VM) error) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.Timeout, fmt.Errorf("not within %s", r.Timeout))
	defer cancel()
	console, err := os.Create(filepath.Join(r.Options.Output, log))
	if err != nil {
		return fmt.Errorf("keep the console's log: %w", err)
	}
	defer func() { err = errors.Join(err, console.Close()) }()
	c := r.config(memory, console)
	configure(&c)
	// Not our context: when the time is up there is a screen to be kept yet.
	guest, err := vm.Start(context.WithoutCancel(ctx), c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, guest.Kill()) }()
	err = use(ctx, guest)
	if !ended(guest) {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if shotErr := guest.Screendump(limited, filepath.Join(r.Options.Output, screenFile)); shotErr != nil {
			r.warn("no picture of the last screen: %v", shotErr)
		}
	}
	return err
}

// holds is what a machine says that will not go on by itself: init's holdText, and
// a kernel that has no panic= any more.
var holds = regexp.MustCompile(`THE MACHINE HOLDS: [^\r\n]*`)

// reimage boots kernel and initrd as GRUB would, until the machine reboots.
func (r *run) reimage(ctx context.Context) error {
	var last string
	err := r.withVM(ctx, reimageLog, func(c *vm.Config) {
		c.Kernel, c.Initrd, c.NoReboot = r.release.kernel, r.release.ramfs, true
		c.Append = fmt.Sprintf("quiet panic=10 console=tty0 console=ttyS0 %s=UUID=%s:%s", jobParameter, r.machine.root().uuid, jobFile)
	}, r.memory, func(ctx context.Context, guest *vm.VM) error {
		for {
			select {
			case <-guest.Exited():
				last = strings.TrimRight(guest.Console.Last(lastLines), "\n")
				return guest.Wait()
			case <-ctx.Done():
				return fmt.Errorf("wait for the end of the run: %w; the console's last lines:\n%s", context.Cause(ctx), guest.Console.Last(lastLines))
			case <-time.After(200 * time.Millisecond):
				if said := holds.Find(guest.Console.Bytes()); said != nil {
					return fmt.Errorf("the run failed: %s\n%s", said, guest.Console.Last(lastLines))
				}
			}
		}
	})
	if err != nil {
		return r.failed("written", err)
	}
	if landed, err := r.hasLanded(); err != nil || !landed {
		return r.failed("written", errors.Join(err, r.whyNot(ctx, last)))
	}
	return nil
}

// lastLines is how much of a console an error shows.
const lastLines = 12

// hasLanded tells whether sector 0 is the image's own.
func (r *run) hasLanded() (bool, error) {
	f, err := os.Open(r.disk)
	if err != nil {
		return false, err
	}
	defer f.Close()
	sector := make([]byte, 512)
	if _, err := f.ReadAt(sector, 0); err != nil {
		return false, fmt.Errorf("read disk: %w", err)
	}
	return string(sector) == string(r.release.head[:512]), nil
}

// whyNot takes the reason of a failed run from the report that it left in the old
// system, or from the console.
func (r *run) whyNot(ctx context.Context, console string) error {
	text, err := extAt{r.disk, r.machine.root().start}.read(ctx, reportFile)
	if err == nil {
		var last *report.LastRun
		if last, err = report.ParseFile(reportFile, text); err == nil && last.Record.Error != "" {
			err := fmt.Errorf("the run failed in stage %s, and went back to the old system: %s", last.Record.Stage, last.Record.Error)
			for _, hint := range last.Record.Hints {
				err = report.Hint(err, "%s", hint)
			}
			return err
		}
	}
	return fmt.Errorf("the run ended without the new system on the disk; the console's last lines:\n%s", console)
}

// duration finds a stage in the record.
func duration(rec *report.Record, stage string) (d report.Duration) {
	for _, d = range rec.Stages {
		if d.Stage == stage {
			return d
		}
	}
	return report.Duration{Stage: stage}
}

// written notes what the record says of write and read-back.
func (r *run) written(rec *report.Record) {
	w, b := duration(rec, "write"), duration(rec, "read back")
	r.passed("written", w.Seconds, "%s of %s", disk.Size(w.Bytes), disk.Size(rec.Image.Bytes))
	r.passed("read back", b.Seconds, "%s", disk.Size(b.Bytes))
}

func ended(guest *vm.VM) bool {
	select {
	case <-guest.Exited():
		return true
	default:
		return false
	}
}
