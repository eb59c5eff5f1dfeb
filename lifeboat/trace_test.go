package lifeboat

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"reimager/disk"
)

// step is a write or a flush that the kernel sent to a disk while files were put back.
type step struct {
	off   int64
	data  []byte
	flush bool // before it
	fua   bool // it is on the disk when it ends
}

// From drivers/md/dm-log-writes.c.
const (
	logMagic   = 0x6a736677736872
	logFlush   = 1 << 0
	logFUA     = 1 << 1
	logDiscard = 1 << 2
)

// recorded reads what testdata/restore/make.sh has recorded: the filesystem of the
// image, and what then came from the kernel.
func recorded(t testing.TB) (before []byte, steps []step) {
	t.Helper()
	before, log := unzipped(t, "before.gz"), unzipped(t, "log.gz")
	le := binary.LittleEndian
	if le.Uint64(log) != logMagic || le.Uint32(log[24:]) != 512 {
		t.Fatal("log.gz: no log of writes in sectors of 512 bytes")
	}
	at := log[512:]
	for range le.Uint64(log[16:]) {
		s := step{off: int64(le.Uint64(at)) * 512, flush: le.Uint64(at[16:])&logFlush != 0, fua: le.Uint64(at[16:])&logFUA != 0}
		n := le.Uint64(at[8:]) * 512
		if le.Uint64(at[16:])&logDiscard != 0 {
			t.Fatal("log.gz: discards are not expected")
		}
		s.data, at = at[512:][:n], at[512+n:]
		steps = append(steps, s)
	}
	after := bytes.Clone(before)
	for _, s := range steps {
		copy(after[s.off:], s.data)
	}
	sum := sha256.Sum256(after)
	want, err := os.ReadFile(filepath.Join("testdata", "restore", "after"))
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(sum[:]) != strings.TrimSpace(string(want)) {
		t.Fatal("the log does not lead to the filesystem that was there afterwards")
	}
	return before, steps
}

func unzipped(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "restore", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// replay puts the files back into the filesystem at an offset, as the kernel did.
func replay(dev *disk.Device, off int64, steps []step) error {
	for _, s := range steps {
		if s.flush {
			if err := dev.Flush(); err != nil {
				return err
			}
		}
		if len(s.data) == 0 {
			continue
		}
		if err := dev.WriteAt(s.data, off+s.off); err != nil {
			return err
		}
		if s.fua {
			if err := dev.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}
