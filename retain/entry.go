package retain

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Type is the kind of a file, as records name it.
type Type string

const (
	TypeFile        Type = "file"
	TypeDirectory   Type = "directory"
	TypeSymlink     Type = "symlink"
	TypeFIFO        Type = "fifo"
	TypeCharDevice  Type = "char_device"
	TypeBlockDevice Type = "block_device"
	TypeSocket      Type = "socket"
	TypeHardLink    Type = "hard_link" // a further name of a file that came before
)

func typeOf(mode uint32) Type {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return TypeDirectory
	case unix.S_IFLNK:
		return TypeSymlink
	case unix.S_IFIFO:
		return TypeFIFO
	case unix.S_IFCHR:
		return TypeCharDevice
	case unix.S_IFBLK:
		return TypeBlockDevice
	case unix.S_IFSOCK:
		return TypeSocket
	}
	return TypeFile
}

// Path is an absolute path as the machine sees it, any bytes. As text and in
// JSON, control characters, backslashes and bytes that are no UTF-8 are written
// as \n, \t, \r, \\ and \xHH, as a retention list takes them.
type Path string

func (p Path) String() string {
	var b strings.Builder
	for rest := string(p); rest != ""; {
		r, n := utf8.DecodeRuneInString(rest)
		switch c := rest[0]; {
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\\':
			b.WriteString(`\\`)
		case c < ' ', c == 0x7f, r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteString(rest[:n])
		}
		rest = rest[n:]
	}
	return b.String()
}

// MarshalText never fails.
func (p Path) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText takes what MarshalText wrote; a bad escape is an error.
func (p *Path) UnmarshalText(text []byte) error {
	var b []byte
	for rest := string(text); rest != ""; {
		if rest[0] != '\\' {
			b = append(b, rest[0])
			rest = rest[1:]
			continue
		}
		c, n, err := unescape(rest)
		if err != nil {
			return fmt.Errorf("parse path %q: %w", text, err)
		}
		b = append(b, c)
		rest = rest[n:]
	}
	*p = Path(b)
	return nil
}

// Octal is a file mode's twelve bits: permissions, setuid, setgid, sticky.
type Octal uint32

func (o Octal) String() string { return fmt.Sprintf("%04o", uint32(o)) }

// MarshalText never fails.
func (o Octal) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText takes an octal number.
func (o *Octal) UnmarshalText(text []byte) error {
	var v uint32
	if _, err := fmt.Sscanf(string(text), "%o", &v); err != nil {
		return fmt.Errorf("parse mode %q: %w", text, err)
	}
	*o = Octal(v)
	return nil
}

// Record is what is told of one file. Group and Owner are "name(number)" as the
// old system had them, the name empty where it had none.
type Record struct {
	Path   Path   `json:"path"`
	Type   Type   `json:"type"`
	Bytes  int64  `json:"bytes"`
	Mode   Octal  `json:"mode"`
	Owner  string `json:"old_owner"`
	Group  string `json:"old_group"`
	SHA256 string `json:"sha256,omitempty"`      // of a file's content, hexadecimal
	Link   Path   `json:"link_target,omitempty"` // of a symbolic or hard link
	// HoleBytes of Bytes are in holes. Then SHA256 is that of the rest, as hashing
	// the holes of a huge file would take hours.
	HoleBytes int64 `json:"hole_bytes,omitempty"`
}

func ownerText(name string, id int64) string { return name + "(" + strconv.FormatInt(id, 10) + ")" }

// absolute names a path beneath the root as the machine sees it.
func absolute(rel string) Path { return Path("/" + rel) }
