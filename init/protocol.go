package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"reimager/report"
)

// message is a line from the worker to PID 1. What was written to the pipe stays
// readable when the worker is dead.
type message struct {
	Phase  Phase    `json:"phase,omitempty"`
	Failed *Failure `json:"failed,omitempty"`
	// Event is for the screen, which PID 1 draws.
	Event     *report.Event `json:"event,omitempty"`
	Over      *Over         `json:"over,omitempty"`
	Rehearsed bool          `json:"rehearsed,omitempty"`
	Boarded   bool          `json:"boarded,omitempty"` // the lifeboat is to be started
	Starts    int           `json:"starts,omitempty"`  // how often it was started before
	Alive     bool          `json:"alive,omitempty"`   // something moves
	Done      bool          `json:"done,omitempty"`    // nothing is left to do for a machine that has landed
}

// messagePipe is the file descriptor that a worker finds its pipe on.
const messagePipe = 3

func say(pipe *os.File, m message) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if _, err := pipe.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("tell PID 1: %w", err)
	}
	return nil
}

// hear applies what a worker says to e and passes it to show, until it has said its last
// word: how it ended, or nothing more because it has ended.
func hear(pipe *os.File, e *Ending, show func(message)) {
	lines := bufio.NewReader(pipe)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return // what a worker that died had begun to say is no message
		}
		var m message
		if json.Unmarshal(line, &m) != nil {
			continue
		}
		if m.Phase != "" {
			e.Phase = m.Phase
		}
		if m.Failed != nil {
			e.Failure = m.Failed
		}
		if m.Over != nil {
			e.Over = m.Over
		}
		e.Starts = max(e.Starts, m.Starts)
		e.Rehearsed = e.Rehearsed || m.Rehearsed
		e.Boarded = e.Boarded || m.Boarded
		show(m)
		if m.Failed != nil || m.Over != nil || m.Rehearsed || m.Boarded || m.Done {
			return
		}
	}
}
