//go:build faults

// Package fault lets tests break a run at a named point. It does nothing unless
// the program is built with the tag "faults": a machine's init has no such door.
package fault

import (
	"os"
	"strings"
	"syscall"
	"time"
)

// once is left behind by the first fault, so that a run that is tried again goes on.
const once = "/run/reimager/fault"

// At breaks the run if the kernel command line has reimager.fault=KIND@POINT:
// "panic" in another goroutine, "nil" for a fault of the processor, "kill" for
// the way the kernel ends a process that uses too much memory, "hang" for a thread that
// goes no further.
func At(point string) {
	cmdline, _ := os.ReadFile("/proc/cmdline")
	for _, word := range strings.Fields(string(cmdline)) {
		kind, ok := strings.CutPrefix(word, "reimager.fault=")
		if !ok {
			continue
		}
		kind, at, _ := strings.Cut(kind, "@")
		if at != strings.ReplaceAll(point, " ", "-") {
			continue
		}
		if kind == "hang" { // again and again, beside others
			select {}
		}
		if _, err := os.Stat(once); err == nil {
			return
		}
		_ = os.WriteFile(once, nil, 0o600)
		switch kind {
		case "panic":
			go panic("a fault that a test asked for")
			select {}
		case "nil":
			var p *int
			*p = 1
		case "kill":
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}

// Duration is a duration that reimager.NAME=DURATION on the kernel command line shortens.
func Duration(name string, usual time.Duration) time.Duration {
	cmdline, _ := os.ReadFile("/proc/cmdline")
	for _, word := range strings.Fields(string(cmdline)) {
		if value, ok := strings.CutPrefix(word, "reimager."+name+"="); ok {
			if d, err := time.ParseDuration(value); err == nil {
				return d
			}
		}
	}
	return usual
}
