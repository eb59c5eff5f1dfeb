package imaging

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"

	"reimager/disk"
	"reimager/image"
)

// Prove decodes a whole image, holds it against its map, and returns the map that it
// is to be written by: without a map one of all of it; for a map with ranges that are
// too large to be verified in memory the same one, in smaller ranges.
// An image of more than limit bytes is refused as soon as that is known.
func Prove(ctx context.Context, src image.Source, m *image.Map, limit int64, progress func(bytes int64)) (*image.Map, error) {
	if m != nil && m.Bytes > limit {
		return nil, fmt.Errorf("the image has %d bytes, expected at most %d", m.Bytes, limit)
	}
	pool, err := image.NewPool(Buffers, disk.Buffer)
	if err != nil {
		return nil, err
	}
	p := prover{want: m, limit: limit, progress: progress}
	layout := m
	if m != nil {
		layout = finer(m)
	}
	n, err := image.Each(ctx, src, layout, pool, p.inspect, func(part image.Range) error {
		p.recorder.Note(part)
		return nil
	})
	if err := errors.Join(err, pool.Release(disk.FreeBuffer)); err != nil {
		return nil, err
	}
	return p.recorder.Map(n), nil
}

// finer cuts the ranges of a map; the digests of the pieces are not known.
func finer(m *image.Map) *image.Map {
	f := &image.Map{Bytes: m.Bytes}
	for _, r := range m.Ranges {
		for off := r.Off; off < r.End(); off += image.RangeBytes {
			f.Ranges = append(f.Ranges, image.MapRange{Extent: image.Extent{Off: off, Bytes: min(image.RangeBytes, r.End()-off)}})
		}
	}
	return f
}

// prover digests the ranges of a map while they stream past in pieces.
type prover struct {
	want     *image.Map
	limit    int64
	recorder image.Recorder
	progress func(int64)

	next int // range under way
	sum  hash.Hash
	zero []byte
}

func (p *prover) inspect(part image.Range) error {
	if end := part.Off + int64(len(part.Data)); end > p.limit {
		return fmt.Errorf("the image has %d bytes or more, expected at most %d", end, p.limit)
	}
	if p.progress != nil {
		p.progress(int64(len(part.Data)))
	}
	if p.want == nil || part.Index < 0 {
		return nil
	}
	if p.sum == nil {
		p.sum = sha256.New()
	}
	data := part.Data
	if part.Zero {
		if p.zero == nil {
			p.zero = make([]byte, image.RangeBytes)
		}
		data = p.zero[:len(part.Data)]
	}
	p.sum.Write(data)
	want := p.want.Ranges[p.next]
	if part.Off+int64(len(part.Data)) < want.End() {
		return nil
	}
	var got image.Digest
	p.sum.Sum(got[:0])
	p.sum = nil
	p.next++
	if got != want.Digest {
		return fmt.Errorf("image range of %d bytes at byte %d: SHA-256 %x, expected %x", want.Bytes, want.Off, got[:8], want.Digest[:8])
	}
	return nil
}
