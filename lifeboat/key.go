package lifeboat

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"reimager/disk"
)

// keySize is that of AES-256.
const keySize = 32

// keySlot is what the key slot holds: the one place where the key is. With it the
// archive goes, whatever a drive keeps of overwritten sectors.
type keySlot struct {
	RunID string `json:"run_id"`
	Key   []byte `json:"key"`
}

func newKey() ([]byte, error) {
	key := make([]byte, keySize)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}

// stream is AES-256 in counter mode from zero: a key encrypts one section, once.
func stream(key []byte) (cipher.Stream, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewCTR(block, make([]byte, aes.BlockSize)), nil
}

func readKey(dev *disk.Device, b Berth, runID string) ([]byte, error) {
	block, err := dev.ReadSectors(b.Off+keyOff, blockBytes)
	if err != nil {
		return nil, err
	}
	var slot keySlot
	err = unseal(keyMagic, block, &slot)
	switch {
	case errors.Is(err, errNoBlock):
		return nil, errors.New("its key was erased")
	case err != nil:
		return nil, err
	case slot.RunID != runID || len(slot.Key) != keySize:
		return nil, fmt.Errorf("a key of %d bytes of run %q, expected %d of %q", len(slot.Key), slot.RunID, keySize, runID)
	}
	return slot.Key, nil
}

// readSection reads a section from the disk, decrypted with the key if it is secret.
func readSection(dev *disk.Device, s Section, key []byte) (io.ReadCloser, error) {
	r := dev.Reader(s.Off, s.Bytes)
	if !secret(s.Name) {
		return r, nil
	}
	plain, err := stream(key)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read section %s of the lifeboat: %w", s.Name, err), r.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{cipher.StreamReader{S: plain, R: r}, r}, nil
}
