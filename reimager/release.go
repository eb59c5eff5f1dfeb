package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"reimager/boot"
	"reimager/config"
	"reimager/image"
	"reimager/initramfs"
	"reimager/initrd"
	"reimager/report"
)

// release is what a directory holds to replace a machine: a release of imagebuild
// pack, or kernel, initrd and image, each known by its content, whatever its name.
type release struct {
	kernel, initrd, image string // paths
	config                *config.Config
	packed                *packed // nil: three files without a manifest
}

// packed is what a manifest says; its signature is one that the initrd trusts.
type packed struct {
	dir      string
	manifest *image.Manifest
	signedBy *image.Key
}

// readRelease reads a directory. With keys it has to be a release that one of them has
// signed; without, one that its own initrd will take.
func readRelease(dir string, keys []image.Key) (*release, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("read release: %w", err)
	}
	defer root.Close()
	if image.IsRelease(root) {
		return readPacked(dir, root, keys)
	}
	if len(keys) > 0 {
		return nil, report.Hint(fmt.Errorf("read release %s: there is no %s in it, and a key was given", dir, image.ManifestName), "pack the three files with imagebuild pack")
	}
	return readFiles(dir)
}

// readPacked checks all of a release but its image, which newJob reads anyway.
func readPacked(dir string, root *os.Root, given []image.Key) (*release, error) {
	// Without keys, those in the initrd count, for which the manifest vouches.
	opened, err := image.OpenRelease(root, image.Trust{Keys: given, Unsigned: len(given) == 0, Unchecked: true})
	if err != nil {
		return nil, err
	}
	m := opened.Manifest
	if m.Kernel == nil || m.Initrd == nil {
		return nil, report.Hint(fmt.Errorf("read release %s: there is no kernel and initrd in it", dir), "pack it with --kernel and --initrd")
	}
	r := &release{kernel: filepath.Join(dir, m.Kernel.Name), initrd: filepath.Join(dir, m.Initrd.Name), image: filepath.Join(dir, m.Image.Name)}
	for _, f := range []image.File{m.Kernel.File, m.Initrd.File} {
		if err := opened.Prove(f); err != nil {
			return nil, err
		}
	}
	keys, err := r.checkInitrd()
	if err != nil {
		return nil, err
	}
	if err := opened.Judge(image.Trust{Keys: keys, Unsigned: r.config.Trust.Signature == "if-present"}); err != nil {
		return nil, err
	}
	r.packed = &packed{dir: dir, manifest: m, signedBy: opened.SignedBy}
	return r, m.CheckCompatible(r.config.Machine.Compatible)
}

func readFiles(dir string) (*release, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read release: %w", err)
	}
	found := map[string][]string{}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		info, err := os.Stat(name)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		kind, err := classify(name)
		if err != nil {
			return nil, fmt.Errorf("read release: %w", err)
		}
		found[kind] = append(found[kind], name)
	}
	var all []error
	one := func(kind string) string {
		switch names := found[kind]; len(names) {
		case 1:
			return names[0]
		case 0:
			all = append(all, fmt.Errorf("read release %s: there is no %s in it", dir, kind))
		default:
			all = append(all, fmt.Errorf("read release %s: %d files are each %s: %s", dir, len(names), kind, strings.Join(names, ", ")))
		}
		return ""
	}
	r := &release{kernel: one("kernel"), initrd: one("initrd"), image: one("image")}
	if err := errors.Join(all...); err != nil {
		return nil, report.Hint(err, "the directory has to hold one kernel, one initrd of imagebuild, and one disk image")
	}
	_, err = r.checkInitrd()
	return r, err
}

// checkCopies makes sure that what boots is what the manifest names: the release may
// have been written to while its image was read.
func (r *release) checkCopies(kernel, initrd string) error {
	if r.packed == nil {
		return nil
	}
	m := r.packed.manifest
	for name, want := range map[string]image.Digest{kernel: m.Kernel.SHA256, initrd: m.Initrd.SHA256} {
		got, _, err := digest(name)
		if err == nil && got != want.String() {
			err = report.Hint(fmt.Errorf("check release: %s was copied with the SHA-256 %s, expected %s as in the manifest", name, got, want), "something writes to the release; arm again when it is through")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// classify tells by its content what a file is: kernel, initrd, image, or "" for
// anything else, such as a signature.
func classify(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if is, err := boot.IsKernel(f); err == nil && is {
		return "kernel", nil
	}
	head := make([]byte, image.HeadBytes)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	if initramfs.Is(f) {
		return "initrd", nil
	}
	if _, err := image.Detect(head[:n]); err == nil {
		return "image", nil
	}
	return "", nil
}

// checkInitrd reads the configuration out of the initrd, and the keys that it trusts,
// and makes sure that its modules are for the kernel beside it.
func (r *release) checkInitrd() ([]image.Key, error) {
	in, err := initrd.Read(r.initrd)
	if err != nil {
		return nil, err
	}
	r.config = in.Config
	f, err := os.Open(r.kernel)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := in.CheckKernel(f); err != nil {
		return nil, fmt.Errorf("check release %s: %w", filepath.Dir(r.kernel), err)
	}
	return in.Keys, nil
}
