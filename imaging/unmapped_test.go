package imaging

import (
	"os"
	"testing"

	"reimager/disk"
	"reimager/image"
)

// What zeroes or discards a large disk says so now and then: nobody else would know that
// it gets on.
func TestUnmappedMoves(t *testing.T) {
	for _, unmapped := range []Unmapped{Zero, Discard} {
		dev, _ := target(t, mib)
		if err := os.Truncate(dev.Path(), 200*mib); err != nil {
			t.Fatal(err)
		}
		large, err := disk.OpenFile(dev.Path())
		if err != nil {
			t.Fatal(err)
		}
		defer large.Close()
		b := random(1 << 20)
		m := mapOf(b, image.Extent{Bytes: 4096})
		moves := 0
		job := Job{Device: large, Source: &source{b: b}, Map: m, Unmapped: unmapped, Progress: func(n int64) {
			if n == 0 {
				moves++
			}
		}}
		if _, err := Write(t.Context(), job); err != nil {
			t.Fatal(err)
		}
		if moves < 200/64 {
			t.Errorf("%s: %d signs of life in 200 MiB; want one in each 64", unmapped, moves)
		}
	}
}
