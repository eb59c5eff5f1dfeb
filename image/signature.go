package image

import (
	"fmt"
	"io"
	"strings"

	"aead.dev/minisign"
)

// SignatureSuffix is appended to the name of an image for its signature, as minisign does.
const SignatureSuffix = ".minisig"

// Key is a minisign public key that images may be signed by.
type Key struct {
	Name string // file name, for messages
	key  minisign.PublicKey
}

// ID returns the key's id as minisign prints it.
func (k Key) ID() string { return fmt.Sprintf("%016X", k.key.ID()) }

// ParseKey reads a minisign public key file: an untrusted comment and a line of
// base64, or that line alone.
func ParseKey(name string, text []byte) (Key, error) {
	k := Key{Name: name}
	if err := k.key.UnmarshalText(text); err != nil {
		return Key{}, fmt.Errorf("parse key %s: %w", name, err)
	}
	return k, nil
}

// SignatureCheck digests an image while it is read and then judges its signature.
type SignatureCheck struct{ r *minisign.Reader }

// NewSignatureCheck wraps the compressed image.
func NewSignatureCheck(r io.Reader) *SignatureCheck { return &SignatureCheck{minisign.NewReader(r)} }

// Read passes the image through.
func (c *SignatureCheck) Read(p []byte) (int, error) { return c.r.Read(p) }

// By returns the key that made the signature over what was read. Only prehashed
// signatures (algorithm "ED") count, as minisign has made them since 0.10.
func (c *SignatureCheck) By(keys []Key, signature []byte) (Key, error) {
	var s minisign.Signature
	if err := s.UnmarshalText(signature); err != nil {
		return Key{}, fmt.Errorf("parse signature: %w", err)
	}
	if s.Algorithm != minisign.HashEdDSA {
		return Key{}, fmt.Errorf("signature is not prehashed, expected algorithm ED (sign with minisign -S -H)")
	}
	var ids []string
	for _, k := range keys {
		if k.key.ID() == s.KeyID {
			if c.r.Verify(k.key, signature) {
				return k, nil
			}
			return Key{}, fmt.Errorf("signature by key %s does not fit the image: the image is not the one that was signed", k.ID())
		}
		ids = append(ids, k.ID())
	}
	return Key{}, fmt.Errorf("signature by key %016X, expected one of the trusted keys: %s", s.KeyID, strings.Join(ids, ", "))
}
