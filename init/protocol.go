package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
)

// message is a line from the worker to PID 1. What was written to the pipe stays
// readable when the worker is dead.
type message struct {
	Phase  Phase    `json:"phase,omitempty"`
	Failed *Failure `json:"failed,omitempty"`
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

// hear reads what a worker said until it has ended, and applies it to e.
func hear(pipe *os.File, e *Ending) {
	lines := bufio.NewScanner(pipe)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var m message
		if json.Unmarshal(lines.Bytes(), &m) != nil {
			continue // a torn last line of a worker that died
		}
		if m.Phase != "" {
			e.Phase = m.Phase
		}
		if m.Failed != nil {
			e.Failure = m.Failed
		}
	}
}
