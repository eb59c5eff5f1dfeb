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
const pieceBytes = 2 << 20

// sectionWriter writes a section. While a piece is encrypted, digested and written, the
// next one is gathered in another buffer.
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
	padded := w.buf[:blocks(int64(w.n))]
	clear(padded[w.n:])
	data, off := padded[:w.n], w.off
	if err := w.wait(); err != nil {
		return err
	}
	w.off, w.n = off+int64(len(padded)), 0
	if w.spare == nil { // there is only this one
		return w.put(data, padded, off)
	}
	w.underway = make(chan error, 1)
	go func(done chan<- error) { done <- w.put(data, padded, off) }(w.underway)
	w.buf, w.spare = w.spare, w.buf
	return nil
}

// put encrypts a piece, and computes its digest while the disk writes it.
func (w *sectionWriter) put(data, padded []byte, off int64) error {
	if w.cipher != nil {
		w.cipher.XORKeyStream(data, data)
	}
	written := make(chan error, 1)
	go func() { written <- w.l.write(padded, off) }()
	if w.sum != nil {
		w.sum.Write(data)
	}
	return <-written
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

// readBack reads sections, which lie one behind the other, past the page cache in one go,
// and compares each with what it was made of, or where from lacks that with its digest.
// progress is told how many bytes were read; it may be nil.
func readBack(ctx context.Context, dev *disk.Device, all []Section, from map[string]io.ReaderAt, progress func(bytes int64)) (err error) {
	if len(all) == 0 {
		return nil
	}
	whole, off := all, all[0].Off
	r := dev.Reader(off, all[len(all)-1].extent().End()-off)
	defer func() { err = errors.Join(err, r.Close()) }()
	now := proofOf(all[0], from)
	_, err = io.Copy(pieces(func(p []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		for len(p) > 0 {
			s := all[0]
			within := p[:min(int64(len(p)), max(0, s.Off+s.Bytes-off))]
			if err := now.take(within, dev); err != nil {
				return err
			}
			if progress != nil {
				progress(int64(len(within)))
			}
			n := min(int64(len(p)), s.extent().End()-off) // with what pads it
			p, off = p[n:], off+n
			if off < s.extent().End() {
				continue
			}
			if err := now.end(); err != nil {
				return err
			}
			if all = all[1:]; len(all) > 0 {
				now = proofOf(all[0], from)
			}
		}
		return nil
	}), r)
	var bad *disk.SectorError
	if !errors.As(err, &bad) {
		return err
	}
	for _, s := range whole {
		if bad.Sector*int64(dev.SectorSize()) < s.extent().End() {
			return fmt.Errorf("read back section %s of the lifeboat: %w", s.Name, err)
		}
	}
	return err
}

// proof is what a section that is read back is held to.
type proof struct {
	Section
	from io.ReaderAt // what it was made of
	want []byte      // a piece of that
	at   int64       // so far
	sum  hash.Hash   // instead
}

func proofOf(s Section, from map[string]io.ReaderAt) *proof {
	if f := from[s.Name]; f != nil {
		return &proof{Section: s, from: f, want: make([]byte, 1<<20)}
	}
	return &proof{Section: s, sum: sha256.New()}
}

func (f *proof) take(p []byte, dev *disk.Device) error {
	if f.sum != nil {
		f.sum.Write(p)
		return nil
	}
	for len(p) > 0 {
		n, err := f.from.ReadAt(f.want[:min(len(p), len(f.want))], f.at)
		if n == 0 {
			return fmt.Errorf("read section %s once more where it came from: %w", f.Name, err)
		}
		if !bytes.Equal(p[:n], f.want[:n]) {
			first := 0
			for p[first] == f.want[first] {
				first++
			}
			return f.wrong(fmt.Sprintf("byte %d of %s is not what was written", f.Off+f.at+int64(first), dev.Path()))
		}
		p, f.at = p[n:], f.at+int64(n)
	}
	return nil
}

func (f *proof) end() error {
	if f.sum == nil {
		return nil
	}
	if got := image.Digest(f.sum.Sum(nil)); got != f.SHA256 {
		return f.wrong(fmt.Sprintf("SHA-256 %x, expected %x", got[:8], f.SHA256[:8]))
	}
	return nil
}

func (f *proof) wrong(what string) error {
	return report.Hint(fmt.Errorf("read back section %s of the lifeboat: %s", f.Name, what),
		"the disk does not return what was written to it, or a file is not what was proven before: look after the disk, its cable and the machine's memory")
}

// pieces is an io.Writer that calls a function.
type pieces func(p []byte) error

func (f pieces) Write(p []byte) (int, error) { return len(p), f(p) }
