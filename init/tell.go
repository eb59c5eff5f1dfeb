package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// tell says how a worker ended and what the machine does about it.
func (s *supervisor) tell(e Ending, a Action) {
	if e.Crash != "" {
		s.report.Printf("FAILED   %s", e.Crash)
		for _, line := range trace(logFile, 12) {
			s.report.Printf("         %s", line)
		}
	}
	if e.Failure != nil {
		s.report.Printf("FAILED   %s: %s", e.Failure.Stage, e.Failure.Error)
		for _, h := range e.Failure.Hints {
			s.report.Printf("hint: %s", h)
		}
	}
	switch {
	case e.Over != nil:
		s.report.Printf("over     %s; nothing was done", e.Over.Why)
		if e.Over.Stuck != "" {
			s.report.Printf("FAILED   %s", e.Over.Stuck)
		}
	case e.Rehearsed && e.Crash == "":
		s.report.Printf("rehearsed: this machine can be replaced")
	}
	s.report.Milestone(fmt.Sprintf("outcome %s (after %s, attempt %d)", a, e.Phase, e.Attempts),
		"outcome", a.String(), "after", string(e.Phase), "attempt", strconv.Itoa(e.Attempts))
	s.showEnd(e, a)
}

// trace returns the beginning of the last Go trace in a log.
func trace(path string, n int) []string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if !strings.HasPrefix(lines[i], "panic:") && !strings.HasPrefix(lines[i], "fatal error:") {
			continue
		}
		end := i
		for end < len(lines) && end < i+n && !strings.HasPrefix(lines[end], "[ ") { // our own lines
			end++
		}
		return lines[i:end]
	}
	return nil
}
