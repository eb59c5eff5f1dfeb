package prove

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"reimager/image"
	"reimager/initrd"
	"reimager/report"
)

// release is a copy of the release that was proven while it was copied, so that
// what boots is what was verified.
type release struct {
	manifest      *image.Manifest
	blockMap      *image.Map
	signedBy      *image.Key
	initrd        *initrd.Initrd
	kernel, ramfs string // files that QEMU boots
	dir           string // all files of the release
	bytes         int64  // of all files
	head          []byte // of the decoded image, headBytes or all of it
}

// headBytes is how much of the beginning of the image is decoded: it has the boot
// code and what GRUB puts behind it.
const headBytes = mib

// openRelease verifies and copies a release. Without keys those of its own initrd
// are taken, as its machines will.
func openRelease(from, work string, keys []image.Key) (*release, error) {
	root, err := os.OpenRoot(from)
	if err != nil {
		return nil, fmt.Errorf("open release: %w", err)
	}
	defer root.Close()
	if !image.IsRelease(root) {
		return nil, report.Hint(fmt.Errorf("open release %s: there is no %s in it", from, image.ManifestName), "name a release of imagebuild pack")
	}
	trust := image.Trust{Keys: keys, Unsigned: len(keys) == 0, Unchecked: true}
	opened, err := image.OpenRelease(root, trust)
	if err != nil {
		return nil, err
	}
	m := opened.Manifest
	if m.Kernel == nil || m.Initrd == nil {
		return nil, report.Hint(fmt.Errorf("open release %s: there is no kernel and initrd in it", from), "pack it with --kernel and --initrd")
	}
	r := &release{manifest: m, blockMap: opened.Map, dir: filepath.Join(work, "release"),
		kernel: filepath.Join(work, "kernel"), ramfs: filepath.Join(work, "initrd")}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		return nil, err
	}
	if err := errors.Join(copyProven(opened, m.Kernel.File, r.kernel), copyProven(opened, m.Initrd.File, r.ramfs)); err != nil {
		return nil, err
	}
	if r.initrd, err = initrd.Read(r.ramfs); err != nil {
		return nil, err
	}
	// What a machine with this initrd accepts decides, whatever --key says as well.
	trust = image.Trust{Keys: r.initrd.Keys, Unsigned: r.initrd.Config.Trust.Signature == "if-present"}
	if err := opened.Judge(trust); err != nil {
		return nil, fmt.Errorf("check release with the keys in its initrd: %w", err)
	}
	r.signedBy = opened.SignedBy
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("check release %s: %w", from, err)
	}
	return r, r.copyAll(root, opened)
}

// check holds kernel and initrd to the manifest.
func (r *release) check() error {
	kernel, err := os.Open(r.kernel)
	if err != nil {
		return err
	}
	defer kernel.Close()
	if _, err := r.initrd.CheckKernel(kernel); err != nil {
		return err
	}
	if r.manifest.Disk.SectorSize != 512 {
		return fmt.Errorf("it is for disks with sectors of %d bytes, which the stand-in's disk does not have", r.manifest.Disk.SectorSize)
	}
	return r.manifest.CheckCompatible(r.initrd.Config.Machine.Compatible)
}

// copyAll copies all that a machine gets.
func (r *release) copyAll(root *os.Root, proven *image.Release) error {
	m := proven.Manifest
	for _, f := range []image.File{m.Kernel.File, m.Initrd.File, m.Image.File, m.Map} {
		if err := copyProven(proven, f, filepath.Join(r.dir, f.Name)); err != nil {
			return err
		}
		r.bytes += f.Bytes
	}
	names := []string{image.ManifestName}
	if r.signedBy != nil {
		names = append(names, image.ManifestName+image.SignatureSuffix)
	}
	for _, name := range names {
		text, err := root.ReadFile(name)
		if err == nil && name == image.ManifestName && image.Digest(sha256.Sum256(text)) != proven.Digest {
			err = fmt.Errorf("%s changed while it was read", name)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(r.dir, name), text, 0o644)
		}
		if err != nil {
			return fmt.Errorf("copy release: %w", err)
		}
		r.bytes += int64(len(text))
	}
	return r.readHead()
}

func copyProven(from *image.Release, f image.File, to string) error {
	in, err := from.Open(f)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return errors.Join(fmt.Errorf("copy release: %w", err), in.Close())
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, in.Close(), out.Close()); err != nil {
		return fmt.Errorf("copy %s: %w", f.Name, err)
	}
	return nil
}

// readHead decodes the beginning of the image.
func (r *release) readHead() error {
	in, err := os.Open(filepath.Join(r.dir, r.manifest.Image.Name))
	if err != nil {
		return err
	}
	src, err := image.Decode(in, 1)
	if err != nil {
		return errors.Join(fmt.Errorf("decode image: %w", err), in.Close())
	}
	var head bytes.Buffer
	_, err = io.CopyN(&head, src, min(headBytes, r.manifest.Image.RawBytes))
	if err := errors.Join(err, src.Close(), in.Close()); err != nil {
		return fmt.Errorf("decode image: %w", err)
	}
	r.head = head.Bytes()
	return nil
}

// firmware tells what is to boot the new system.
func (r *release) firmware() (string, error) {
	for _, kind := range []string{"bios", "uefi"} {
		if slices.Contains(r.manifest.Disk.Firmware, kind) {
			return kind, nil
		}
	}
	return "", report.Hint(errors.New("check release: nothing can boot its image: sector 0 has no boot code, and there is no EFI system partition"),
		"install a boot loader into the image before it is packed")
}
