package image

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"reimager/image/bzip2"
	"reimager/image/zstd"
	"reimager/report"
)

// Decoder turns a compressed image into the bytes of a disk. Close it to end its
// goroutines. An error names where in the compressed image it arose; an image that
// decodes to nothing is one.
type Decoder struct {
	Format Format

	in     *compressed
	r      io.Reader
	chunks func() (Chunk, error) // of a decoder that sets zeros apart, or nil
	closer io.Closer             // of a decoder with goroutines, or nil
	some   bool                  // there was content
}

// Chunk is the next piece of an image: Data, or a run of zeros that nobody has to
// hold in memory.
type Chunk struct {
	Data  []byte
	Zeros int64
}

// Next returns the next piece; its Data is valid until the next call. At the end
// the error is io.EOF itself.
func (d *Decoder) Next(buf []byte) (c Chunk, err error) {
	if d.chunks != nil {
		c, err = d.chunks()
	} else {
		c, err = readChunk(d.r, buf)
	}
	d.some = d.some || len(c.Data) > 0 || c.Zeros > 0
	return c, d.end(hinted(err))
}

// Read implements io.Reader.
func (d *Decoder) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	d.some = d.some || n > 0
	return n, d.end(hinted(err))
}

// end refuses the end of an image that has no content.
func (d *Decoder) end(err error) error {
	if err == io.EOF && !d.some {
		return wrong(d.Format, d.in.offset(), errors.New("it decodes to nothing"))
	}
	return err
}

// Close ends decoding.
func (d *Decoder) Close() error {
	if d.closer == nil {
		return nil
	}
	return d.closer.Close()
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

// maxWindow bounds what a zstd or xz image may ask for in memory: 64 MiB.
const maxWindow = 64 << 20

// Decode recognises the format of src and decodes it with as many workers as
// asked for, where the format allows. It reads src to its end, so that trailing
// garbage is found.
func Decode(src io.Reader, workers int) (*Decoder, error) { return decodeAs(src, workers, false) }

// DecodeMapped is Decode for an image of which each range is held against a map of
// SHA-256 before it is used. The weaker checksums inside zstd, a fifth of its
// decoding, are left to that.
func DecodeMapped(src io.Reader, workers int) (*Decoder, error) { return decodeAs(src, workers, true) }

func decodeAs(src io.Reader, workers int, mapped bool) (*Decoder, error) {
	in := newCompressed(src)
	head, err := in.Peek(HeadBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read image: %w", err)
	}
	format, err := Detect(head)
	if err != nil {
		return nil, report.Hint(err, "is this the image of a whole disk?")
	}
	d := &Decoder{Format: format, in: in}
	switch format {
	case Bzip2:
		b := bzip2.NewReader(in, bzip2.Options{Workers: workers})
		d.r, d.closer = b, b
		d.chunks = func() (Chunk, error) { c, err := b.Next(); return Chunk(c), err }
	case Zstd:
		z := zstd.NewReader(in, zstd.Options{Workers: workers, MaxWindow: maxWindow, NoChecksum: mapped})
		d.r, d.closer = z, z
		d.chunks = func() (Chunk, error) { c, err := z.Next(); return Chunk(c), err }
	case Gzip:
		d.r = newGzip(in)
	case XZ:
		d.r = newXZ(in)
	default:
		d.r = rawReader{in}
	}
	return d, nil
}

// hinted adds what the operator can do about an error.
func hinted(err error) error {
	var z *zstd.Error
	if errors.As(err, &z) && z.Kind == zstd.WindowTooLarge {
		return report.Hint(err, "compress it with zstd --long=26 or less, and without --ultra")
	}
	return err
}

// rawReader reads an image that isn't compressed. There is little that can be wrong
// with it: what has no frame can't be told from its garbage.
type rawReader struct{ in *compressed }

// sectorBytes is the smallest sector that a disk has.
const sectorBytes = 512

func (r rawReader) Read(p []byte) (int, error) {
	n, err := r.in.Read(p)
	switch at := r.in.offset(); {
	case r.in.failed() != nil && err != nil:
		err = r.in.failed()
	case err == io.EOF && at%sectorBytes != 0:
		err = wrong(Raw, at, fmt.Errorf("%w, or has trailing garbage: not a whole number of sectors of %d bytes", errTruncated, sectorBytes))
	}
	return n, err
}

// What may be wrong in any format.
var (
	errTruncated = errors.New("image is truncated")
	errGarbage   = errors.New("trailing garbage")
	errChecksum  = errors.New("checksum mismatch")
)

// decodeError is the verdict on an image.
type decodeError struct {
	format Format
	offset int64 // in the compressed image
	near   bool  // that is how far it was read; what is wrong lies before, and not far
	err    error
}

func (e *decodeError) Error() string {
	at := "at"
	if e.near {
		at = "near"
	}
	return fmt.Sprintf("decode %s %s byte %d: %v", e.format, at, e.offset, e.err)
}

func (e *decodeError) Unwrap() error { return e.err }

func wrong(format Format, offset int64, err error) error {
	return &decodeError{format: format, offset: offset, err: err}
}

func near(format Format, offset int64, err error) error {
	return &decodeError{format: format, offset: offset, near: true, err: err}
}

// compressed is a compressed image that knows how far it was read.
type compressed struct {
	*bufio.Reader
	src *counter
}

func newCompressed(r io.Reader) *compressed {
	src := &counter{r: r}
	return &compressed{Reader: bufio.NewReaderSize(src, 256<<10), src: src}
}

// offset returns where the next byte to be read lies.
func (c *compressed) offset() int64 { return c.src.n - int64(c.Buffered()) }

// ended tells whether all has been read, and the end been met.
func (c *compressed) ended() bool { return c.src.err == io.EOF && c.Buffered() == 0 }

// failed returns the error of the source, if it isn't its end: io.ErrUnexpectedEOF,
// too, is one there.
func (c *compressed) failed() error {
	if c.src.err == nil || c.src.err == io.EOF {
		return nil
	}
	return fmt.Errorf("read compressed data at byte %d: %w", c.src.n, c.src.err)
}

// truncated is the verdict on an image that has ended too early.
func (c *compressed) truncated(format Format) error { return wrong(format, c.src.n, errTruncated) }

// counter counts what a reader delivers and keeps its error.
type counter struct {
	r   io.Reader
	n   int64
	err error
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if err != nil {
		c.err = err
	}
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
