package bzip2

import "fmt"

// Kind says in which way a file is not valid bzip2.
type Kind int

const (
	Empty           Kind = iota + 1 // no byte at all
	NotBzip2                        // the file does not begin with a stream header
	Truncated                       // the file ends inside a stream
	TrailingGarbage                 // bytes that are no stream follow a whole one
	Corrupt                         // a block that no encoder writes
	BlockChecksum                   // a block's content does not match its CRC
	StreamChecksum                  // the blocks' CRCs do not match the stream's
)

// String returns the kind in words, as they stand in an error.
func (k Kind) String() string {
	switch k {
	case Empty:
		return "file is empty"
	case NotBzip2:
		return "not a bzip2 file"
	case Truncated:
		return "file is truncated"
	case TrailingGarbage:
		return "trailing garbage"
	case Corrupt:
		return "corrupt block"
	case BlockChecksum:
		return "block checksum mismatch"
	case StreamChecksum:
		return "stream checksum mismatch"
	}
	return fmt.Sprintf("kind %d", int(k))
}

// Error is the verdict on a file that is not valid bzip2.
type Error struct {
	Kind Kind
	// Offset is a byte offset in the compressed file: where garbage begins,
	// where a truncated file ended, where the block or the stream footer lies
	// whose checksum is wrong, and the place at which a corrupt block ceased to
	// make sense.
	Offset int64
	Detail string // what was found, or empty
}

func (e *Error) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("decode bzip2 at byte %d: %v", e.Offset, e.Kind)
	}
	return fmt.Sprintf("decode bzip2 at byte %d: %v: %s", e.Offset, e.Kind, e.Detail)
}
