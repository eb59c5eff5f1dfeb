package scenario

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"

	"aead.dev/minisign"
)

// Sign signs a file as minisign does and returns the files of the signature and of
// the public key.
func Sign(dir, name string) (signature, key string, err error) {
	public, private, err := minisign.GenerateKey(nil)
	if err != nil {
		return "", "", err
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return "", "", err
	}
	r := minisign.NewReader(bytes.NewReader(content))
	if _, err := io.Copy(io.Discard, r); err != nil {
		return "", "", err
	}
	text, err := public.MarshalText()
	if err != nil {
		return "", "", err
	}
	signature, key = filepath.Join(dir, filepath.Base(name)+".minisig"), filepath.Join(dir, "fleet.pub")
	return signature, key, errors.Join(os.WriteFile(signature, r.Sign(private), 0o644), os.WriteFile(key, text, 0o644))
}
