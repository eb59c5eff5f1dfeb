package retain

import (
	"errors"
	"fmt"
	"io"
)

// CheckArchive reads an archive to its end and counts its files and directories. What
// Restore could not put back because of the archive itself is an error here.
func CheckArchive(archive io.Reader) (files int, err error) {
	in := newReader(archive)
	for {
		it, err := in.next()
		if err == io.EOF {
			return files, in.rest()
		}
		var conflict conflictError
		if errors.As(err, &conflict) {
			return files, fmt.Errorf("read retained archive: %s: %w", it.conflictPath(), err)
		}
		if err != nil {
			return files, err
		}
		files++
	}
}

// rest refuses what follows the end mark, but for the zeros that fill up tar's records.
func (r *reader) rest() error {
	buf := make([]byte, tarBlock)
	for {
		n, err := r.in.Read(buf)
		for _, b := range buf[:n] {
			if b != 0 {
				return fmt.Errorf("read retained archive: something follows its end mark at byte %d", r.at)
			}
		}
		r.at += int64(n)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read retained archive at byte %d: %w", r.at, err)
		}
	}
}
