// Package stages is the reimage itself: begin, gather, write, restore, land. Each stage
// takes what only the stage before it can make, so that a wrong order does not
// compile:
//
//	Begin → *Begun → Gather → *Gathered → Write → *Written → Restore → *Restored → Land
package stages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"reimager/config"
	"reimager/disk"
	"reimager/fault"
	"reimager/image"
	"reimager/lifeboat"
	"reimager/report"
	"reimager/retain"
	"reimager/wake"
)

// Run is what all stages share.
type Run struct {
	Config  *config.Config
	Job     *config.Job // nil when the entry was not made by `reimager arm`
	List    retain.List
	Keys    []image.Key
	Report  *report.Reporter
	Record  *report.Record
	Uevents *wake.Uevents
	Drivers *wake.Drivers
	Disks   disk.Sysfs
	// LogFile is where Report keeps the whole log.
	LogFile string
	// Workers is how many goroutines decode.
	Workers int
	// CastOff is called, and has to return, before the first byte is written that
	// the old system needs.
	CastOff func() error
	// Undone is called when that write left the old byte in place after all.
	Undone func() error
	// Landed is called as soon as the disk boots the new system.
	Landed func() error

	heldTable *heldTable     // nil: the disks have theirs
	boarding  *boarding      // nil: nothing is in the berth yet
	boat      *lifeboat.Boat // nil: this start is not from one
	aboard    *Aboard        // nil: it is not from one, or that was not found
	earlier   string         // log of the start that boarded
}

// Where a run keeps things, all of it in RAM.
const (
	// Mounts holds the mount points of old and new systems.
	Mounts    = wake.RunDir + "/mounts"
	oldDir    = Mounts + "/old"
	sourceDir = Mounts + "/source"
	newDir    = Mounts + "/new"
	ramDir    = wake.RunDir + "/ram"
)

// LoadBaked reads what imagebuild baked into the initrd.
func (r *Run) LoadBaked() error {
	var err error
	if r.Config, err = config.ReadFile(config.FilePath); err != nil {
		return err
	}
	list, err := os.Open(config.RetentionListPath)
	if err != nil {
		return fmt.Errorf("read retention list: %w", err)
	}
	defer list.Close()
	if r.List, err = retain.ParseList("retentionlist", list); err != nil {
		return err
	}
	keys, err := os.ReadDir(config.KeyDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read trusted keys: %w", err)
	}
	for _, e := range keys {
		text, err := os.ReadFile(filepath.Join(config.KeyDir, e.Name()))
		if err != nil {
			return fmt.Errorf("read trusted key: %w", err)
		}
		key, err := image.ParseKey(e.Name(), text)
		if err != nil {
			return err
		}
		r.Keys = append(r.Keys, key)
	}
	return nil
}

// LoadJob reads the job that the kernel command line names, if it names one.
func (r *Run) LoadJob(ctx context.Context) error {
	p, err := ReadParameters()
	if err == nil && p.Lifeboat != "" {
		aboard := r.loadJobAboard(ctx)
		if aboard == nil || p.Job == "" {
			return aboard
		}
		// The old system has a copy, as long as it is there.
		r.Report.Printf("warning: %v", aboard)
	}
	if err != nil || p.Job == "" {
		return err
	}
	source, err := config.ParseSource(p.Job)
	if err != nil {
		return fmt.Errorf("read kernel parameter %s: %w", JobParameter, err)
	}
	err = r.withFile(ctx, source, func(f *os.File) error {
		text, err := readAtMost(f, 1<<20)
		if err != nil {
			return fmt.Errorf("read job: %w", err)
		}
		r.Job, err = config.ParseJob(source.String(), text)
		return err
	})
	if err != nil {
		return err
	}
	r.Record.RunID = r.Job.RunID
	r.Report.SetRun(r.Job.RunID)
	r.Report.Tell(report.Event{Run: r.Job.RunID, Rehearsal: r.Job.Rehearse || p.Rehearse})
	r.Report.Printf("job      %s of %s", r.Job.RunID, r.Job.Armed.UTC().Format(time.RFC3339))
	return nil
}

// withFile opens a file on a device that is mounted for it read-only.
func (r *Run) withFile(ctx context.Context, source config.Source, use func(*os.File) error) error {
	p, err := r.await(ctx, source.Device, nil)
	if err != nil {
		return err
	}
	if err := r.mount(ctx, p, sourceDir, unix.MS_RDONLY); err != nil {
		return err
	}
	return errors.Join(openBeneath(sourceDir, source, use), wake.UnmountBelow(sourceDir))
}

func openBeneath(dir string, source config.Source, use func(*os.File) error) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open %s: %w", source.Device, err)
	}
	defer root.Close()
	f, err := root.Open(strings.TrimPrefix(source.Path, "/"))
	if errors.Is(err, os.ErrNotExist) {
		return report.Hint(fmt.Errorf("open %s: there is no such file on %s", source.Path, source.Device),
			"put the image there, or arm the machine again with the directory that holds it")
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", source, err)
	}
	return errors.Join(use(f), f.Close())
}

// stage announces a stage and notes how long it took.
func (r *Run) stage(name string) (done func(bytes int64)) {
	start := time.Now()
	r.Record.Stage = name
	r.Report.Stage(name)
	fault.At(name)
	return func(bytes int64) { r.Record.Took(name, time.Since(start), bytes) }
}

// warn notes something that the operator should know and that stops nothing.
func (r *Run) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.Record.Warnings = append(r.Record.Warnings, text)
	r.Report.Printf("warning: %s", text)
}

// restores tells whether anything is to be done on the new filesystems at all.
func (r *Run) restores() bool {
	return !r.List.Empty() || len(r.Config.Hooks)+len(r.Config.Rewrites) > 0 || r.Config.Retain.SELinux == "relabel" || r.Config.New.LogDir != config.LogOff
}
