package bzip2

import "errors"

// batchesPerWorker is how far a worker gets ahead of the caller, about a block
// each.
const batchesPerWorker = 4

// worker decodes blocks, one at a time. What it allocates, about 10 MiB, it
// uses for all of them.
type worker struct {
	d      *decoder
	free   []*batch // empty; guarded by the decoder's mutex
	made   int      // batches there are; guarded, too
	job    *job
	bits   bitReader
	header header
	tables [maxTables]codeTable
	list   moveToFront
	bwt    inverseBWT
	runs   expander
}

// work decodes blocks until there are no more.
func (d *decoder) work() {
	var w *worker
	for {
		j := d.takeJob()
		if j == nil {
			return
		}
		if w == nil {
			w = newWorker(d)
		}
		w.job = j
		d.setDone(j, w.decode())
	}
}

func newWorker(d *decoder) *worker {
	w := &worker{d: d}
	w.bits.fetch = w.fetch
	w.runs.take = func() (*batch, error) { return d.takeBatch(w, w.job) }
	w.runs.emit = func(b *batch) error { return d.putBatch(w.job, b) }
	return w
}

// decode takes a block through all of the stages.
func (w *worker) decode() error {
	n, err := w.entropy()
	if err != nil {
		return w.located(err)
	}
	if err := w.d.setScanned(w.job, w.bits.bit(), n, w.header.crc); err != nil {
		return err
	}

	w.list.finish()
	text := w.bwt.decode(w.list.column, n, w.header.origin)
	if w.header.randomised {
		derandomise(text)
	}
	crc, err := w.runs.expand(text)
	if err != nil {
		return w.located(err)
	}
	if crc != w.header.crc {
		return &Error{Kind: BlockChecksum, Offset: w.job.start / 8}
	}
	return nil
}

// entropy reads the block's bits and returns the length of its text, which is
// then in w.list as ranks.
func (w *worker) entropy() (n int, err error) {
	if err := w.bits.seek(w.job.start + magicBits); err != nil {
		return 0, err
	}
	if err := w.header.read(&w.bits); err != nil {
		return 0, err
	}
	for t := range w.header.tables {
		w.tables[t].init(w.header.lengths[t][:w.header.used+2])
	}
	w.list.reset(w.header.inUse[:w.header.used])
	if err := decodeSymbols(&w.bits, w.header.selectors, &w.tables, &w.list); err != nil {
		return 0, err
	}
	if w.bits.overrun() {
		return 0, malformed("end of file")
	}
	if int(w.header.origin) >= w.list.n {
		return 0, malformed("origin is not a row of the block")
	}
	return w.list.n, nil
}

// located makes an Error of what is malformed; if the file ended there, that is
// the cause.
func (w *worker) located(err error) error {
	var m malformed
	if !errors.As(err, &m) {
		return err
	}
	if w.bits.overrun() {
		return w.d.ended()
	}
	return &Error{Kind: Corrupt, Offset: w.bits.bit() / 8, Detail: m.Error()}
}

// fetch reads the file for the bit reader, and ends a block that can't be one.
func (w *worker) fetch(p []byte, offset int64) (int, error) {
	if offset > w.job.start/8+maxBlock {
		return 0, malformed("block is longer than any can be")
	}
	return w.d.fetch(w.job, p, offset)
}
