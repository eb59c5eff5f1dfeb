package main

import (
	"io"
	"os"
	"strconv"
	"strings"

	"reimager/config"
	"reimager/report"
	"reimager/screen"
	"reimager/screen/texts"
	"reimager/stages"
	"reimager/wake"
)

// pageTerminal is the virtual terminal that a page is on.
const pageTerminal = 1

// console is what the machine shows, and to whom, for PID 1 and worker alike. A
// configuration that cannot be read is the worker's failure to tell, on a page like
// any other.
func console() config.Console {
	c, err := config.ReadFile(config.FilePath)
	if err != nil {
		return config.Default().Console
	}
	if p, err := stages.ReadParameters(); err == nil && p.Verbose {
		c.Console.Screen = "details"
	}
	return c.Console
}

// newReporter speaks to a log, the kernel log and every console. Where there is a page,
// it has its terminal for itself, and the lines go to the one for details.
func newReporter(log io.Writer, kmsg *os.File, show config.Console) *report.Reporter {
	var k io.Writer
	if kmsg != nil {
		k = kmsg
	}
	r := report.New(log, k, bootTime())
	consoles, err := wake.Consoles()
	if err != nil {
		r.Detail("%v", err)
	}
	if show.Screen == "page" {
		details := wake.Console{Name: show.Details, Screen: true}
		others := []wake.Console{details}
		for _, c := range consoles {
			if c.Name != ttyName(pageTerminal) && c != details {
				others = append(others, c)
			}
		}
		consoles = others
	}
	for _, c := range consoles {
		f, err := c.Open()
		switch {
		case err != nil:
			r.Detail("open console %s: %v", c.Name, err)
		case c.Screen:
			r.AddScreen(f)
		default:
			r.AddSerial(f)
		}
	}
	return r
}

func ttyName(n int) string { return "tty" + strconv.Itoa(n) }

// openPage shows the page, where one is asked for and there is a terminal for it.
func (s *supervisor) openPage() error {
	show := s.config.Console
	if show.Screen != "page" {
		return nil
	}
	words, err := texts.New(show.Language, show.Texts)
	if err != nil {
		return err
	}
	details, err := strconv.Atoi(strings.TrimPrefix(show.Details, "tty"))
	if err != nil {
		return err
	}
	s.page, err = screen.Open(pageTerminal, words, details)
	return err
}

// show has the page follow what a worker says.
func (s *supervisor) show(m message) {
	if m.Event != nil {
		if m.Event.Run != "" {
			s.report.SetRun(m.Event.Run)
		}
		s.page.Note(*m.Event)
	}
	switch m.Phase {
	case PhaseGather:
		s.page.PowerCut(screen.OldSystem)
	case PhaseCastOff:
		if s.pulse.aboard {
			s.page.PowerCut(screen.CarryOn)
		} else {
			s.page.PowerCut(screen.Harm)
		}
	}
}

// showEnd has the page say what the machine does about an ending.
func (s *supervisor) showEnd(e Ending, a Action) {
	why := e.Crash
	if e.Failure != nil {
		why = e.Failure.Error
	}
	if e.Over != nil {
		why = strings.TrimSuffix(e.Over.Why+"; "+e.Over.Stuck, "; ")
	}
	switch a {
	case GoBack:
		s.page.End(backScene(e, why), why)
	case TryAgain, Restart:
		s.page.Again()
	case GoOn:
		s.page.End(screen.Done, "")
	case Hold:
		s.page.End(holdScene(e), why)
	}
}

// backScene is what is left to say when the disk decides what comes next.
func backScene(e Ending, why string) screen.Scene {
	switch {
	case why == "":
		return screen.Rehearsed
	case e.Aboard && e.Phase == PhaseWake && e.Over == nil:
		return screen.HoldAboard // the old system may be gone
	}
	return screen.Back
}

// holdScene is the page's counterpart of holdText.
func holdScene(e Ending) screen.Scene {
	switch {
	case e.Phase != PhaseCastOff:
		return screen.HoldUntouched
	case e.Aboard:
		return screen.HoldAboard
	case e.Failure != nil && e.Failure.Stage == "restore":
		return screen.HoldRestore
	}
	return screen.HoldWrite
}
