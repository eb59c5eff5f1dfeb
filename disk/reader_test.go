package disk

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"
)

// What a Reader delivers is what ReadAt does, at every size around that of its pieces.
func TestReader(t *testing.T) {
	content := make([]byte, 2*readerPiece+8192)
	for i := range content {
		content[i] = byte(i>>12 ^ i)
	}
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, n := range []int64{0, 1, 511, 512, 513, readerPiece - 1, readerPiece, readerPiece + 1, 2*readerPiece + 1} {
		r := d.Reader(4096, n)
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, content[4096:4096+n]) {
			t.Errorf("%d bytes: got %d others, %v", n, len(got), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		r = d.Reader(4096, n)
		var into bytes.Buffer
		if written, err := r.(io.WriterTo).WriteTo(&into); err != nil || written != n || !bytes.Equal(into.Bytes(), content[4096:4096+n]) {
			t.Errorf("%d bytes: wrote %d others, %v", n, written, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	r := d.Reader(0, readerPiece+100)
	if err := iotest.TestReader(r, content[:readerPiece+100]); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	closed := d.Reader(0, 3*512)
	if err := closed.Close(); err != nil {
		t.Error(err)
	}
	if _, err := closed.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("Read after Close = %v; want an error", err)
	}
	behind := d.Reader(int64(len(content))-512, 1024)
	if _, err := io.ReadAll(behind); err == nil {
		t.Error("reading behind the end = nil; want an error")
	}
	if err := behind.Close(); err != nil {
		t.Error(err)
	}
}
