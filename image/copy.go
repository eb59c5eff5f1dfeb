package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// CopyTo makes a directory with all files of a release, proving them as they are copied,
// and returns their names. Manifest and signature are the very bytes that were judged.
func (r *Release) CopyTo(dir string) (names []string, err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("copy release: %w", err)
	}
	all := []File{r.Manifest.Image.File, r.Manifest.Map}
	if r.Manifest.Kernel != nil {
		all = append(all, r.Manifest.Kernel.File)
	}
	if r.Manifest.Initrd != nil {
		all = append(all, r.Manifest.Initrd.File)
	}
	for _, f := range all {
		if err := r.copyFile(f, filepath.Join(dir, f.Name)); err != nil {
			return nil, fmt.Errorf("copy %s: %w", f.Name, err)
		}
		names = append(names, f.Name)
	}
	for name, text := range map[string][]byte{ManifestName: r.text, ManifestName + SignatureSuffix: r.signature} {
		if text == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return nil, fmt.Errorf("copy release: %w", err)
		}
		names = append(names, name)
	}
	return names, nil
}

func (r *Release) copyFile(f File, to string) error {
	in, err := r.Open(f)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return errors.Join(err, in.Close())
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, in.Close(), out.Close())
}
