package bzip2

import (
	"bytes"
	"testing"
)

// columnOf returns the LF mapping of a column.
func columnOf(column []byte) (*[1 << 20]uint32, int) {
	var m moveToFront
	m.reset(nil)
	for i, b := range column {
		m.column[i] = m.rank[b]
		m.rank[b] += indexUnit
	}
	m.n = len(column)
	m.finish()
	return m.column, m.n
}

// plainInverse follows the mapping a byte at a time, forwards, as libbzip2 does.
func plainInverse(column []byte, origin uint32) []byte {
	smaller := [257]int{}
	for _, b := range column {
		smaller[int(b)+1]++
	}
	for b := range 256 {
		smaller[b+1] += smaller[b]
	}
	next := make([]int, len(column))
	for i, b := range column {
		next[smaller[b]] = i
		smaller[b]++
	}
	text := make([]byte, len(column))
	row := next[origin]
	for i := range text {
		text[i] = column[row]
		row = next[row]
	}
	return text
}

func TestInverseBWT(t *testing.T) {
	rng := newRand(1)
	var inverse inverseBWT
	check := func(name string, column []byte, origin uint32) {
		t.Helper()
		mapping, n := columnOf(column)
		got := inverse.decode(mapping, n, origin)
		if want := plainInverse(column, origin); !bytes.Equal(got, want) {
			t.Errorf("%s: %s", name, difference(got, want))
		}
	}
	for _, n := range []int{1, 2, 3, 31, 32, 33, 100, 1023, 1024, 1025, 5000, 60_001, maxText} {
		// Any column is the mapping of a permutation, be it of many cycles.
		check("noise", noise(n), uint32(rng.IntN(n)))
		check("few symbols", bytes.ReplaceAll(noise(n), []byte{0}, []byte{1}), 0)
		check("one symbol", make([]byte, n), uint32(n-1))
		check("ascending", ascending(n), uint32(n/2))
		check("two runs", append(bytes.Repeat([]byte{1}, n/2), make([]byte, n-n/2)...), uint32(n/3))
	}
	for _, text := range [][]byte{prose(30_000), bytes.Repeat([]byte("ab"), 2000), bytes.Repeat([]byte("abc"), 1111), runsOf(150)} {
		column, origin := sortRotations(text)
		check("text", column, origin)
		mapping, n := columnOf(column)
		if got := inverse.decode(mapping, n, origin); !bytes.Equal(got, text) {
			t.Errorf("inverse of a transform: %s", difference(got, text))
		}
	}
}

func BenchmarkInverseBWT(b *testing.B) {
	// Noise is a column in which the walk jumps as much as in that of a text.
	column := noise(maxText)
	mapping, n := columnOf(column)
	whole := *mapping
	var inverse inverseBWT
	b.SetBytes(int64(n))
	for b.Loop() {
		b.StopTimer()
		*mapping = whole
		b.StartTimer()
		inverse.decode(mapping, n, 0)
	}
}
