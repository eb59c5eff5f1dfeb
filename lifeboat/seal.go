package lifeboat

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"reimager/image"
)

// A sealed block is what decides in a berth: magic, length, SHA-256, JSON, zeros. It has
// the size of a physical sector, so that a drive which rewrites such sectors whole can
// damage no other block, and a torn one is known by its digest.
const (
	blockBytes = 4096

	magicBytes  = 16
	sealLength  = magicBytes     // u32, little-endian: bytes of the text
	sealDigest  = sealLength + 4 // SHA-256 of the text
	sealText    = sealDigest + sha256.Size
	sealTextMax = blockBytes - sealText
)

// The magic of each kind of block.
const (
	headerMagic  = "reimager header\n"
	journalMagic = "reimager journal"
	keyMagic     = "reimager keyslot"
)

// errNoBlock says that there is no such block: what is there begins otherwise.
var errNoBlock = errors.New("there is none")

func seal(magic string, v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", kind(magic), err)
	}
	if len(text) > sealTextMax {
		return nil, fmt.Errorf("seal %s: %d bytes, expected at most %d", kind(magic), len(text), sealTextMax)
	}
	block := make([]byte, blockBytes)
	copy(block, magic)
	sealInto(block, text)
	return block, nil
}

func sealInto(block, text []byte) {
	binary.LittleEndian.PutUint32(block[sealLength:], uint32(len(text)))
	sum := sha256.Sum256(text)
	copy(block[sealDigest:], sum[:])
	clear(block[sealText+copy(block[sealText:], text):])
}

// unseal reads into v what seal has made a block of.
func unseal(magic string, block []byte, v any) error {
	if err := open(magic, block, v); err != nil {
		return fmt.Errorf("read %s: %w", kind(magic), err)
	}
	return nil
}

func open(magic string, block []byte, v any) error {
	if len(block) != blockBytes {
		return fmt.Errorf("%d bytes, expected %d", len(block), blockBytes)
	}
	if got := block[:magicBytes]; string(got) != magic {
		return fmt.Errorf("%w: it begins with %q, expected %q", errNoBlock, got, magic)
	}
	n := int64(binary.LittleEndian.Uint32(block[sealLength:]))
	if n > sealTextMax {
		return fmt.Errorf("%d bytes of text, expected at most %d", n, sealTextMax)
	}
	text := block[sealText:][:n]
	if got, want := block[sealDigest:sealText], sha256.Sum256(text); !bytes.Equal(got, want[:]) {
		return fmt.Errorf("SHA-256 %x, expected %x", want[:8], got[:8])
	}
	if !image.AllZero(block[sealText+n:]) {
		return errors.New("something follows its text")
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return errors.New("something follows its JSON")
	}
	return nil
}

// kind names a block by its magic.
func kind(magic string) string {
	switch magic {
	case headerMagic:
		return "header of the lifeboat"
	case journalMagic:
		return "journal of the lifeboat"
	}
	return "key slot of the lifeboat"
}
