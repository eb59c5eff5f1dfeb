package bzip2

import (
	"errors"
	"io"
	"sync"
)

// decoder is the state that feeder, workers, the walk through the streams and
// the caller share, behind one mutex: they meet a few times a block.
//
// It can't deadlock: workers begin blocks in the order of the file, so that the
// first block in line has a worker; what a worker waits for is the caller (who
// is given that block), the source, or the window's moving on, and the window
// holds all that the first block can need.
type decoder struct {
	mu      sync.Mutex
	changed *sync.Cond // anything below has
	running sync.WaitGroup

	window  window
	filter  *magicFilter
	scratch []byte
	scan    int64          // bit from which on no magic has been looked for
	head    int64          // bit at which the walk stands
	jobs    map[int64]*job // by start; begun, and not yet confirmed or dropped
	needed  bool           // the walk awaits a block at head that nobody has begun

	ordered  []*job // confirmed, not yet delivered
	verdict  error  // what follows them: io.EOF, or what is wrong
	finished bool   // verdict is set
	closed   bool
}

// job is a block, or what looked like one.
type job struct {
	start int64 // bit of its magic

	scanned bool  // the fields below are set
	end     int64 // bit behind the block
	size    int   // bytes of its text
	crc     uint32

	batches []*batch // decoded, not yet delivered
	done    bool     // there will be no more, and err is set
	err     error
	dropped bool // it was no block: give up
}

// errDropped ends the work on a job whose result nobody wants.
var errDropped = errors.New("block is not wanted")

func newDecoder(workers int) *decoder {
	d := &decoder{
		window:  newWindow(workers),
		filter:  newMagicFilter(),
		scratch: make([]byte, fillSize),
		jobs:    make(map[int64]*job),
	}
	d.changed = sync.NewCond(&d.mu)
	return d
}

// begin starts to read and decode, unless it has been closed already.
func (d *decoder) begin(src io.Reader, workers int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.running.Go(func() { d.feed(src) })
	d.running.Go(d.walk)
	for range workers {
		d.running.Go(d.work)
	}
}

// stopped tells whether nothing more is to be begun.
func (d *decoder) stopped() bool { return d.closed || d.finished }

// takeJob waits for a block to decode. It returns nil when there will be none.
func (d *decoder) takeJob() *job {
	d.mu.Lock()
	defer d.mu.Unlock()
	for !d.stopped() {
		start := d.head
		if !d.needed {
			start = d.scanOn()
		}
		if start >= 0 {
			d.needed = false
			j := &job{start: start}
			d.jobs[start] = j
			d.changed.Broadcast()
			return j
		}
		d.changed.Wait()
	}
	return nil
}

// scanOn looks for the next magic in the window, and returns its bit or -1.
func (d *decoder) scanOn() int64 {
	for {
		base := d.scan / 8
		n := d.window.copyAt(d.scratch, base)
		if n < magicBytes {
			return -1
		}
		bit := d.filter.find(d.scratch[:n], d.scan%8)
		if bit < 0 {
			d.scan = (base + int64(n-magicBytes+1)) * 8
			continue
		}
		d.scan = base*8 + bit + 1
		if d.jobs[base*8+bit] == nil {
			return base*8 + bit
		}
	}
}

// fetch copies bytes of the file from offset into p, for a job; nil stands for
// the walk. It returns fewer than len(p) only where the source has ended.
func (d *decoder) fetch(j *job, p []byte, offset int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for {
		if err := d.unwanted(j); err != nil {
			return 0, err
		}
		n += d.window.copyAt(p[n:], offset+int64(n))
		if n == len(p) || d.window.end != nil {
			return n, nil
		}
		d.changed.Wait()
	}
}

// unwanted returns an error if the work on a job is to end.
func (d *decoder) unwanted(j *job) error {
	if d.closed || j != nil && j.dropped {
		return errDropped
	}
	return nil
}

// ended returns what a reader of the file's bytes has met at its end: the
// source's error, or that the file is truncated.
func (d *decoder) ended() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.window.end != nil && d.window.end != io.EOF {
		return d.window.end
	}
	return &Error{Kind: Truncated, Offset: d.window.high}
}

// setScanned notes where a job's block ends. The error tells to end here.
func (d *decoder) setScanned(j *job, end int64, size int, crc uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	j.end, j.size, j.crc, j.scanned = end, size, crc, true
	if j.start == d.head {
		d.scan = max(d.scan, end) // sooner than the walk, which must be woken
	}
	d.changed.Broadcast()
	return d.unwanted(j)
}

// setDone notes that a job is through, or why not.
func (d *decoder) setDone(j *job, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	j.done, j.err = true, err
	d.changed.Broadcast()
}

// await returns the job of the block at bit, once its end is known, or why
// there is none.
func (d *decoder) await(bit int64) (*job, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.moveTo(bit)
	d.needed = d.jobs[bit] == nil
	d.changed.Broadcast()
	for !d.closed {
		if j := d.jobs[bit]; j != nil {
			if j.scanned {
				return j, nil
			}
			if j.done {
				return nil, j.err
			}
		}
		d.changed.Wait()
	}
	return nil, errDropped
}

// confirm puts a job in line for delivery and moves on to its end.
func (d *decoder) confirm(j *job) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.jobs, j.start)
	d.ordered = append(d.ordered, j)
	d.moveTo(j.end)
	d.changed.Broadcast()
}

// moveTo has the walk stand at bit: bytes before it are let go, and what seemed
// to begin there is dropped.
func (d *decoder) moveTo(bit int64) {
	d.head = bit
	d.window.low = min(bit/8, d.window.high)
	d.scan = max(d.scan, bit)
	for start, j := range d.jobs {
		if start < bit {
			d.drop(j)
		}
	}
}

// drop gives a job up and returns what it has put out.
func (d *decoder) drop(j *job) {
	delete(d.jobs, j.start)
	j.dropped = true
	for _, b := range j.batches {
		b.owner.free = append(b.owner.free, b)
	}
	j.batches = nil
}

// finish sets what follows the confirmed blocks.
func (d *decoder) finish(verdict error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.verdict, d.finished = verdict, true
	for _, j := range d.jobs {
		d.drop(j)
	}
	d.changed.Broadcast()
}

// takeBatch waits for an empty batch of a worker. Each has its own, so that no
// worker can be starved by those ahead of it.
func (d *decoder) takeBatch(w *worker, j *job) (*batch, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		if err := d.unwanted(j); err != nil {
			return nil, err
		}
		if n := len(w.free); n > 0 {
			b := w.free[n-1]
			w.free = w.free[:n-1]
			return b, nil
		}
		if w.made < batchesPerWorker {
			w.made++
			return &batch{owner: w}, nil
		}
		d.changed.Wait()
	}
}

// putBatch hands on what a job has put out.
func (d *decoder) putBatch(j *job, b *batch) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.unwanted(j); err != nil {
		b.owner.free = append(b.owner.free, b)
		return err
	}
	j.batches = append(j.batches, b)
	d.changed.Broadcast()
	return nil
}

// next waits for the next batch in order and takes the one before it back. At
// the end it returns the verdict.
func (d *decoder) next(used *batch) (*batch, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if used != nil {
		used.owner.free = append(used.owner.free, used)
		d.changed.Broadcast()
	}
	for !d.closed {
		switch {
		case len(d.ordered) > 0 && len(d.ordered[0].batches) > 0:
			j := d.ordered[0]
			b := j.batches[0]
			j.batches = j.batches[1:]
			return b, nil
		case len(d.ordered) > 0 && d.ordered[0].done:
			if err := d.ordered[0].err; err != nil {
				return nil, err
			}
			d.ordered = d.ordered[1:]
			continue
		case len(d.ordered) == 0 && d.finished:
			return nil, d.verdict
		}
		d.changed.Wait()
	}
	return nil, errClosed()
}

// close ends all work and waits for it.
func (d *decoder) close() {
	d.mu.Lock()
	d.closed = true
	d.changed.Broadcast()
	d.mu.Unlock()
	d.running.Wait()
}

func (d *decoder) isClosed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}
