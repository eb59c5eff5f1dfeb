package bzip2

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDecodeOrdinaryFiles(t *testing.T) {
	for _, test := range []struct {
		name  string
		data  []byte
		level int
	}{
		{"empty", nil, 9},
		{"one byte", []byte{7}, 9},
		{"one zero", []byte{0}, 9},
		{"prose 1", prose(350_000), 1},
		{"prose 2", prose(450_000), 2},
		{"prose 3", prose(650_000), 3},
		{"disk 4", diskLike(3_000_000), 4},
		{"disk 5", diskLike(3_000_001), 5},
		{"disk 6", diskLike(3_000_002), 6},
		{"noise 7", noise(1_500_000), 7},
		{"noise 8", noise(1_700_000), 8},
		{"disk 9", diskLike(9_000_000), 9},
		{"ab", bytes.Repeat([]byte("ab"), 600_000), 9},
		{"abc", bytes.Repeat([]byte("abc"), 40_000), 1},
		{"period of a page", bytes.Repeat(noise(4096), 300), 9},
		{"runs", runsOf(1200), 1},
		{"zeros", make([]byte, 10_000_000), 9},
		{"zeros across blocks", append(append(noise(899_000), make([]byte, 5000)...), noise(899_000)...), 9},
		{"zeros less than a page", append(append(noise(5), make([]byte, minZeros-1)...), 1), 9},
		{"zeros of a page", append(append(noise(5), make([]byte, minZeros)...), 1), 9},
		{"all bytes", bytes.Repeat(ascending(256), 5000), 9},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkDecodes(t, compress(t, test.data, test.level), test.data)
		})
	}
}

// TestGigabyteOfZeros decodes a file of 1 GiB of zeros, none of which may be
// materialised.
func TestGigabyteOfZeros(t *testing.T) {
	const streams, size = 16, 64 << 20
	file := bytes.Repeat(compressZeros(t, size), streams)
	r := NewReader(bytes.NewReader(file), Options{Workers: 2})
	defer r.Close()
	var total int64
	for {
		c, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if c.Zeros == 0 {
			t.Fatalf("%d bytes of data at %d; want only zeros", len(c.Data), total)
		}
		total += c.Zeros
	}
	if total != streams*size {
		t.Errorf("%d zeros; want %d", total, streams*size)
	}
}

// TestMemory decodes files that expand a lot or have many decoys, and counts
// all that is ever allocated.
func TestMemory(t *testing.T) {
	decoys, err := disguise(bytes.Repeat([]byte{0x31, 0x41, 0x59, 0x26, 0x53, 0x59}, 20_000), 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string][]byte{
		"runs":   bytes.Repeat(compress(t, bytes.Repeat([]byte("z"), 40<<20), 9), 5),
		"decoys": bytes.Repeat(encode(testStream{blocks: []testBlock{decoys}}), 20),
		"dense":  bytes.Repeat(compress(t, noise(3_000_000), 9), 5),
		"empty":  bytes.Repeat(encode(testStream{}), 300_000),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r := NewReader(bytes.NewReader(file), Options{Workers: 2})
		for err = nil; err == nil; {
			_, err = r.Next()
		}
		r.Close()
		runtime.ReadMemStats(&after)
		if err != io.EOF {
			t.Errorf("%s: %v", name, err)
		}
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(30<<20); got > limit {
			t.Errorf("%s: %d bytes allocated; want at most %d", name, got, limit)
		}
	}
}

// compressZeros returns n zeros as bzip2 writes them.
func compressZeros(t *testing.T, n int64) []byte {
	t.Helper()
	if _, err := exec.LookPath("bzip2"); err != nil {
		return compress(t, make([]byte, n), 9)
	}
	cmd := exec.Command("bzip2", "-c", "-9")
	cmd.Stdin = io.LimitReader(zeroReader{}, n)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestReadAndWriteTo(t *testing.T) {
	data := diskLike(2_500_000)
	file := compress(t, data, 9)
	t.Run("iotest", func(t *testing.T) {
		small := diskLike(60_000)
		r := NewReader(bytes.NewReader(compress(t, small, 9)), Options{Workers: 2})
		defer r.Close()
		if err := iotest.TestReader(r, small); err != nil {
			t.Error(err)
		}
	})
	t.Run("WriteTo", func(t *testing.T) {
		r := NewReader(bytes.NewReader(file), Options{Workers: 2})
		defer r.Close()
		sum := sha256.New()
		n, err := r.WriteTo(sum)
		if n != int64(len(data)) || err != nil {
			t.Fatalf("WriteTo = %d, %v; want %d, nil", n, err, len(data))
		}
		want := sha256.Sum256(data)
		if diff := cmp.Diff(want[:], sum.Sum(nil)); diff != "" {
			t.Errorf("digest (-want +got):\n%s", diff)
		}
	})
	t.Run("mixed", func(t *testing.T) {
		r := NewReader(bytes.NewReader(file), Options{Workers: 3})
		defer r.Close()
		var got bytes.Buffer
		for i := 0; ; i++ {
			if i%3 > 0 {
				p := make([]byte, 1+i*37%9000)
				n, err := r.Read(p)
				got.Write(p[:n])
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				continue
			}
			c, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got.Write(c.Data)
			got.Write(make([]byte, c.Zeros))
		}
		if !bytes.Equal(got.Bytes(), data) {
			t.Error(difference(got.Bytes(), data))
		}
	})
	t.Run("short write", func(t *testing.T) {
		r := NewReader(bytes.NewReader(file), Options{Workers: 2})
		defer r.Close()
		if _, err := r.WriteTo(iotest.TruncateWriter(io.Discard, 0)); err != nil {
			t.Fatalf("WriteTo a writer that pretends: %v", err)
		}
		r2 := NewReader(bytes.NewReader(file), Options{Workers: 2})
		defer r2.Close()
		if _, err := r2.WriteTo(shortWriter{}); err != io.ErrShortWrite {
			t.Errorf("WriteTo a short writer = %v; want io.ErrShortWrite", err)
		}
	})
}

type shortWriter struct{}

func (shortWriter) Write(p []byte) (int, error) { return len(p) - 1, nil }

func TestSources(t *testing.T) {
	data := diskLike(400_000)
	file := compress(t, data, 1)
	broken := errors.New("cable pulled")
	for _, test := range []struct {
		name string
		src  io.Reader
		want error
	}{
		{"one byte", iotest.OneByteReader(bytes.NewReader(file)), io.EOF},
		{"half", iotest.HalfReader(bytes.NewReader(file)), io.EOF},
		{"data and error", iotest.DataErrReader(bytes.NewReader(file)), io.EOF},
		{"timeout", iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(file))), iotest.ErrTimeout},
		{"error at once", iotest.ErrReader(broken), broken},
		{"error later", io.MultiReader(bytes.NewReader(file[:len(file)/2]), iotest.ErrReader(broken)), broken},
		{"error at the end", io.MultiReader(bytes.NewReader(file), iotest.ErrReader(broken)), broken},
		{"unexpected end", io.MultiReader(bytes.NewReader(file[:len(file)/2]), iotest.ErrReader(io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF},
		{"stalled", io.MultiReader(bytes.NewReader(file[:100]), stalledReader{}), io.ErrNoProgress},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := decode(t, test.src, 2)
			if !errors.Is(err, test.want) {
				t.Fatalf("error %v; want %v", err, test.want)
			}
			if kind, _ := kindOf(err); kind != 0 {
				t.Errorf("error %v is a verdict on the file", err)
			}
			if !bytes.HasPrefix(data, got) || test.want == io.EOF && len(got) != len(data) {
				t.Error(difference(got, data))
			}
		})
	}
}

type stalledReader struct{}

func (stalledReader) Read([]byte) (int, error) { return 0, nil }

func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	file := compress(t, diskLike(6_000_000), 1)
	t.Run("unused", func(t *testing.T) {
		r := NewReader(bytes.NewReader(file), Options{})
		r.Close()
		r.Close()
		if _, err := r.Next(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("Next after Close = %v; want fs.ErrClosed", err)
		}
	})
	t.Run("midway", func(t *testing.T) {
		for chunks := range 40 {
			r := NewReader(bytes.NewReader(file), Options{Workers: 3})
			for range chunks {
				if _, err := r.Next(); err != nil {
					t.Fatal(err)
				}
			}
			r.Close()
			if _, err := r.Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("Read after Close = %v; want fs.ErrClosed", err)
			}
		}
	})
	t.Run("concurrently", func(t *testing.T) {
		for i := range 30 {
			r := NewReader(bytes.NewReader(file), Options{Workers: 2})
			closed := make(chan error)
			go func() {
				for range i * 100 {
					runtime.Gosched()
				}
				closed <- r.Close()
			}()
			if _, err := r.WriteTo(io.Discard); err != nil && !errors.Is(err, fs.ErrClosed) {
				t.Errorf("WriteTo while being closed = %v; want nil or fs.ErrClosed", err)
			}
			<-closed
		}
	})
	t.Run("waiting for the source", func(t *testing.T) {
		src, feed := io.Pipe()
		r := NewReader(src, Options{Workers: 2})
		result := make(chan error)
		go func() {
			_, err := r.Next()
			result <- err
		}()
		if _, err := feed.Write(file[:10]); err != nil {
			t.Fatal(err)
		}
		closed := make(chan error)
		go func() { closed <- r.Close() }()
		if err := <-result; !errors.Is(err, fs.ErrClosed) {
			t.Errorf("Next = %v; want fs.ErrClosed", err)
		}
		feed.Close() // Close waits for the source's Read
		<-closed
	})
	// Goroutines end a moment after what they signalled.
	for range 1000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(time.Millisecond)
	}
	stacks := make([]byte, 1<<16)
	stacks = stacks[:runtime.Stack(stacks, true)]
	t.Errorf("%d goroutines; want %d:\n%s", runtime.NumGoroutine(), before, strings.TrimSpace(string(stacks)))
}
