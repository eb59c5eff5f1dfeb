package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"reimager/config"
	"reimager/report"
	"reimager/stages"
	"reimager/wake"
)

// softMemoryLimit keeps the garbage collector within the memory that gather has
// reserved for the run, in bytes.
const softMemoryLimit = 96 << 20

// maxWorkers bounds what decodes at a time: each takes about 15 MiB of the memory
// that gather has reserved, and four are faster than any disk.
const maxWorkers = 4

// work is a worker from its first line to its last. Its exit status is 0 only if
// it did all of its job.
func work(job, attempt string) int {
	debug.SetMemoryLimit(softMemoryLimit)
	pipe := os.NewFile(messagePipe, "PID 1")
	unix.CloseOnExec(messagePipe)
	// If memory runs out it must be the worker that dies, not a shell.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0)

	r, err := newRun(pipe, attempt)
	if err == nil {
		switch job {
		case jobGather:
			err = reimage(r, pipe)
		case jobResume:
			err = resume(r, pipe)
		case jobUndo:
			err = undo(r)
		default:
			err = fmt.Errorf("job %q is not known", job)
		}
	}
	r.Report.Flush()
	if err == nil {
		return 0
	}
	r.Record.Fail(err)
	r.Record.Error = shorten(r.Record.Error)
	if e := saveRecord(r.Record); e != nil {
		r.Report.Printf("warning: %v", e)
	}
	failure := &Failure{Error: r.Record.Error, Hints: r.Record.Hints, Stage: r.Record.Stage, Back: errors.Is(err, stages.ErrCancelled) || r.Returns()}
	if e := say(pipe, message{Failed: failure}); e != nil {
		r.Report.Printf("FAILED   %s", report.Explain(err))
	}
	return 1
}

// shorten bounds an error, which may join one for each retained file.
func shorten(text string) string {
	const limit = 16 << 10
	if len(text) > limit {
		text = text[:limit] + fmt.Sprintf("… (%d bytes more)", len(text)-limit)
	}
	return text
}

// reimage is the whole run.
func reimage(r *stages.Run, pipe *os.File) error {
	ctx := context.Background()
	if err := wakeUp(ctx, r); err != nil {
		return err
	}
	if stages.FromLifeboat() {
		return sail(ctx, r, pipe)
	}
	begun, err := r.Begin(ctx)
	var over *stages.OverError
	if errors.As(err, &over) {
		return leave(ctx, r, pipe, over)
	}
	if err != nil {
		return err
	}
	if err := say(pipe, message{Phase: PhaseGather}); err != nil {
		return err
	}
	gathered, err := r.Gather(ctx, begun)
	if err != nil {
		return err
	}
	boarded, err := r.Board(ctx, gathered, begun)
	if err != nil {
		return err
	}
	if boarded != nil {
		return say(pipe, message{Boarded: true})
	}
	if begun.Rehearse() {
		return rehearse(ctx, r, pipe, gathered)
	}
	return finish(ctx, r, pipe, gathered)
}

// sail goes on from the lifeboat: for the first time, while the old system is there, or
// after a power cut.
func sail(ctx context.Context, r *stages.Run, pipe *os.File) error {
	aboard, err := r.FindLifeboat(ctx)
	if err != nil && r.CastOffBefore() {
		err = errors.Join(err, say(pipe, message{Phase: PhaseCastOff}))
	}
	if err != nil {
		return err
	}
	phase := PhaseGather
	if aboard.Gone() {
		phase = PhaseCastOff
	}
	if err := say(pipe, message{Phase: phase, Starts: aboard.Starts()}); err != nil {
		return err
	}
	gathered, err := r.GoAboard(ctx, aboard)
	if err != nil {
		return err
	}
	if aboard.Rehearse() {
		return rehearse(ctx, r, pipe, gathered)
	}
	return finish(ctx, r, pipe, gathered)
}

// rehearse ends a run at the point of no return.
func rehearse(ctx context.Context, r *stages.Run, pipe *os.File, gathered *stages.Gathered) error {
	if err := r.Rehearse(ctx, gathered); err != nil {
		return err
	}
	if err := saveRecord(r.Record); err != nil {
		return err
	}
	return say(pipe, message{Rehearsed: true})
}

// leave finds the way to the system that is on the disk, for a run that is over.
func leave(ctx context.Context, r *stages.Run, pipe *os.File, over *stages.OverError) error {
	m := Over{Why: over.Why, New: over.New, Leave: ByReboot}
	if !over.Closed {
		load := r.LoadOld
		if over.New {
			load = r.LoadNew
		}
		m.Leave = ByKexec
		if err := load(ctx); err != nil {
			m.Leave, m.Stuck = Stay, report.Explain(err)
		}
	}
	return say(pipe, message{Over: &m})
}

// resume begins again with the write; what was gathered is in RAM.
func resume(r *stages.Run, pipe *os.File) error {
	ctx := context.Background()
	// A worker that died has left its mounts, which hold the disk.
	if err := wake.UnmountBelow(stages.Mounts); err != nil {
		return err
	}
	if err := wakeUp(ctx, r); err != nil {
		return err
	}
	gathered, err := r.Resume(ctx)
	if errors.Is(err, stages.ErrLanded) {
		return errors.Join(say(pipe, message{Phase: PhaseLanded}), say(pipe, message{Done: true}))
	}
	if errors.Is(err, stages.ErrNoState) && stages.FromLifeboat() {
		// The worker before has not come so far as to have it all in memory; the berth has it.
		return sail(ctx, r, pipe)
	}
	if err != nil {
		return err
	}
	return finish(ctx, r, pipe, gathered)
}

// finish takes a machine whose image is gathered to its new system.
func finish(ctx context.Context, r *stages.Run, pipe *os.File, gathered *stages.Gathered) error {
	written, err := r.Write(ctx, gathered)
	if err != nil {
		return err
	}
	restored, err := r.Restore(ctx, written)
	if err != nil {
		return err
	}
	if _, err := r.Land(ctx, restored); err != nil {
		return err
	}
	r.CloseStick(ctx)
	return say(pipe, message{Done: true})
}

// wakeUp loads drivers and what was baked in.
func wakeUp(ctx context.Context, r *stages.Run) error {
	r.Record.Stage = "wake"
	if err := r.LoadBaked(); err != nil {
		return err
	}
	var err error
	r.Drivers, err = wake.NewDrivers(config.ModuleIndexPath, func(err error) { r.Report.Detail("module: %s", report.Explain(err)) })
	if err != nil {
		return err
	}
	r.Uevents, err = wake.ListenUevents(func(alias string) { go r.Drivers.LoadFor(ctx, alias) })
	if err != nil {
		return err
	}
	r.Uevents.OnLook(r.Report.Moves) // what is waited for has a time limit of its own
	// Not waited for: a disk whose driver is there need not wait for other drivers.
	go func() {
		if err := r.Drivers.Start(ctx); err != nil {
			r.Report.Printf("warning: %v", err)
		}
		r.Report.Printf("modules  %s", r.Drivers.Summary())
	}()
	kernel, err := wake.KernelRelease()
	if err != nil {
		return err
	}
	return r.NoteMachine(kernel, wakeSeconds())
}

// wakeSeconds is how long PID 1 has been running.
func wakeSeconds() float64 {
	started, err := strconv.ParseInt(os.Getenv(startVariable), 10, 64)
	if err != nil {
		return 0
	}
	return (sinceBoot() - time.Duration(started)).Seconds()
}

// alive tells PID 1 that something moves, at most once a second.
func alive(pipe *os.File) func() {
	var last atomic.Int64
	return func() {
		now := time.Now().UnixNano()
		if was := last.Load(); now-was > int64(time.Second) && last.CompareAndSwap(was, now) {
			_ = say(pipe, message{Alive: true}) // a PID 1 that does not listen has its reasons
		}
	}
}

func newRun(pipe *os.File, attempt string) (*stages.Run, error) {
	record := &report.Record{Format: report.RecordFormat, Version: version, Started: time.Now().UTC(), Stage: "wake"}
	r := &stages.Run{
		Record: record, Workers: min(runtime.NumCPU(), maxWorkers), LogFile: logFile,
		CastOff: func() error { return say(pipe, message{Phase: PhaseCastOff}) },
		Undone:  func() error { return say(pipe, message{Phase: PhaseGather}) },
		Landed:  func() error { return say(pipe, message{Phase: PhaseLanded}) },
	}
	kmsg, _ := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0) // without it there is one place less to look
	log, err := report.OpenLog(logFile)
	if err != nil {
		r.Report = newReporter(os.Stderr, kmsg, console())
		return r, err
	}
	r.Report = newReporter(log, kmsg, console())
	// What does not reach PID 1 is not on the screen, and stops nothing.
	r.Report.Watch(func(e report.Event) { _ = say(pipe, message{Event: &e}) })
	r.Report.OnProgress(alive(pipe))
	n, err := strconv.Atoi(attempt)
	record.Attempts = n - 1 // Write counts the one that it begins
	return r, err
}
