package zstd

import (
	"errors"
	"fmt"
	"io"
)

// errStopped ends work whose result nobody wants.
var errStopped = errors.New("decoding was stopped")

// job is a frame, or the end of the file.
type job struct {
	frame  *header
	region *region     // what has been gathered of it, or nil; released when done
	need   int         // bytes it decodes to, at most, if that is all of it
	feed   chan []byte // all of it as it comes, if not
	fed    error       // why nothing follows in feed; set before it is closed

	out chan *batch // what it decodes to, in order
	err error       // why nothing follows in out, or nil; set before it is closed
}

// finish ends a job.
func (j *job) finish(err error) {
	j.err = err
	close(j.out)
}

// walk goes from frame to frame. It alone reads the source, and decides whether the
// file is whole.
func (d *decoder) walk() {
	err := d.walkFrames()
	if err == errStopped {
		return
	}
	last := &job{out: make(chan *batch)}
	last.finish(err)
	_ = d.order(last) // if it has been stopped, nobody asks
}

func (d *decoder) walkFrames() error {
	for {
		at := d.source.offset
		var magic [magicSize]byte
		n, err := d.source.read(magic[:])
		switch {
		case err != nil:
			return err
		case n == 0 && at == 0:
			return &Error{Kind: Empty}
		case n == 0:
			return io.EOF
		case !mayBeFrame(magic[:n]) && at == 0:
			return &Error{Kind: NotZstd}
		case !mayBeFrame(magic[:n]):
			return &Error{Kind: TrailingGarbage, Offset: at}
		case n < magicSize:
			return d.source.truncated()
		}
		if littleEndian(magic[:]) == frameMagic {
			err = d.walkFrame(at)
		} else {
			err = d.skipFrame()
		}
		if err != nil {
			return err
		}
	}
}

// skipFrame passes over a skippable frame: RFC 8878, 3.1.2.
func (d *decoder) skipFrame() error {
	var size [4]byte
	if err := d.source.full(size[:]); err != nil {
		return err
	}
	return d.source.skip(int64(littleEndian(size[:])))
}

func (d *decoder) walkFrame(at int64) error {
	h, err := readHeader(d.source, at, d.maxWindow)
	if err != nil {
		return err
	}
	j := &job{frame: h, out: make(chan *batch, 1)}
	if h.content > int64(d.small) {
		return d.stream(j, h.raw[:h.size])
	}
	if j.region, err = d.arena.begin(); err != nil {
		return err
	}
	return d.gather(j)
}

// gather reads a frame up to its end and has it decoded at once. If it turns out to
// be a large one, it is streamed from there.
func (d *decoder) gather(j *job) error {
	h, r := j.frame, j.region
	buf, err := d.arena.room(r, h.size)
	if err != nil {
		return err
	}
	r.end += copy(buf, h.raw[:h.size])
	content := 0
	certain := 0 // of it, what no decoding can change
	for last := false; !last; {
		if h.content < 0 && content > d.small-maxBlock {
			return d.stream(j, d.arena.bytes(r))
		}
		buf, err := d.arena.room(r, blockHeader+maxBlock+checksumSize)
		if err == errFull {
			return d.stream(j, d.arena.bytes(r))
		}
		if err != nil {
			return err
		}
		b, part, err := d.block(h, buf)
		if err != nil {
			return err
		}
		r.end += len(part)
		content += b.content
		if !b.compressed {
			certain += b.content
		}
		if last = b.last; last && h.checksum {
			sum := buf[len(part) : len(part)+checksumSize]
			if err := d.source.full(sum); err != nil {
				return err
			}
			r.end += checksumSize
		}
	}
	j.need = content
	if h.content >= 0 {
		// Frames whose claim can't be true don't get the memory.
		if int64(content) < h.content || int64(certain) > h.content {
			return contentMismatch(h)
		}
		j.need = int(h.content)
	}
	if err := d.order(j); err != nil {
		return err
	}
	return send(d, d.frames, j)
}

// stream hands a frame on as it comes; begun is what has been read of it.
func (d *decoder) stream(j *job, begun []byte) error {
	j.feed = make(chan []byte, feedPieces-2) // the others are being filled and used
	if err := d.order(j); err != nil {
		return err
	}
	if err := send(d, d.streams, j); err != nil {
		return err
	}
	err := d.feed(j, begun)
	j.fed = err
	if err == nil {
		j.fed = io.EOF
	}
	close(j.feed)
	if err != nil && err != errStopped {
		// The verdict is the stream's, for what precedes it counts first.
		<-d.stopped
		return errStopped
	}
	return err
}

func (d *decoder) feed(j *job, begun []byte) error {
	if err := send(d, j.feed, begun); err != nil {
		return err
	}
	for last := false; !last; {
		b, part, err := d.block(j.frame, d.pieces.next())
		if err != nil {
			return err
		}
		if err := send(d, j.feed, part); err != nil {
			return err
		}
		last = b.last
	}
	if !j.frame.checksum {
		return nil
	}
	sum := d.pieces.next()[:checksumSize]
	if err := d.source.full(sum); err != nil {
		return err
	}
	return send(d, j.feed, sum)
}

// block reads a block, with its header, into buf and returns what it has read.
func (d *decoder) block(h *header, buf []byte) (block, []byte, error) {
	at := d.source.offset
	if err := d.source.full(buf[:blockHeader]); err != nil {
		return block{}, nil, err
	}
	b, err := parseBlock(buf, h.blockLimit())
	if err != nil {
		return block{}, nil, &Error{Kind: Corrupt, Offset: at, Detail: err.Error()}
	}
	part := buf[:blockHeader+b.size]
	return b, part, d.source.full(part[blockHeader:])
}

func contentMismatch(h *header) error {
	return &Error{Kind: ContentSize, Offset: h.contentAt, Detail: fmt.Sprintf("the header says %d bytes", h.content)}
}

// feedPieces is how many blocks are read ahead of a stream.
const feedPieces = 10

// ring is the memory of the pieces of a feed, used in rotation: when one comes
// round again, those behind it have been taken from the channel and used up.
type ring struct {
	pieces [feedPieces][]byte
	i      int
}

func (r *ring) next() []byte {
	r.i = (r.i + 1) % feedPieces
	if r.pieces[r.i] == nil {
		r.pieces[r.i] = make([]byte, blockHeader+maxBlock)
	}
	return r.pieces[r.i]
}
