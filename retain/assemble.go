package retain

import (
	"context"
	"fmt"
	"io"
	"sync"
)

// chunk is a run of entries that one worker captures at a time.
type chunk struct {
	from, to int // in the plan
	out      []byte
	records  []Record
	err      error
	done     chan struct{}
}

const (
	chunkEntries = 64
	chunkBytes   = 256 << 10
)

// assembler puts together what workers read ahead, in the order of the plan.
// Memory is bounded by the chunks that are under way; what is large goes through
// a buffer of its own.
type assembler struct {
	ctx      context.Context
	cancel   context.CancelFunc
	root     *Root
	plan     *Plan
	w        io.Writer
	progress func(bytes int64)
	summary  Summary

	todo    chan *chunk
	workers sync.WaitGroup
	ahead   []*chunk // given to workers, in order
	free    []*chunk
	large   *capturer
}

func newAssembler(ctx context.Context, root *Root, plan *Plan, w io.Writer, progress func(int64)) *assembler {
	a := &assembler{root: root, plan: plan, w: w, progress: progress}
	a.ctx, a.cancel = context.WithCancel(ctx)
	a.summary.Entries = make([]Record, 0, len(plan.Entries))
	a.large = newCapturer(a.ctx, root, plan)
	a.large.spill = func() error {
		err := a.write(a.large.out)
		a.large.out = a.large.out[:0]
		return err
	}
	n := workers()
	a.todo = make(chan *chunk, 2*n)
	for range 2 * n {
		a.free = append(a.free, &chunk{done: make(chan struct{}, 1)})
	}
	for range n {
		a.workers.Go(a.work)
	}
	return a
}

func (a *assembler) work() {
	c := newCapturer(a.ctx, a.root, a.plan)
	defer c.dirs.flush()
	for ch := range a.todo {
		c.out, c.records = ch.out[:0], ch.records[:0]
		ch.err = nil
		for i := ch.from; i < ch.to && ch.err == nil; i++ {
			ch.err = a.entry(c, i)
		}
		ch.out, ch.records = c.out, c.records
		ch.done <- struct{}{}
	}
}

func (a *assembler) entry(c *capturer, i int) error {
	e := &a.plan.Entries[i]
	if err := c.entry(e); err != nil {
		return fmt.Errorf("capture %s: %w", a.root.display(e.rel), err)
	}
	return nil
}

// all writes the archive. It leaves no goroutine behind.
func (a *assembler) all() error {
	var err error
	for _, attached := range a.plan.attachments {
		if err == nil {
			err = a.write(attached.appendTo(nil))
		}
	}
	if err == nil {
		err = a.entries()
	}
	if err == nil {
		err = a.write(make([]byte, archiveEndBytes))
	}
	a.cancel()
	close(a.todo)
	a.workers.Wait()
	a.large.dirs.flush()
	return err
}

func (a *assembler) entries() error {
	for from := 0; from < len(a.plan.Entries); {
		to := a.cut(from)
		if to == from {
			if err := a.inline(from); err != nil {
				return err
			}
			from++
			continue
		}
		if len(a.free) == 0 {
			if err := a.take(); err != nil {
				return err
			}
		}
		ch := a.free[len(a.free)-1]
		a.free = a.free[:len(a.free)-1]
		ch.from, ch.to = from, to
		a.ahead = append(a.ahead, ch)
		a.todo <- ch
		from = to
	}
	return a.takeAll()
}

// cut returns the end of a chunk that starts at from: from itself where that
// entry is large.
func (a *assembler) cut(from int) (to int) {
	sum := int64(0)
	for to = from; to < len(a.plan.Entries) && to < from+chunkEntries; to++ {
		e := &a.plan.Entries[to]
		n := e.attributeBytes
		if e.HardLinkTo == "" {
			n += e.stored
		}
		if sum += n; n > smallBytes || sum > chunkBytes {
			break
		}
	}
	return to
}

// take writes the oldest chunk.
func (a *assembler) take() error {
	ch := a.ahead[0]
	a.ahead = a.ahead[1:]
	<-ch.done
	a.free = append(a.free, ch)
	if ch.err != nil {
		return ch.err
	}
	a.note(ch.records)
	return a.write(ch.out)
}

func (a *assembler) takeAll() error {
	for len(a.ahead) > 0 {
		if err := a.take(); err != nil {
			return err
		}
	}
	return nil
}

// inline captures a large entry when all before it is written.
func (a *assembler) inline(i int) error {
	if err := a.takeAll(); err != nil {
		return err
	}
	a.large.out, a.large.records = a.large.out[:0], a.large.records[:0]
	if err := a.entry(a.large, i); err != nil {
		return err
	}
	a.note(a.large.records)
	return a.large.spill()
}

func (a *assembler) note(records []Record) {
	a.summary.Entries = append(a.summary.Entries, records...)
	for i := range records {
		a.summary.ContentBytes += records[i].Bytes
	}
}

func (a *assembler) write(p []byte) error {
	n, err := a.w.Write(p)
	a.summary.ArchiveBytes += int64(n)
	if err != nil {
		return fmt.Errorf("write retained archive: %w", err)
	}
	a.progress(a.summary.ArchiveBytes)
	return nil
}
