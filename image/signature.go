package image

import (
	"bytes"
	"errors"
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

// By returns the key that made the signature over what was read.
func (c *SignatureCheck) By(keys []Key, signature []byte) (Key, error) {
	k, err := signer(keys, signature)
	if err != nil {
		return Key{}, err
	}
	if !c.r.Verify(k.key, signature) {
		return Key{}, fmt.Errorf("signature by key %s does not fit: this is not what was signed", k.ID())
	}
	return k, nil
}

// verifyText returns the key that made the signature over a text.
func verifyText(keys []Key, text, signature []byte) (Key, error) {
	c := NewSignatureCheck(bytes.NewReader(text))
	if _, err := io.Copy(io.Discard, c); err != nil {
		return Key{}, err
	}
	return c.By(keys, signature)
}

// signer returns the trusted key that a signature names. Only prehashed signatures
// (algorithm "ED") count, as minisign has made them since 0.10, and only as minisign
// writes them: lax base64 would let bits of a signature change unseen.
func signer(keys []Key, signature []byte) (Key, error) {
	var s minisign.Signature
	if err := s.UnmarshalText(signature); err != nil {
		return Key{}, fmt.Errorf("parse signature: %w", err)
	}
	if s.Algorithm != minisign.HashEdDSA {
		return Key{}, fmt.Errorf("signature is not prehashed, expected algorithm ED (sign with minisign -S -H)")
	}
	canonical, err := s.MarshalText()
	if err != nil {
		return Key{}, fmt.Errorf("parse signature: %w", err)
	}
	if _, is, _ := bytes.Cut(signature, []byte("\n")); !bytes.HasSuffix(canonical, append([]byte("\n"), withNewline(is)...)) {
		return Key{}, errors.New("parse signature: it is not written as minisign writes it")
	}
	var ids []string
	for _, k := range keys {
		if k.key.ID() == s.KeyID {
			return k, nil
		}
		ids = append(ids, k.ID())
	}
	return Key{}, fmt.Errorf("signature by key %016X, expected one of the trusted keys: %s", s.KeyID, strings.Join(ids, ", "))
}

// withNewline completes the last line; carriage returns come with copying by hand.
func withNewline(text []byte) []byte {
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	return append(bytes.TrimRight(text, "\n"), '\n')
}
