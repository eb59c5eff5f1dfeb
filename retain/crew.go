package retain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// dirKey is a directory, whatever path leads to it.
type dirKey struct{ dev, ino uint64 }

// destination is an open directory that files are put into.
type destination struct {
	entered bool
	rel     string
	fd      int
	key     dirKey
	inherit bool       // files get an ACL from it, or that can't be told
	flags   inodeFlags // it has; files inherit some of them
}

// job is a file to make.
type job struct {
	it       item
	index    int // of the entry in the archive
	name     string
	content  []byte // as stored; nil where it comes from the archive
	restored Restored
}

// batch is a run of files of one directory, which it keeps open.
type batch struct {
	to      destination
	jobs    []job
	content []byte
}

const (
	batchJobs  = 64
	batchBytes = 4 * smallBytes
)

// crew makes files in parallel, in different directories: what goes to one
// directory goes to one worker, in the archive's order, so that whatever names
// the archive or the filesystem takes for the same come one after the other. The
// kernel would let only one change a directory at a time, anyway.
//
// It keeps, by entry, what is told of the whole restore.
type crew struct {
	queues  []chan *batch
	workers sync.WaitGroup
	free    chan *batch // bounds the memory
	stop    atomic.Bool // after an error

	mu    sync.Mutex
	idle  sync.Cond // for underWay
	by    map[dirKey]int
	all   int
	links int // batches that make symbolic links

	slots     []Restored // without a path: not put back
	conflicts []indexed[Conflict]
	lost      []indexed[Lost]
	locks     []lockedFile
	stale     bool // a directory that was open may have been reached through what is gone
	err       error
	errAt     job
	present   map[string]bool // paths that are no directories and were put back
}

type indexed[T any] struct {
	index int
	value T
}

// lockedFile is one that becomes immutable or append-only in the end.
type lockedFile struct {
	it       item
	index    int
	dev, ino uint64
}

func newCrew(ctx context.Context) *crew {
	n := workers()
	c := &crew{free: make(chan *batch, 3*n), by: map[dirKey]int{}, present: map[string]bool{}}
	c.idle.L = &c.mu
	for range cap(c.free) {
		c.free <- &batch{content: make([]byte, 0, batchBytes)}
	}
	for range n {
		queue := make(chan *batch, cap(c.free))
		c.queues = append(c.queues, queue)
		c.workers.Go(func() { c.work(newMaker(ctx), queue) })
	}
	return c
}

func (c *crew) work(m *maker, queue <-chan *batch) {
	for b := range queue {
		m.gives = givenOwner{}
		for i := range b.jobs {
			if c.stop.Load() {
				break
			}
			j := &b.jobs[i]
			err := m.make(&b.to, j, nil)
			if err == nil {
				c.done(j)
			}
			if err := c.settle(j.index, j.it, &m.outcome, err); err != nil {
				c.fail(j, err)
			}
			m.outcome = outcome{}
		}
		c.finished(b)
	}
}

// send gives a batch to the worker of its directory.
func (c *crew) send(b *batch) {
	c.mu.Lock()
	c.by[b.to.key]++
	c.all++
	if b.links() {
		c.links++
	}
	c.mu.Unlock()
	// Neighbouring directories have neighbouring numbers, often with an even step.
	hash := (b.to.key.ino ^ b.to.key.dev<<32) * 0x9e3779b97f4a7c15 >> 32
	c.queues[hash%uint64(len(c.queues))] <- b
}

func (c *crew) finished(b *batch) {
	unix.Close(b.to.fd)
	c.mu.Lock()
	if c.by[b.to.key]--; c.by[b.to.key] == 0 {
		delete(c.by, b.to.key)
	}
	c.all--
	if b.links() {
		c.links--
	}
	c.idle.Broadcast()
	c.mu.Unlock()
	clear(b.jobs) // which hold attributes
	b.jobs, b.content = b.jobs[:0], b.content[:0]
	c.free <- b
}

func (b *batch) links() bool {
	return slices.ContainsFunc(b.jobs, func(j job) bool { return j.it.kind == TypeSymlink })
}

// wait returns when nothing is under way, in one directory or at all.
func (c *crew) wait(only *dirKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.all > 0 && (only == nil || c.by[*only] > 0) {
		c.idle.Wait()
	}
}

// dismiss waits for all workers, who may have work left.
func (c *crew) dismiss() {
	for _, queue := range c.queues {
		close(queue)
	}
	c.workers.Wait()
}

// reserve makes room for an entry, so that the report has the archive's order.
func (c *crew) reserve() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slots = append(c.slots, Restored{})
	return len(c.slots) - 1
}

// done notes what was put back.
func (c *crew) done(j *job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slots[j.index] = j.restored
	if j.it.kind != TypeDirectory {
		c.present[j.it.rel] = true
	}
}

func (c *crew) restored(index int) Restored {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.slots[index]
}

func (c *crew) isPresent(rel string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.present[rel]
}

// settle keeps the outcome of an entry. It returns an error that is no conflict.
func (c *crew) settle(index int, it item, out *outcome, err error) error {
	if err == nil && out.empty() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stale = c.stale || out.stale
	for _, l := range out.lost {
		c.lost = append(c.lost, indexed[Lost]{index, l})
	}
	if out.lock {
		c.locks = append(c.locks, lockedFile{it, index, out.dev, out.ino})
	}
	var conflict conflictError
	if errors.As(err, &conflict) {
		c.conflicts = append(c.conflicts, indexed[Conflict]{index, Conflict{it.conflictPath(), conflict.Error()}})
		return nil
	}
	return err
}

// fail keeps the error that comes first in the archive.
func (c *crew) fail(j *job, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil || j.index < c.errAt.index {
		c.err, c.errAt = err, *j
	}
	c.stop.Store(true)
}

// errCrew stands for the error of a worker, which failed tells.
var errCrew = errors.New("a worker has failed")

// check returns errCrew after an error of a worker.
func (c *crew) check() error {
	if c.stop.Load() {
		return errCrew
	}
	return nil
}

// failed returns a worker's error.
func (c *crew) failed(root *Root) error {
	if !c.stop.Load() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Errorf("restore %s: %w", root.display(c.errAt.it.rel), c.err)
}

func (c *crew) takeStale() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	stale := c.stale
	c.stale = false
	return stale
}

func (c *crew) makesLinks() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.links > 0
}

// report is called when nobody works any more.
func (c *crew) report() *Report {
	r := &Report{Entries: slices.DeleteFunc(c.slots, func(e Restored) bool { return e.Path == "" })}
	for i := range r.Entries {
		r.ContentBytes += r.Entries[i].Bytes
	}
	r.Conflicts = ordered(c.conflicts)
	r.Lost = ordered(c.lost)
	return r
}

func ordered[T any](all []indexed[T]) (values []T) {
	slices.SortStableFunc(all, func(a, b indexed[T]) int { return cmp.Compare(a.index, b.index) })
	for _, a := range all {
		values = append(values, a.value)
	}
	return values
}
