package image

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"reimager/image/bzip2"
	"reimager/report"
)

// Decoder turns a compressed image into the bytes of a disk. Close it to end its
// goroutines. An error names where in the compressed image it arose.
type Decoder struct {
	io.ReadCloser
	Format Format
}

// Chunk is the next piece of an image: Data, or a run of zeros that nobody has to
// hold in memory.
type Chunk struct {
	Data  []byte
	Zeros int64
}

// Next returns the next piece; its Data is valid until the next call. At the end
// the error is io.EOF itself.
func (d *Decoder) Next(buf []byte) (Chunk, error) {
	if b, ok := d.ReadCloser.(*bzip2.Reader); ok {
		c, err := b.Next()
		return Chunk(c), err
	}
	return readChunk(d.ReadCloser, buf)
}

// readChunk makes a chunk of what a reader delivers; data may come with its end.
func readChunk(r io.Reader, buf []byte) (Chunk, error) {
	for {
		n, err := r.Read(buf)
		if n > 0 && err == io.EOF {
			err = nil // it says so again
		}
		if n > 0 || err != nil {
			return Chunk{Data: buf[:n]}, err
		}
	}
}

// maxWindow bounds what a zstd image may ask for in memory: 64 MiB.
const maxWindow = 64 << 20

// Decode recognises the format of src and decodes it with as many workers as
// asked for, where the format allows. It reads src to its end, so that trailing
// garbage is found.
func Decode(src io.Reader, workers int) (*Decoder, error) {
	counted := &counter{r: src}
	buffered := bufio.NewReaderSize(counted, 256<<10)
	head, err := buffered.Peek(HeadBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read image: %w", err)
	}
	format, err := Detect(head)
	if err != nil {
		return nil, report.Hint(err, "is this the image of a whole disk?")
	}
	at := func() int64 { return counted.n - int64(buffered.Buffered()) }
	var r io.ReadCloser
	switch format {
	case Bzip2:
		r = bzip2.NewReader(buffered, bzip2.Options{Workers: workers})
	case Gzip:
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, fmt.Errorf("decode gzip: %w", err)
		}
		// Its Close holds nothing to close; it repeats the error of the last Read.
		r = &located{Reader: z, closer: func() error { return nil }, format: format, at: at}
	case XZ:
		ending := &xzEnding{r: buffered}
		z, err := xz.ReaderConfig{}.NewReader(ending)
		if err != nil {
			return nil, fmt.Errorf("decode xz: %w", err)
		}
		ending.z = z
		r = &located{Reader: ending.decoded(), closer: func() error { return nil }, format: format, at: at}
	case Zstd:
		z, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(max(1, workers)), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, fmt.Errorf("decode zstd: %w", err)
		}
		r = &located{Reader: z, closer: func() error { z.Close(); return nil }, format: format, at: at}
	default:
		r = io.NopCloser(buffered)
	}
	return &Decoder{ReadCloser: r, Format: format}, nil
}

// located says where in the compressed image a library's error arose.
type located struct {
	io.Reader
	closer func() error
	format Format
	at     func() int64
}

func (l *located) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("decode %s: near byte %d of the compressed image: %w", l.format, l.at(), err)
	}
	return n, err
}

func (l *located) Close() error { return l.closer() }

// xzEnding makes sure that an xz image ends as one. The library takes a file that
// was cut within a block's header for an empty stream and reports its end.
type xzEnding struct {
	r    io.Reader
	z    io.Reader
	last [2]byte // of the compressed image, stream padding left out
}

// Read passes the compressed image on and remembers how it ends.
func (x *xzEnding) Read(p []byte) (int, error) {
	n, err := x.r.Read(p)
	if end := bytes.TrimRight(p[:n], "\x00"); len(end) > 0 {
		if x.last[0] = x.last[1]; len(end) > 1 {
			x.last[0] = end[len(end)-2]
		}
		x.last[1] = end[len(end)-1]
	}
	return n, err
}

func (x *xzEnding) decoded() io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		n, err := x.z.Read(p)
		if err == io.EOF && string(x.last[:]) != "YZ" { // the footer's magic: xz file format 1.2.1, 2.1.2.4
			err = io.ErrUnexpectedEOF
		}
		return n, err
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// zeros is compared with, to find ranges that hold nothing.
var zeros [64 << 10]byte

// AllZero tells whether b holds only zeros.
func AllZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}
