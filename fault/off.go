//go:build !faults

// Package fault lets tests break a run at a named point. It does nothing unless
// the program is built with the tag "faults": a machine's init has no such door.
package fault

import "time"

// At is a point at which a test may break the run.
func At(string) {}

// Duration is a duration that a test may shorten.
func Duration(_ string, usual time.Duration) time.Duration { return usual }
