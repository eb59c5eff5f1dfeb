package zstd

import (
	"bytes"
	"runtime"
	"sync"
	"testing"
)

// Frames of all lengths, released in any order, keep what they hold.
func TestArena(t *testing.T) {
	const size = 1 << 16
	a := newArena(size)
	type held struct {
		r    *region
		want []byte
	}
	frames := make(chan held, 2)
	var workers sync.WaitGroup
	for k := range 3 {
		workers.Go(func() {
			for h := range frames {
				for range len(h.want) % (1 + 100*k) {
					runtime.Gosched()
				}
				if got := a.bytes(h.r); !bytes.Equal(got, h.want) {
					t.Errorf("region of %d bytes at %d has other content", len(h.want), h.r.start)
				}
				a.release(h.r)
			}
		})
	}
	for i := range 2000 {
		content := noise(uint64(i), 1+i*379%(size/4))
		if i%100 == 0 {
			content = noise(uint64(i), size)
		}
		r, err := a.begin()
		if err != nil {
			t.Fatal(err)
		}
		for rest := content; len(rest) > 0; {
			n := min(len(rest), 1000)
			buf, err := a.room(r, n)
			if err != nil {
				t.Fatal(err)
			}
			copy(buf, rest[:n])
			r.end += n
			rest = rest[n:]
		}
		frames <- held{r, content}
	}
	close(frames)
	workers.Wait()
	if n := len(a.live); n != 0 {
		t.Errorf("%d regions are left", n)
	}
	r, err := a.begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.room(r, size+1); err != errFull {
		t.Errorf("room for too much = %v; want %v", err, errFull)
	}
	a.stop()
	if _, err := a.room(r, 1); err != errStopped {
		t.Errorf("room after stop = %v; want %v", err, errStopped)
	}
	if err := a.close(); err != nil {
		t.Error(err)
	}
}
