package lifeboat

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"reimager/disk/simdisk"
	"reimager/image"
)

// A section whose digest is known is compared with it when it is read back, and is filled
// as well from a reader as by writes.
func TestKnownDigest(t *testing.T) {
	content := noise(9, 3*pieceBytes/2+100)
	for _, known := range []image.Digest{sha256.Sum256(content), {1, 2, 3}} {
		dev := simdisk.New(make([]byte, 16*mib)).Power().Device()
		l, err := NewLoader(dev, Berth{Off: mib, Bytes: 14 * mib, Where: "the berth"}, simRun)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.CreateKnown(Archive, 5, known); err == nil {
			t.Error("the digest of an encrypted section is known")
		}
		w, err := l.CreateKnown(Image, int64(len(content)), known)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, iotest.HalfReader(bytes.NewReader(content))); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{Kernel, Kernel2, Initrd, Initrd2} {
			if err := l.add(name, content[:700]); err != nil {
				t.Fatal(err)
			}
		}
		boat, err := l.Finish(t.Context(), fakeGRUB(t), nil, nil)
		if known != sha256.Sum256(content) {
			if err == nil || !strings.Contains(err.Error(), "expected 0102030000000000") {
				t.Errorf("Finish with another image = %v", err)
			}
			if _, err := Open(dev, mib, simRun); !errors.Is(err, ErrNoBoat) {
				t.Errorf("Open after that = %v; want no boat", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		in, err := boat.Reader(dev, Image)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(in); err != nil || !bytes.Equal(got, content) {
			t.Errorf("the image is not what boarded: %v", err)
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What a section was copied from is compared with what is read back.
func TestCopyIsCompared(t *testing.T) {
	content := noise(9, pieceBytes+100)
	dev := simdisk.New(make([]byte, 16*mib)).Power().Device()
	l, err := NewLoader(dev, Berth{Off: mib, Bytes: 14 * mib, Where: "the berth"}, simRun)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Copy(Image, bytes.NewReader(content), int64(len(content)), sha256.Sum256(content)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{Kernel, Kernel2, Initrd, Initrd2} {
		if err := l.add(name, content[:700]); err != nil {
			t.Fatal(err)
		}
	}
	image, _ := l.header.Section(Image)
	off := image.Off + pieceBytes + 50
	sector, err := dev.ReadSectors(off/512*512, 512)
	if err != nil {
		t.Fatal(err)
	}
	sector[off%512] ^= 1
	if err := dev.WriteAt(sector, off/512*512); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("byte %d of", off)
	if _, err := l.Finish(t.Context(), fakeGRUB(t), nil, nil); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Finish with another byte = %v; want an error with %q", err, want)
	}
	if _, err := Open(dev, mib, simRun); !errors.Is(err, ErrNoBoat) {
		t.Errorf("Open after that = %v; want no boat", err)
	}
}

func TestLoaderRefuses(t *testing.T) {
	d := simdisk.New(make([]byte, 4*mib)).Power()
	dev := d.Device()
	for _, b := range []Berth{{Off: 0, Bytes: mib}, {Off: mib, Bytes: 4 * mib}, {Off: mib, Bytes: 4096}, {Off: mib + 512, Bytes: mib}} {
		if _, err := NewLoader(dev, b, simRun); err == nil {
			t.Errorf("NewLoader(%+v) = nil; want an error", b)
		}
	}
	if d.Operations() > 0 {
		t.Errorf("%d operations before a berth was accepted", d.Operations())
	}
	load := func() *Loader {
		l, err := NewLoader(dev, Berth{Off: mib, Bytes: mib, Where: "the berth"}, simRun)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := load()
	if _, err := l.Create(Kernel, mib); err == nil || !strings.Contains(err.Error(), "983040 are left in the berth") {
		t.Errorf("Create of too much = %v", err)
	}
	w, err := l.Create(Kernel, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Create(Initrd, 1000); err == nil || !strings.Contains(err.Error(), "not complete") {
		t.Errorf("Create while another is open = %v", err)
	}
	if _, err := w.Write(make([]byte, 1001)); err == nil || !strings.Contains(err.Error(), "more than the 1000") {
		t.Errorf("Write of too much = %v", err)
	}
	if err := w.Close(); err == nil {
		t.Error("Close after too much = nil")
	}
	l = load()
	if w, err = l.Create(Kernel, 1000); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, io.LimitReader(zeroReader{}, 1001)); err == nil || !strings.Contains(err.Error(), "more than the 1000") {
		t.Errorf("Copy of too much = %v", err)
	}
	if err := w.Close(); err == nil {
		t.Error("Close after that = nil")
	}
	l = load()
	if w, err = l.Create(Kernel, 1000); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 999)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err == nil || !strings.Contains(err.Error(), "999 bytes, expected 1000") {
		t.Errorf("Close of too little = %v", err)
	}
	if err := w.Close(); err == nil {
		t.Error("second Close = nil")
	}
	if _, err := l.Finish(t.Context(), fakeGRUB(t), nil, nil); err == nil || !strings.Contains(err.Error(), "999 bytes") {
		t.Errorf("Finish of a section that is not complete = %v", err)
	}
	if _, err := load().Finish(t.Context(), fakeGRUB(t), nil, nil); err == nil || !strings.Contains(err.Error(), "no kernel") {
		t.Errorf("Finish without a kernel = %v", err)
	}
}

// A new loader takes an old boat away before it writes anything over it.
func TestLoaderTakesOldBoatAway(t *testing.T) {
	d, _ := berthed(t, noise(7, 10_000))
	if _, err := NewLoader(d.Device(), Berth{Off: mib, Bytes: 20 * mib}, simRun); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(d.Device(), mib, simRun); !errors.Is(err, ErrNoBoat) {
		t.Errorf("Open = %v; want ErrNoBoat", err)
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }
