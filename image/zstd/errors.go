package zstd

import "fmt"

// Kind says in which way a file is not valid, or not wanted.
type Kind int

const (
	Empty            Kind = iota + 1 // no byte at all
	NotZstd                          // the file does not begin with a frame
	Truncated                        // the file ends inside a frame
	TrailingGarbage                  // bytes that are no frame follow a whole one
	WindowTooLarge                   // a frame asks for more memory than allowed
	DictionaryNeeded                 // a frame was made with a dictionary
	Corrupt                          // a header or a block that no encoder writes
	ContentSize                      // the content is not as long as its header says
	Checksum                         // the content does not match its checksum
	NoContent                        // frames, but not a byte in them
)

// String returns the kind in words, as they stand in an error.
func (k Kind) String() string {
	switch k {
	case Empty:
		return "file is empty"
	case NotZstd:
		return "not a zstd file"
	case Truncated:
		return "file is truncated"
	case TrailingGarbage:
		return "trailing garbage"
	case WindowTooLarge:
		return "window is too large"
	case DictionaryNeeded:
		return "a dictionary is needed"
	case Corrupt:
		return "corrupt"
	case ContentSize:
		return "content size mismatch"
	case Checksum:
		return "checksum mismatch"
	case NoContent:
		return "file decodes to nothing"
	}
	return fmt.Sprintf("kind %d", int(k))
}

// Error is the verdict on a file that can't be decoded.
type Error struct {
	Kind Kind
	// Offset is a byte offset in the compressed file: where garbage begins, where
	// a truncated or an empty file ended, where the header's field, the block or
	// the checksum lies that is wrong.
	Offset int64
	Detail string // what was found, or empty
}

func (e *Error) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("decode zstd at byte %d: %v", e.Offset, e.Kind)
	}
	return fmt.Sprintf("decode zstd at byte %d: %v: %s", e.Offset, e.Kind, e.Detail)
}
