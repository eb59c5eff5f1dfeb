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
// goroutines. A Read error names where in the compressed image it arose.
type Decoder struct {
	io.ReadCloser
	Format Format
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
		r = &located{Reader: z, closer: z.Close, format: format, at: at}
	case XZ:
		z, err := xz.ReaderConfig{}.NewReader(buffered)
		if err != nil {
			return nil, fmt.Errorf("decode xz: %w", err)
		}
		r = &located{Reader: z, closer: func() error { return nil }, format: format, at: at}
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
