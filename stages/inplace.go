package stages

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"reimager/config"
	"reimager/disk"
	"reimager/wake"
)

// placed is a file on a filesystem that is not mounted any more, and where on the
// device its bytes lie.
type placed struct {
	source  config.Source
	at      place
	begin   []byte // of the file
	extents []disk.Extent
	fixed   error // why it cannot be overwritten in place; nil: it can
}

// lookAt reads the beginning of a file, at most n bytes, and where the file lies. Its
// filesystem is mounted for that, read-only.
func (r *Run) lookAt(ctx context.Context, p place, source config.Source, n int64) (*placed, error) {
	found := &placed{source: source, at: p}
	if err := r.mount(ctx, p, sourceDir, unix.MS_RDONLY); err != nil {
		return nil, err
	}
	err := openBeneath(sourceDir, source, func(f *os.File) error {
		found.begin = make([]byte, n)
		got, err := readUpTo(f, found.begin)
		if err != nil {
			return fmt.Errorf("read %s: %w", source, err)
		}
		found.begin = found.begin[:got]
		if !disk.InPlace(p.fs) {
			found.fixed = fmt.Errorf("files on %s cannot be overwritten in place", p)
			return nil
		}
		found.extents, found.fixed = disk.Extents(f)
		return nil
	})
	return found, errors.Join(err, wake.UnmountBelow(sourceDir))
}

// overwrite replaces the first blocks of the file where they lie, each after a look
// that it is the block it is taken for.
func (p *placed) overwrite(blockBytes int, blocks [][]byte, ours func(index int, block []byte) bool) error {
	if p.fixed != nil {
		return fmt.Errorf("overwrite %s: %w", p.source, p.fixed)
	}
	if err := disk.OverwriteExtents(p.at.part.Path, p.extents, blockBytes, blocks, ours); err != nil {
		return fmt.Errorf("overwrite %s: %w", p.source, err)
	}
	return nil
}
