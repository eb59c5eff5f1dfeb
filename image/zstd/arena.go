package zstd

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
)

// errFull says that a frame is too large for an arena.
var errFull = errors.New("arena is full")

// arena is the memory of compressed frames that are gathered or wait to be decoded:
// one behind the other, each in one piece, beginning again at the bottom. How long a
// frame gets nobody knows before its end, so the one that is gathered grows, and
// waits for the oldest ones if they are in its way. Frames that don't compress thus
// don't take more than those that do.
type arena struct {
	size int

	mu      sync.Mutex
	freed   *sync.Cond
	mem     []byte    // mapped, so that only what is used of it counts
	live    []*region // in the order of the file
	stopped bool
}

// region is where a frame lies. Only the newest grows, and only that may be moved.
type region struct {
	start, end int
	free       bool // nobody needs it; it goes when those before it have gone
}

func newArena(size int) *arena {
	a := &arena{size: size}
	a.freed = sync.NewCond(&a.mu)
	return a
}

// begin makes an empty region behind the newest.
func (a *arena) begin() (*region, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mem == nil {
		mem, err := syscall.Mmap(-1, 0, a.size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		if err != nil {
			return nil, fmt.Errorf("allocate %d bytes for compressed frames: %w", a.size, err)
		}
		a.mem = mem
	}
	r := &region{}
	if n := len(a.live); n > 0 {
		r.start = a.live[n-1].end
		r.end = r.start
	}
	a.live = append(a.live, r)
	return r, nil
}

// room returns n bytes behind the newest region, which may be moved for them. It
// waits for others to be released.
func (a *arena) room(r *region, n int) ([]byte, error) {
	need := r.end - r.start + n
	if need > a.size {
		return nil, errFull
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for !a.stopped {
		oldest := a.live[0]
		limit, bottom := a.size, oldest.start // bottom: what is free below
		switch {
		case oldest == r:
			bottom = a.size
		case r.start <= oldest.start: // it has begun again at the bottom already
			limit, bottom = oldest.start, 0
		}
		if r.end+n <= limit {
			return a.mem[r.end : r.end+n], nil
		}
		if need <= bottom {
			copy(a.mem, a.mem[r.start:r.end])
			r.start, r.end = 0, r.end-r.start
			continue
		}
		a.freed.Wait()
	}
	return nil, errStopped
}

// bytes returns what a region holds.
func (a *arena) bytes(r *region) []byte { return a.mem[r.start:r.end:r.end] }

// release gives a region up; nil is none.
func (a *arena) release(r *region) {
	if r == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	r.free = true
	for len(a.live) > 0 && a.live[0].free {
		a.live = a.live[1:]
	}
	a.freed.Broadcast()
}

// stop ends all waiting.
func (a *arena) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
	a.freed.Broadcast()
}

// close gives the memory back; nobody may use it any more.
func (a *arena) close() error {
	if a.mem == nil {
		return nil
	}
	err := syscall.Munmap(a.mem)
	a.mem = nil
	if err != nil {
		return fmt.Errorf("free memory of compressed frames: %w", err)
	}
	return nil
}
