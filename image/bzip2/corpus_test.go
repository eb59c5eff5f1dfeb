package bzip2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	dsnet "github.com/dsnet/compress/bzip2"
)

// compress runs the command bzip2 on data, or dsnet's writer if there is none.
func compress(t testing.TB, data []byte, level int) []byte {
	t.Helper()
	if _, err := exec.LookPath("bzip2"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("the command bzip2 is needed in CI: install the package bzip2")
		}
		return dsnetCompress(t, data, level)
	}
	cmd := exec.Command("bzip2", "-c", fmt.Sprintf("-%d", level))
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func dsnetCompress(t testing.TB, data []byte, level int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := dsnet.NewWriter(&out, &dsnet.WriterConfig{Level: level})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// dsnetDecode returns what dsnet makes of a file.
func dsnetDecode(p []byte) ([]byte, error) {
	r, err := dsnet.NewReader(bytes.NewReader(p), nil)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// decode returns all chunks of a file, joined, and checks that they are as they
// are promised to be.
func decode(t testing.TB, src io.Reader, workers int) ([]byte, error) {
	t.Helper()
	r := NewReader(src, Options{Workers: workers})
	defer r.Close()
	var out bytes.Buffer
	zeros, afterZeros := 0, false
	for {
		c, err := r.Next()
		if err != nil {
			_, again := r.Next()
			if again != err {
				t.Errorf("error after the error = %v; want %v", again, err)
			}
			return out.Bytes(), err
		}
		if (len(c.Data) > 0) == (c.Zeros > 0) {
			t.Fatalf("chunk has %d bytes of data and %d zeros", len(c.Data), c.Zeros)
		}
		if c.Zeros > 0 {
			if c.Zeros < minZeros || afterZeros {
				t.Errorf("chunk of %d zeros, behind another: %v", c.Zeros, afterZeros)
			}
			if c.Zeros > 1<<30 {
				t.Fatalf("chunk of %d zeros", c.Zeros)
			}
			out.Write(make([]byte, c.Zeros))
			zeros, afterZeros = 0, c.Zeros < maxZeros
			continue
		}
		afterZeros = false
		for _, b := range c.Data {
			if zeros++; b != 0 {
				zeros = 0
			}
			// A few zeros at either end of a block may be data.
			if zeros > minZeros+8 {
				t.Fatalf("data has a run of %d zeros", zeros)
			}
		}
		out.Write(c.Data)
	}
}

func checkDecodes(t testing.TB, file, want []byte) {
	t.Helper()
	for _, workers := range []int{1, 2, 4} {
		got, err := decode(t, bytes.NewReader(file), workers)
		if err != io.EOF {
			t.Fatalf("decode with %d workers: error %v; want io.EOF", workers, err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("decode with %d workers: %s", workers, difference(got, want))
		}
	}
}

func difference(got, want []byte) string {
	n := 0
	for n < min(len(got), len(want)) && got[n] == want[n] {
		n++
	}
	return fmt.Sprintf("%d bytes; want %d; first difference at %d", len(got), len(want), n)
}

// kindOf returns the Kind and offset of an *Error, or zeros.
func kindOf(err error) (Kind, int64) {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind, e.Offset
	}
	return 0, 0
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

func noise(n int) []byte {
	rng := newRand(uint64(n))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}

// prose returns text with the statistics of a language: words from a list.
func prose(n int) []byte {
	rng := newRand(uint64(n))
	words := strings.Fields(`the of and a to in is was he for it with as his on be at by had not
		are but from or have an they which one you were all her she there would their we him been
		disk sector block release machine kernel initrd image manifest signature lifeboat`)
	var b bytes.Buffer
	for b.Len() < n {
		b.WriteString(words[rng.IntN(1+rng.IntN(len(words)))])
		b.WriteByte(" \n"[rng.IntN(10)/9])
	}
	return b.Bytes()[:n]
}

// diskLike returns stretches of text, noise and zeros of all lengths.
func diskLike(n int) []byte {
	rng := newRand(uint64(n))
	p := make([]byte, 0, n)
	for len(p) < n {
		size := 1 << rng.IntN(18)
		size += rng.IntN(size)
		switch rng.IntN(4) {
		case 0:
			p = append(p, noise(size)...)
		case 1:
			p = append(p, prose(size)...)
		default:
			p = append(p, make([]byte, 2*size)...)
		}
	}
	return p[:n]
}

// runsOf returns runs of each length up to n, of bytes that alternate.
func runsOf(n int) []byte {
	var p []byte
	for i := range n {
		p = append(p, bytes.Repeat([]byte{byte(i&1) * 'x'}, i)...)
	}
	return p
}
