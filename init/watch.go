package main

import (
	"errors"
	"os"
	"time"

	"reimager/fault"
	"reimager/wake"
)

const (
	// watchdogDevice is the machine's first watchdog.
	watchdogDevice = "watchdog0"
	// watchdogTime is how long it shall wait: long enough for a sync or a driver that
	// keeps PID 1 waiting.
	watchdogTime = 60 * time.Second
	// feedEvery suits any watchdog: the shortest wait some ten seconds.
	feedEvery = 2 * time.Second
)

// lastResort is for how long a worker may be silent before the hardware takes over.
// PID 1 comes first: it kills the worker, reports, and goes back.
func lastResort() time.Duration { return patience() + undoTime + 3*lastWords }

// watch feeds the machine's watchdog, from when its driver is there until the machine is
// left: before the point of no return while the worker gets on, after it always, since
// a reset would lose what is in memory. PID 1 itself is watched either way.
func (s *supervisor) watch() {
	tick := time.NewTicker(feedEvery)
	defer tick.Stop()
	dog, failed := s.dog, false
	for {
		select {
		case released := <-s.unwatch:
			if dog != nil {
				runs, err := dog.Release()
				if err != nil {
					s.report.Detail("%v", err)
				}
				if s.dog = nil; runs {
					s.dog = dog
				}
			}
			close(released)
			return
		case now := <-tick.C:
			if dog == nil && !failed {
				var err error
				dog, err = wake.OpenWatchdog(watchdogDevice, watchdogTime)
				switch {
				case err == nil:
					s.report.Printf("watchdog %s resets the machine after %s without a sign of life", dog.Name, dog.Timeout)
				case !errors.Is(err, os.ErrNotExist):
					s.report.Printf("warning: %v", err)
					failed = dog == nil
				}
				continue
			}
			fault.At("feed")
			if dog != nil && s.pulse.silent(now) < lastResort() {
				_ = dog.Feed() // there is nobody else who could
			}
		}
	}
}

// releaseWatchdog leaves the watchdog to the next system.
func (s *supervisor) releaseWatchdog() {
	released := make(chan struct{})
	select {
	case s.unwatch <- released:
	case <-time.After(feedEvery): // none is watched, or its driver hangs
		return
	}
	select {
	case <-released:
	case <-time.After(feedEvery):
	}
}
