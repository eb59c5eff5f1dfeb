package image

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
)

// gzipReader decodes gzip (RFC 1952) member by member, so that what follows the last
// one is seen. The command gzip ignores zeros there without a word and anything else
// with a warning; it decodes a file up to where it is damaged, too. Here all of that
// is an error. A file that was cut between two members can't be told from a whole
// one, by nobody.
type gzipReader struct {
	in   *compressed
	z    *gzip.Reader
	open bool // a member has begun and not ended
	err  error
}

func newGzip(in *compressed) *gzipReader { return &gzipReader{in: in} }

func (g *gzipReader) Read(p []byte) (int, error) {
	for g.err == nil {
		if !g.open {
			if g.err = g.begin(); g.err != nil {
				break
			}
		}
		n, err := g.z.Read(p)
		switch {
		case err == io.EOF:
			g.open = false
		case err != nil:
			g.err = g.verdict(err)
		}
		if n > 0 || g.err != nil {
			return n, g.err
		}
	}
	return 0, g.err
}

// begin reads the header of the next member. At the end it returns io.EOF.
func (g *gzipReader) begin() error {
	const magic = "\x1f\x8b"
	at := g.in.offset()
	head, err := g.in.Peek(4)
	switch {
	case g.in.failed() != nil:
		return g.in.failed()
	case len(head) == 0 && err == io.EOF:
		return io.EOF
	case string(head[:min(len(head), 2)]) != magic[:min(len(head), 2)]:
		return wrong(Gzip, at, errGarbage)
	case len(head) < 4:
		return g.in.truncated(Gzip)
	case head[2] != 8:
		return wrong(Gzip, at+2, fmt.Errorf("unknown compression method %d", head[2]))
	case head[3]&0xe0 != 0: // "must give an error indication": RFC 1952, 2.3.1.2
		return wrong(Gzip, at+3, errors.New("reserved flag is set"))
	}
	if g.z == nil {
		g.z, err = gzip.NewReader(g.in)
	} else {
		err = g.z.Reset(g.in)
	}
	if err != nil {
		return g.verdict(err)
	}
	g.z.Multistream(false)
	g.open = true
	return nil
}

// verdict says what an error of the library means. It reads byte by byte, not more
// than it needs.
func (g *gzipReader) verdict(err error) error {
	switch {
	case g.in.failed() != nil:
		return g.in.failed()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return g.in.truncated(Gzip)
	case errors.Is(err, gzip.ErrChecksum):
		return wrong(Gzip, g.in.offset()-8, errors.New("checksum or length mismatch")) // the member's trailer
	}
	return near(Gzip, g.in.offset(), err)
}
