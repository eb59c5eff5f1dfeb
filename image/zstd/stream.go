package zstd

import "github.com/klauspost/compress/zstd"

// inFlight is how many blocks of a stream the library works at, if it may use
// several cores: its stages are a pipeline.
const inFlight = 4

// flow decodes frames as they come, one after the other.
func (d *decoder) flow() {
	var z *zstd.Decoder
	defer func() {
		if z != nil {
			z.Close()
		}
	}()
	for {
		j, err := receive(d, d.streams)
		if err != nil {
			return
		}
		if z == nil {
			cores := 1
			if d.workers > 1 {
				cores = inFlight
			}
			z, err = zstd.NewReader(nil, d.options(cores)...)
		}
		if err == nil {
			err = d.decodeStream(z, j)
		}
		d.arena.release(j.region)
		j.finish(err)
		if err != nil {
			return
		}
	}
}

func (d *decoder) decodeStream(z *zstd.Decoder, j *job) error {
	in := newBlocks(j.frame, func() ([]byte, error) {
		select {
		case part, ok := <-j.feed:
			if !ok {
				return nil, j.fed
			}
			return part, nil
		case <-d.stopped:
			return nil, errStopped
		}
	})
	out := &flowWriter{d: d, j: j, in: in}
	err := z.Reset(in)
	if err == nil {
		_, err = z.WriteTo(out)
	}
	if err != nil {
		err = d.verdict(j, in, err)
	}
	if flushed := out.flush(); err == nil {
		err = flushed
	}
	return err
}

// flowWriter puts the blocks that the library writes into batches.
type flowWriter struct {
	d  *decoder
	j  *job
	in *blocks
	b  *batch
}

func (w *flowWriter) Write(p []byte) (int, error) {
	w.in.written()
	for rest := p; len(rest) > 0; {
		var piece []byte
		var zeros bool
		piece, rest, zeros = cutPiece(rest)
		if w.b != nil && len(w.b.data)+len(piece) > cap(w.b.data) {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
		if w.b == nil {
			var err error
			if w.b, err = receive(w.d, w.d.flows); err != nil {
				return 0, err
			}
			w.b.grow(streamBatchSize)
		}
		n := len(w.b.data)
		w.b.data = w.b.data[:n+len(piece)]
		if !zeros {
			copy(w.b.data[n:], piece)
		}
		w.b.add(int64(len(piece)), zeros)
	}
	return len(p), nil
}

// flush hands on what has been written.
func (w *flowWriter) flush() error {
	b := w.b
	if b == nil {
		return nil
	}
	w.b = nil
	return send(w.d, w.j.out, b)
}
