package bzip2

import "testing"

func TestChecksum(t *testing.T) {
	rng := newRand(3)
	for range 200 {
		var sum checksum
		sum.reset()
		var all []byte
		for range rng.IntN(4) {
			p := noise(rng.IntN(5000))
			sum.write(p)
			n := rng.IntN(6000)
			sum.writeZeros(int64(n))
			all = append(append(all, p...), make([]byte, n)...)
		}
		if got, want := sum.value(), plainCRC(all); got != want {
			t.Fatalf("checksum of %d bytes = %#x; want %#x", len(all), got, want)
		}
	}
	var sum checksum
	sum.reset()
	sum.writeZeros(1 << 40)
	far := sum.value()
	sum.reset()
	for range 1 << 10 {
		sum.writeZeros(1 << 30)
	}
	if sum.value() != far {
		t.Errorf("checksum of 2^40 zeros = %#x; in 2^10 parts %#x", far, sum.value())
	}
}
