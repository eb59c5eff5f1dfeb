// Package image is what is written: recognising and decoding a compressed disk
// image, the digests of its ranges, its signature. It knows no disk.
package image

import (
	"bytes"
	"fmt"
)

// Format is how an image is compressed, told by its first bytes and never by its name.
type Format string

// The formats.
const (
	Bzip2 Format = "bzip2"
	Gzip  Format = "gzip"
	XZ    Format = "xz"
	Zstd  Format = "zstd"
	Raw   Format = "raw"
)

// HeadBytes is how many of the first bytes Detect wants: a whole boot sector.
const HeadBytes = 512

// Detect tells the format of an image by its first HeadBytes (fewer if it is
// shorter). An uncompressed image has to begin with a boot sector (55 AA).
func Detect(head []byte) (Format, error) {
	switch {
	case len(head) >= 4 && bytes.HasPrefix(head, []byte("BZh")) && head[3] >= '1' && head[3] <= '9':
		return Bzip2, nil
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}): // RFC 1952
		return Gzip, nil
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return XZ, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}): // RFC 8878
		return Zstd, nil
	case len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}): // skippable frame
		return Zstd, nil
	case len(head) == 0:
		return "", fmt.Errorf("detect format: the image is empty")
	case len(head) >= 512 && head[510] == 0x55 && head[511] == 0xaa:
		return Raw, nil
	}
	return "", fmt.Errorf("detect format: begins with % x, expected bzip2, gzip, xz, zstd or a boot sector", head[:min(6, len(head))])
}
