package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"reimager/fault"
)

// patience is how long a worker may be without any progress before the point of no
// return: longer than any single thing takes that it does there without saying so,
// such as the replay of a large journal.
func patience() time.Duration { return fault.Duration("patience", 5*time.Minute) }

// pulse knows when a worker last made progress. Before casting off a machine that
// hangs is worth more when it is started again; after it, only its memory can save it.
type pulse struct {
	mu    sync.Mutex
	last  time.Time
	phase Phase
	held  bool // the machine holds, for somebody to look at
	// aboard says that a reset does no harm at any time.
	aboard bool
}

// beat notes progress; a machine that held holds no longer.
func (p *pulse) beat(phase Phase) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last, p.phase, p.held = time.Now(), phase, false
}

// move notes progress in the same phase.
func (p *pulse) move() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = time.Now()
}

// hear notes that a worker said something.
func (p *pulse) hear(m message) {
	if m.Phase != "" {
		p.beat(m.Phase)
		return
	}
	p.move()
}

// hold notes that nothing will move any more, and should not.
func (p *pulse) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = true
}

// silent tells for how long there was no progress; 0 where that is as it should be.
func (p *pulse) silent(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held || p.phase == PhaseCastOff && !p.aboard {
		return 0
	}
	return now.Sub(p.last)
}

// transferred is what the kernel counts of a process's reading and writing, proc_pid_io(5),
// and of the disks': it changes where a worker gets on without saying so, among the inodes
// of a large tree perhaps, or where it waits until all that was put back is on the disk.
// "" on a kernel that does not count.
func transferred(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	disks, _ := os.ReadFile("/proc/diskstats")
	return string(text) + completed(string(disks))
}

// completed are the requests and sectors that disks have read, written and discarded. The
// times in between go on although a disk hangs:
// Documentation/admin-guide/iostats.rst.
func completed(diskstats string) string {
	var all strings.Builder
	for line := range strings.Lines(diskstats) {
		f := strings.Fields(line)
		for _, i := range []int{3, 5, 7, 9, 14, 16} { // behind major, minor and name
			if i < len(f) {
				all.WriteString(f[i] + " ")
			}
		}
	}
	return all.String()
}
