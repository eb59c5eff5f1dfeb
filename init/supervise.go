package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"reimager/boot"
	"reimager/config"
	"reimager/report"
	"reimager/screen"
	"reimager/stages"
	"reimager/wake"
)

const logFile = wake.RunDir + "/log"

// supervisor is PID 1. It must not end: the kernel panics when it does.
type supervisor struct {
	report  *report.Reporter
	log     *os.File
	started string // CLOCK_BOOTTIME of our first instruction, in nanoseconds
	config  config.Config
	page    *screen.Page // nil: none
	did     Action       // about the end of the run, for its record

	mu     sync.Mutex    // held while a child starts, so that its end cannot be missed
	worker int           // pid
	shells map[int]shell // by pid
	ended  chan unix.WaitStatus

	children chan struct{} // holds a token when a child was started

	pulse   pulse
	unwatch chan chan struct{} // ends watch; the inner one is closed when it has
	dog     *wake.Watchdog     // one that runs although watch has ended
}

// supervise never returns.
func supervise() {
	started := strconv.FormatInt(sinceBoot().Nanoseconds(), 10)
	// Signals are taken and dropped: a default action would end PID 1. They are not
	// ignored, since children would inherit that.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals)
	go func() {
		for range signals {
		}
	}()

	problems := []error{wake.Mount(), wake.QuietConsole(), wake.CtrlAltDelOff(), wake.SysRqOff()}
	s := &supervisor{started: started, config: config.Default(), ended: make(chan unix.WaitStatus, 1), children: make(chan struct{}, 1), shells: map[int]shell{}, unwatch: make(chan chan struct{})}
	if c, err := config.ReadFile(config.FilePath); err == nil {
		s.config = *c
	} // a broken one is the worker's failure to tell
	s.config.Console = console()
	s.openReport()
	s.report.Printf("reimager %s", version)
	problems = append(problems, s.openPage())
	for _, p := range problems {
		if p != nil {
			s.report.Printf("warning: %v", p) // the worker will find out what it cannot do without
		}
	}
	for _, tty := range s.config.Console.Diagnosis {
		go s.openShell(tty, true)
	}
	go s.reap()
	if p, err := stages.ReadParameters(); err == nil {
		if s.pulse.aboard = p.Lifeboat != ""; s.pulse.aboard {
			s.page.PowerCut(screen.CarryOn) // until it is known that the old system is there
		}
	}
	s.pulse.beat(PhaseWake)
	if s.config.Machine.Watchdog != "off" {
		go s.watch()
	}
	s.run()
}

func (s *supervisor) openReport() {
	kmsg, _ := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0) // without it there is one place less to look
	log, err := report.OpenLog(logFile)
	if err != nil {
		s.report = report.New(os.Stderr, kmsg, bootTime())
		return
	}
	s.log = log
	s.report = newReporter(log, kmsg, s.config.Console)
}

// sinceBoot is the time since the kernel started.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// bootTime is when the kernel started, so that our times are those of dmesg.
func bootTime() time.Time { return time.Now().Add(-sinceBoot()) }

// run starts workers until the machine goes back, goes on or holds.
func (s *supervisor) run() {
	e := Ending{Phase: PhaseWake, Attempts: 1}
	if p, err := stages.ReadParameters(); err == nil {
		e.Media, e.Aboard = p.Media, p.Lifeboat != ""
	}
	job := jobGather
	for {
		e.Failure, e.Crash, e.Hung = nil, "", false
		s.runWorker(job, &e)
		action := decide(s.config.Failure, e)
		s.tell(e, action)
		switch action {
		case GoBack:
			if e.Over == nil {
				s.undo(e, action)
			}
			if e.Aboard && e.Phase == PhaseWake {
				s.report.Printf("The machine restarts in %s; its disk decides what it starts.", astray)
				time.Sleep(astray)
			}
			s.leave(e)
		case TryAgain:
			e.Attempts++
			job = jobResume
		case GoOn, Embark, Restart:
			s.leave(e)
		case Hold:
			if e.Phase != PhaseCastOff && e.Over == nil {
				s.undo(e, action)
			}
			s.hold(e)
			s.page.Again()
			e.Attempts++
			job = jobResume
		}
	}
}

// astray is how long a lifeboat waits that could not find out what is on the disk, before
// it restarts: it may come back here again and again.
const astray = time.Minute

// undoTime bounds the way back: a machine that hangs while it reports is worse
// than one without a report.
const undoTime = 60 * time.Second

// runWorker runs a worker to its end and fills in how it ended.
func (s *supervisor) runWorker(job string, e *Ending) {
	r, w, err := os.Pipe()
	if err != nil {
		e.Crash = fmt.Sprintf("make a pipe: %v", err)
		return
	}
	defer r.Close()
	pid, err := s.startWorker(job, e.Attempts, w)
	if err := errors.Join(err, w.Close()); err != nil {
		e.Crash = fmt.Sprintf("start a worker: %v", err)
		return
	}
	said, heard := *e, make(chan struct{})
	s.pulse.beat(e.Phase)
	go func() {
		hear(r, &said, func(m message) {
			s.pulse.hear(m)
			s.show(m)
		})
		close(heard)
	}()
	stalled := s.listen(job, pid, heard)
	if stalled != "" {
		s.report.Printf("warning: %s; it is killed", stalled)
		unix.Kill(pid, unix.SIGKILL)
		select {
		case <-heard:
		case <-time.After(lastWords):
			r.Close() // hear returns
			<-heard
		}
	}
	*e = said
	var status unix.WaitStatus
	select {
	case status = <-s.ended:
	case <-time.After(lastWords):
		if stalled != "" {
			e.Crash, e.Hung = stalled+" and cannot be killed: it hangs in the kernel", true
			return
		}
		// It has said how it ended but does not end: one of its threads hangs in the
		// kernel, in a driver perhaps. Nobody waits for it.
		s.report.Printf("warning: the worker has said its last word but does not end")
		return
	}
	switch {
	case stalled != "":
		e.Crash = stalled
	case status.Signaled():
		e.Crash = fmt.Sprintf("the worker died of signal %d (%s)", status.Signal(), status.Signal())
	case status.ExitStatus() != 0 && e.Failure == nil:
		e.Crash = fmt.Sprintf("the worker ended with status %d", status.ExitStatus())
	}
}

// listen returns when a worker has said its last word, or says why it is not waited for
// any longer.
func (s *supervisor) listen(job string, pid int, heard <-chan struct{}) (stalled string) {
	began, limit, moved := time.Now(), patience(), ""
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-heard:
			return ""
		case now := <-tick.C:
			if m := transferred(pid); m != moved {
				moved = m
				s.pulse.move()
			}
			if s.pulse.silent(now) > limit {
				return fmt.Sprintf("the worker made no progress for %s", limit)
			}
			if job == jobUndo && now.Sub(began) > undoTime {
				return fmt.Sprintf("the way back took longer than %s", undoTime)
			}
		}
	}
}

// lastWords is how long a worker may take to end when it has nothing more to say.
// One that died without a word has closed its pipe, and ends at the same time.
const lastWords = 10 * time.Second

// undo leaves the old system as it was, with a report of how the run ended.
func (s *supervisor) undo(e Ending, a Action) {
	if e.Crash != "" || e.Failure != nil && !hasRecord() {
		// The worker has left no record, or one that does not know of its end.
		record := &report.Record{Format: report.RecordFormat, Version: version, Outcome: "failed", Stage: string(e.Phase), Error: e.Crash}
		if e.Crash == "" {
			record.Stage, record.Error, record.Hints = e.Failure.Stage, e.Failure.Error, e.Failure.Hints
		}
		if err := saveRecord(record); err != nil {
			s.report.Printf("warning: %v", err)
		}
	}
	s.did = a
	// What fails at once may go well the next time; what was waited for in vain will not.
	for range 2 {
		back, began := Ending{Phase: e.Phase, Attempts: e.Attempts}, time.Now()
		s.runWorker(jobUndo, &back)
		if back.Failure == nil && back.Crash == "" {
			return
		}
		why := back.Crash
		if back.Failure != nil {
			why = back.Failure.Error
		}
		s.report.Printf("warning: no report in the old system: %s", why)
		if time.Since(began) > undoAgain {
			return
		}
	}
}

// undoAgain is within what time an undo has to fail to be tried once more.
const undoAgain = 2 * time.Second

func (s *supervisor) startWorker(job string, attempt int, pipe *os.File) (pid int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := os.StartProcess("/proc/self/exe", []string{workerName, job, strconv.Itoa(attempt)}, &os.ProcAttr{
		Files: []*os.File{nil, s.log, s.log, pipe}, // the log takes the trace of a panic
		Env:   []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", startVariable + "=" + s.started, didVariable + "=" + s.did.String()},
	})
	if err != nil {
		return 0, err
	}
	if len(s.ended) > 0 {
		<-s.ended // of one that nobody waited for
	}
	s.worker = p.Pid
	s.born()
	return p.Pid, nil
}

// reap collects every child, our own and those that lost their parent.
func (s *supervisor) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil { // ECHILD: there is none until we start one
			<-s.children
			continue
		}
		s.mu.Lock()
		mine := pid == s.worker
		sh, isShell := s.shells[pid]
		delete(s.shells, pid)
		s.mu.Unlock()
		if mine {
			s.ended <- status
		}
		if isShell {
			go s.openShell(sh.tty, time.Since(sh.since) > time.Second)
		}
	}
}

// born wakes the reaper when it has found no children.
func (s *supervisor) born() {
	select {
	case s.children <- struct{}{}:
	default:
	}
}

// leave ends this system for the one on the disk.
func (s *supervisor) leave(e Ending) {
	if s.config.Machine.Watchdog != "off" {
		s.releaseWatchdog()
	}
	if e.Over != nil && e.Over.Leave == ByKexec {
		s.report.Printf("kexec")
		s.report.Flush()
		s.page.Flush()
		// Nothing is mounted any more; what cannot be started here could not be by a
		// reboot either, which would come back here.
		err := boot.StartKexec()
		e.Over = &Over{Why: e.Over.Why, Leave: Stay, Stuck: err.Error()}
		s.report.Printf("FAILED   %v", err)
		s.showEnd(e, Hold)
		if s.config.Machine.Watchdog != "off" {
			go s.watch()
		}
		s.hold(e)
	}
	s.report.Printf("reboot")
	s.report.Flush()
	s.page.Flush()
	err := boot.Reboot()
	s.page.End(screen.Stuck, err.Error())
	for {
		s.report.Printf("reboot: %v", err)
		s.report.Printf("Switch the machine off and on again.")
		time.Sleep(time.Hour)
	}
}

// hold keeps the machine, its memory and its message. It returns when the write may be
// tried again.
func (s *supervisor) hold(e Ending) {
	s.pulse.hold()
	again := holdsFor(s.config.Failure, e)
	for {
		for _, line := range holdText(e) {
			s.report.Printf("%s", line)
		}
		if again > 0 {
			s.report.Printf("The write is tried again in %s.", again)
			time.Sleep(again)
			return
		}
		// Once an hour, for a console that somebody attaches later.
		time.Sleep(time.Hour)
	}
}
