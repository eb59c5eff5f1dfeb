package zstd

import (
	"bufio"
	"fmt"
	"io"
)

const (
	sourceBuffer = 256 << 10
	maxStalls    = 100 // reads of a source that return nothing before it is given up
)

// source is the compressed file. It belongs to the walk.
type source struct {
	watched *watched
	r       *bufio.Reader
	offset  int64 // of the next byte
}

func newSource(r io.Reader) *source {
	w := &watched{r: r}
	return &source{watched: w, r: bufio.NewReaderSize(w, sourceBuffer)}
}

// watched keeps the error of a reader, so that it is not taken for the end of the
// file: it may be io.ErrUnexpectedEOF, too.
type watched struct {
	r   io.Reader
	err error
}

func (w *watched) Read(p []byte) (n int, err error) {
	for stalls := 0; n == 0 && err == nil; stalls++ {
		if stalls == maxStalls {
			err = io.ErrNoProgress
			break
		}
		n, err = w.r.Read(p)
	}
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}

// read fills p and returns fewer bytes, without an error, at the end of the file.
func (s *source) read(p []byte) (int, error) {
	n, err := io.ReadFull(s.r, p)
	s.offset += int64(n)
	return n, s.failure(err)
}

// full fills p; the end of the file is an error.
func (s *source) full(p []byte) error {
	n, err := s.read(p)
	if err == nil && n < len(p) {
		err = s.truncated()
	}
	return err
}

// skip passes over bytes that nobody wants.
func (s *source) skip(n int64) error {
	skipped, err := io.CopyN(io.Discard, s.r, n)
	s.offset += skipped
	if err := s.failure(err); err != nil {
		return err
	}
	if skipped < n {
		return s.truncated()
	}
	return nil
}

// failure returns the reader's own error, if that is why there were too few bytes.
func (s *source) failure(err error) error {
	switch {
	case err == nil:
		return nil
	case s.watched.err != nil:
		err = s.watched.err
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return nil
	}
	return fmt.Errorf("read compressed data at byte %d: %w", s.offset, err)
}

func (s *source) truncated() error { return &Error{Kind: Truncated, Offset: s.offset} }
