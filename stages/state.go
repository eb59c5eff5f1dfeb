package stages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"reimager/disk"
)

// save keeps what was gathered for a worker that has to take over.
func (g *Gathered) save() error {
	text, err := json.Marshal(g.gathered)
	if err != nil {
		return fmt.Errorf("save what was gathered: %w", err)
	}
	// A worker that dies here must not leave half of it.
	err = os.WriteFile(ramState+".new", text, 0o600)
	if err == nil {
		err = os.Rename(ramState+".new", ramState)
	}
	if err != nil {
		return fmt.Errorf("save what was gathered: %w", err)
	}
	return nil
}

// ErrNoState says that no earlier worker has left in RAM what it gathered, or that it
// cannot be read.
var ErrNoState = errors.New("what was gathered is not in memory")

func readState() (*gathered, error) {
	text, err := os.ReadFile(ramState)
	g := &gathered{}
	if err == nil {
		err = json.Unmarshal(text, g)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoState, err)
	}
	return g, nil
}

// Resume returns what an earlier worker gathered, so that the write can begin
// again from RAM.
func (r *Run) Resume(ctx context.Context) (*Gathered, error) {
	before, err := readState()
	if err != nil {
		return nil, fmt.Errorf("resume: %w", err)
	}
	g := &Gathered{gathered: *before}
	attempts := r.Record.Attempts
	*r.Record = *g.Record
	r.Record.Attempts = attempts
	// The disk may have been lost for a moment, and have another letter now.
	err = r.Uevents.Await(ctx, g.Disk.String(), r.Config.Machine.DeviceTimeout.Duration, func() (bool, error) {
		all, err := r.Disks.List()
		if err != nil {
			return false, err
		}
		for _, d := range all {
			known := g.Disk.Serial != "" || g.Disk.WWN != "" || d.Name == g.Disk.Name
			if known && d.Serial == g.Disk.Serial && d.WWN == g.Disk.WWN && d.Bytes == g.Disk.Bytes {
				g.Disk = d
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return nil, err
	}
	return g, r.reopenBoat(g)
}

// ErrLanded says that an earlier worker has landed, and nobody has heard of it.
var ErrLanded = errors.New("the disk boots its new system")

// memory returns a line of /proc/meminfo in bytes: proc_meminfo(5).
func memory(key string) (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("read memory: no %s in /proc/meminfo", key)
}

// peakMemory returns the highest resident memory of a process in bytes.
func peakMemory(pid string) int64 {
	text, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return kib << 10
		}
	}
	return 0
}

func readAtMost(f io.Reader, limit int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("longer than %s", disk.Size(limit))
	}
	return text, err
}

// readUpTo fills b, and tells how much of it a shorter file has filled.
func readUpTo(f io.Reader, b []byte) (int, error) {
	n, err := io.ReadFull(f, b)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// NoteMachine fills in what the record says of the machine.
func (r *Run) NoteMachine(kernel string, wakeSeconds float64) error {
	total, err := memory("MemTotal")
	r.Record.Machine.Kernel, r.Record.Machine.MemoryBytes, r.Record.Machine.WakeSeconds = kernel, total, wakeSeconds
	return err
}

func (r *Run) notePeak() { r.Record.Machine.PeakBytes = peakMemory("self") + peakMemory("1") }
