package zstd

import (
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

const (
	// defaultSmall is how much a frame may decode to that is decoded at once.
	defaultSmall = 16 << 20

	streamBatches   = 3 // filled, waiting, with the caller
	streamBatchSize = 1 << 20
)

// decoder is what the walk, the workers, the stream and the caller share: channels
// of things to do, and of memory for them.
//
// It can't deadlock: jobs are taken in the order of the file, and a worker has a
// batch before it takes one. So whatever the caller waits for is being decoded,
// and what others have decoded before doesn't keep it from that.
type decoder struct {
	source    *source
	maxWindow int64
	unchecked bool
	small     int
	workers   int

	ordered chan *job // as they are to be delivered
	frames  chan *job // to be decoded at once
	streams chan *job // to be decoded as they come
	current *job      // the caller's: being delivered

	arena   *arena      // for compressed frames
	batches chan *batch // for decoded frames
	flows   chan *batch // for decoded streams
	pieces  ring        // for what is fed to a stream; the walk's
	whole   *zstd.Decoder
	hollow  hollow

	running sync.WaitGroup
	mu      sync.Mutex
	stopped chan struct{} // closed when nobody wants anything any more
	closed  bool          // by the caller
	begun   bool
	ended   bool // stopped is closed
}

func newDecoder(src io.Reader, opts Options, small int) *decoder {
	d := &decoder{
		source:    newSource(src),
		maxWindow: opts.MaxWindow,
		unchecked: opts.NoChecksum,
		small:     small,
		workers:   opts.Workers,
		ordered:   make(chan *job, opts.Workers+1),
		frames:    make(chan *job, opts.Workers+1),
		streams:   make(chan *job),
		batches:   make(chan *batch, opts.Workers+1),
		flows:     make(chan *batch, streamBatches),
		stopped:   make(chan struct{}),
	}
	// A frame of blocks as short as 1 KiB that don't compress, and a block to spare.
	largest := d.small + d.small>>8 + 2*maxBlock
	d.arena = newArena(max(largest, opts.Workers*d.small/2))
	for range cap(d.batches) {
		d.batches <- &batch{home: d.batches}
	}
	for range cap(d.flows) {
		d.flows <- &batch{home: d.flows}
	}
	return d
}

// options are those of the library; cores is how many of them it may use.
func (d *decoder) options(cores int) []zstd.DOption {
	return []zstd.DOption{
		zstd.WithDecoderConcurrency(cores),
		zstd.WithDecoderMaxWindow(uint64(d.maxWindow)),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true),
		zstd.IgnoreChecksum(d.unchecked),
	}
}

// begin starts to read and decode, unless that has been done or it was closed.
func (d *decoder) begin() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.begun || d.closed {
		return nil
	}
	d.begun = true
	var err error
	if d.whole, err = zstd.NewReader(nil, d.options(d.workers)...); err != nil {
		return fmt.Errorf("set up zstd decoder: %w", err)
	}
	d.running.Go(d.walk)
	d.running.Go(d.flow)
	for range d.workers {
		d.running.Go(d.work)
	}
	return nil
}

func send[T any](d *decoder, c chan<- T, v T) error {
	select {
	case c <- v:
		return nil
	case <-d.stopped:
		return errStopped
	}
}

func receive[T any](d *decoder, c <-chan T) (v T, err error) {
	select {
	case v = <-c:
		return v, nil
	case <-d.stopped:
		return v, errStopped
	}
}

// order puts a job in line for delivery.
func (d *decoder) order(j *job) error { return send(d, d.ordered, j) }

// next waits for the next batch in order and takes the one before it back. At the
// end the error is io.EOF.
func (d *decoder) next(used *batch) (*batch, error) {
	if used != nil {
		used.release()
	}
	for {
		if d.current == nil {
			j, err := receive(d, d.ordered)
			if err != nil {
				return nil, errClosed()
			}
			d.current = j
		}
		b, err := receive(d, d.current.out)
		if err != nil {
			return nil, errClosed()
		}
		if b != nil {
			return b, nil
		}
		switch err := d.current.err; err {
		case nil:
		case errStopped:
			return nil, errClosed()
		default:
			d.stop(false)
			return nil, err
		}
		d.current = nil
	}
}

// stop ends all work.
func (d *decoder) stop(closed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = d.closed || closed
	if !d.ended {
		d.ended = true
		close(d.stopped)
		d.arena.stop()
	}
}

// close ends all work and waits for it.
func (d *decoder) close() error {
	d.stop(true)
	d.running.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.whole != nil {
		d.whole.Close()
		d.whole = nil
	}
	return d.arena.close()
}

func (d *decoder) isClosed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}
