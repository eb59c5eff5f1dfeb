package lifeboat

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"reimager/disk"
	"reimager/image"
	"reimager/report"
)

// pieceBytes is what is written or read back at a time.
const pieceBytes = 4 << 20

// sectionWriter writes a section. While a piece is on its way to the disk, the next one
// is gathered, encrypted and digested in another buffer.
type sectionWriter struct {
	l       *Loader
	section Section
	cipher  cipher.Stream // nil: not secret
	sum     hash.Hash     // nil: the digest is known

	off      int64  // where buf goes
	left     int64  // bytes to come
	buf      []byte // of whole blocks
	n        int    // filled
	spare    []byte // the other buffer, which a write under way uses
	underway chan error
	err      error
}

func (l *Loader) newSection(s Section, known bool) (_ *sectionWriter, err error) {
	w := &sectionWriter{l: l, section: s, off: s.Off, left: s.Bytes}
	if !known {
		w.sum = sha256.New()
	}
	if secret(s.Name) {
		if w.cipher, err = stream(l.key); err != nil {
			return nil, err
		}
	}
	size := int(min(pieceBytes, blocks(s.Bytes)))
	if w.buf, err = disk.Buffer(size); err != nil {
		return nil, err
	}
	if s.Bytes > pieceBytes {
		if w.spare, err = disk.Buffer(size); err != nil {
			return nil, errors.Join(err, disk.FreeBuffer(w.buf))
		}
	}
	return w, nil
}

func (w *sectionWriter) Write(p []byte) (int, error) {
	if w.err == nil && int64(len(p)) > w.left {
		w.err = fmt.Errorf("write section %s of the lifeboat: more than the %d bytes that were announced", w.section.Name, w.section.Bytes)
	}
	written := 0
	for len(p) > 0 && w.err == nil {
		n := copy(w.buf[w.n:], p)
		p, written = p[n:], written+n
		w.n, w.left = w.n+n, w.left-int64(n)
		if w.n == len(w.buf) {
			w.err = w.send()
		}
	}
	return written, w.err
}

// ReadFrom reads straight to where the disk is written from.
func (w *sectionWriter) ReadFrom(r io.Reader) (total int64, err error) {
	for w.err == nil && w.left > 0 {
		n, err := r.Read(w.buf[w.n:][:min(int64(len(w.buf)-w.n), w.left)])
		w.n, w.left, total = w.n+n, w.left-int64(n), total+int64(n)
		if w.n == len(w.buf) {
			w.err = w.send()
		}
		if err == io.EOF {
			return total, w.err // Close tells what is missing
		}
		if err != nil {
			return total, err
		}
	}
	if w.err != nil {
		return total, w.err
	}
	// Nothing may follow, and only reading tells.
	n, err := io.Copy(pieces(func(p []byte) error { _, err := w.Write(p); return err }), r)
	return total + n, err
}

// send gives what is gathered to the disk, padded with zeros to whole blocks.
func (w *sectionWriter) send() error {
	data := w.buf[:w.n]
	if w.cipher != nil {
		w.cipher.XORKeyStream(data, data)
	}
	if w.sum != nil {
		w.sum.Write(data)
	}
	padded := w.buf[:blocks(int64(w.n))]
	clear(padded[w.n:])
	if err := w.wait(); err != nil {
		return err
	}
	off := w.off
	w.off, w.n = w.off+int64(len(padded)), 0
	if w.spare == nil { // there is only this one
		return w.l.write(padded, off)
	}
	w.underway = make(chan error, 1)
	go func(done chan<- error) { done <- w.l.write(padded, off) }(w.underway)
	w.buf, w.spare = w.spare, w.buf
	return nil
}

func (w *sectionWriter) wait() error {
	if w.underway == nil {
		return nil
	}
	err := <-w.underway
	w.underway = nil
	return err
}

// Close writes the rest. Only then is the section one of the boat's.
func (w *sectionWriter) Close() error {
	if w.l == nil {
		return errors.New("close section of the lifeboat: closed already")
	}
	err := w.err
	if err == nil && w.left > 0 {
		err = fmt.Errorf("write section %s of the lifeboat: %d bytes, expected %d", w.section.Name, w.section.Bytes-w.left, w.section.Bytes)
	}
	if err == nil && w.n > 0 {
		err = w.send()
	}
	err = errors.Join(err, w.wait())
	for _, buf := range [][]byte{w.buf, w.spare} {
		if buf != nil {
			err = errors.Join(err, disk.FreeBuffer(buf))
		}
	}
	if w.sum != nil {
		w.sum.Sum(w.section.SHA256[:0])
	}
	w.l.closed(w.section, err)
	w.l, w.err = nil, errors.New("write section of the lifeboat: closed")
	return err
}

// verify reads a section past the page cache and compares its digest.
func verify(ctx context.Context, dev *disk.Device, s Section, progress func(bytes int64)) error {
	sum := sha256.New()
	err := readBack(ctx, dev, s, progress, func(p []byte) error {
		sum.Write(p)
		return nil
	})
	if got := image.Digest(sum.Sum(nil)); err == nil && got != s.SHA256 {
		err = report.Hint(fmt.Errorf("read back section %s of the lifeboat: SHA-256 %x, expected %x", s.Name, got[:8], s.SHA256[:8]), notAsWritten)
	}
	return err
}

// compare reads a section past the page cache and compares it with what it was made of.
func compare(ctx context.Context, dev *disk.Device, s Section, with io.ReaderAt, progress func(bytes int64)) error {
	want, at := make([]byte, 1<<20), int64(0)
	return readBack(ctx, dev, s, progress, func(p []byte) error {
		for len(p) > 0 {
			n, err := with.ReadAt(want[:min(len(p), len(want))], at)
			if n == 0 {
				return fmt.Errorf("read section %s once more where it came from: %w", s.Name, err)
			}
			if !bytes.Equal(p[:n], want[:n]) {
				first := 0
				for p[first] == want[first] {
					first++
				}
				return report.Hint(fmt.Errorf("read back section %s of the lifeboat: byte %d of %s is not what was written", s.Name, s.Off+at+int64(first), dev.Path()), notAsWritten)
			}
			p, at = p[n:], at+int64(n)
		}
		return nil
	})
}

const notAsWritten = "what the disk returns is not what was written: look after the disk, its cable and the machine's memory"

// readBack hands over a section, read past the page cache.
func readBack(ctx context.Context, dev *disk.Device, s Section, progress func(bytes int64), take func(p []byte) error) (err error) {
	r := dev.Reader(s.Off, s.Bytes)
	defer func() { err = errors.Join(err, r.Close()) }()
	_, err = io.Copy(pieces(func(p []byte) error {
		if err := errors.Join(ctx.Err(), take(p)); err != nil {
			return err
		}
		if progress != nil {
			progress(int64(len(p)))
		}
		return nil
	}), r)
	var bad *disk.SectorError
	if errors.As(err, &bad) {
		err = fmt.Errorf("read back section %s of the lifeboat: %w", s.Name, err)
	}
	return err
}

// pieces is an io.Writer that calls a function.
type pieces func(p []byte) error

func (f pieces) Write(p []byte) (int, error) { return len(p), f(p) }
