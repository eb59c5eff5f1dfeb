package stages

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/report"
	"reimager/wake"
)

// offer is the image as the source has it: bare, or in a release that is proven but
// for the image itself. content is read once, to its end.
type offer struct {
	source  config.Source
	release *image.Release // nil: a bare image
	bytes   int64          // compressed
	content io.Reader
	again   func() (io.ReadCloser, error) // opens the same bytes once more

	signature []byte // of a bare image; nil if it has none
	signed    *image.SignatureCheck
}

// String names the image in messages.
func (o *offer) String() string {
	if o.release != nil {
		return fmt.Sprintf("%s (%s)", o.source, o.release.Manifest)
	}
	return o.source.String()
}

// blockMap is the map that came with the image; nil if none did.
func (o *offer) blockMap() *image.Map {
	if o.release == nil {
		return nil
	}
	return o.release.Map
}

// signer returns who signed the image, after it was read; nil if nobody did.
func (o *offer) signer(keys []image.Key) (*image.Key, error) {
	if o.release != nil || o.signed == nil {
		if o.release != nil {
			return o.release.SignedBy, nil
		}
		return nil, nil
	}
	key, err := o.signed.By(keys, o.signature)
	return &key, err
}

// withImage mounts what holds the image read-only, proves what can be proven before
// it is read, and hands it to use.
func (r *Run) withImage(ctx context.Context, source config.Source, target *disk.Disk, use func(*offer) error) error {
	p, err := r.await(ctx, source.Device, nil)
	if err != nil {
		return err
	}
	if err := r.mount(ctx, p, sourceDir, unix.MS_RDONLY); err != nil {
		return err
	}
	root, err := os.OpenRoot(sourceDir)
	if err != nil {
		return errors.Join(fmt.Errorf("open %s: %w", source.Device, err), wake.UnmountBelow(sourceDir))
	}
	err = errors.Join(r.offered(root, source, target, use), root.Close())
	return errors.Join(err, wake.UnmountBelow(sourceDir))
}

// offered opens a release or an image on what is mounted at root.
func (r *Run) offered(root *os.Root, source config.Source, target *disk.Disk, use func(*offer) error) error {
	name := strings.TrimPrefix(source.Path, "/")
	if name == "" {
		name = "."
	}
	info, err := root.Stat(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return report.Hint(fmt.Errorf("open image: there is no %s on %s", source.Path, source.Device), "put the image there, or arm the machine again with the release that holds it")
	case err != nil:
		return fmt.Errorf("open image %s: %w", source, err)
	case info.IsDir():
		return r.offerRelease(root, name, source, target, use)
	case !info.Mode().IsRegular():
		return fmt.Errorf("open image %s: not a regular file", source)
	}
	return r.offerImage(root, name, source, use)
}

func (r *Run) offerRelease(root *os.Root, name string, source config.Source, target *disk.Disk, use func(*offer) error) error {
	dir, err := root.OpenRoot(name)
	if err != nil {
		return fmt.Errorf("open release %s: %w", source, err)
	}
	defer dir.Close()
	if !image.IsRelease(dir) {
		return report.Hint(fmt.Errorf("open release %s: there is no %s in it", source, image.ManifestName), "name a release of imagebuild pack, or the image itself")
	}
	release, err := image.OpenRelease(dir, image.Trust{Keys: r.Keys, Unsigned: r.Config.Trust.Signature == "if-present"})
	if err != nil {
		return fmt.Errorf("%s: %w", source, err)
	}
	m := release.Manifest
	if release.SignedBy == nil {
		r.warn("the release is not signed, and the configuration allows it")
	}
	r.Report.Printf("release  %s, counter %d", m, m.Counter)
	if err := r.checkManifest(release.Digest.String()); err != nil {
		return fmt.Errorf("check release %s: %w", source, err)
	}
	if err := m.CheckCompatible(r.Config.Machine.Compatible); err != nil {
		return err
	}
	if err := m.CheckDisk(target.String(), target.Bytes, target.SectorSize); err != nil {
		return err
	}
	if err := r.checkArmed(m.Image.SHA256.String()); err != nil {
		return fmt.Errorf("check image %s: %w", source, err)
	}
	content, err := release.Open(m.Image.File)
	if err != nil {
		return fmt.Errorf("%s: %w", source, err)
	}
	again := func() (io.ReadCloser, error) { return release.Open(m.Image.File) }
	return errors.Join(use(&offer{source: source, release: release, bytes: m.Image.Bytes, content: content, again: again}), content.Close())
}

func (r *Run) offerImage(root *os.Root, name string, source config.Source, use func(*offer) error) error {
	if len(r.Config.Machine.Compatible) > 0 {
		return report.Hint(fmt.Errorf("open image %s: the configuration names compatible machines, and a bare image says nothing of them", source), "pack it into a release with imagebuild pack --compatible")
	}
	if err := r.checkManifest(""); err != nil {
		return fmt.Errorf("check image %s: %w", source, err)
	}
	signature, err := r.signature(root, name)
	if err != nil {
		return fmt.Errorf("check image %s: %w", source, err)
	}
	again := func() (io.ReadCloser, error) { return root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) }
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open image %s: %w", source, err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open image %s: %w", source, err), f.Close())
	}
	o := &offer{source: source, bytes: info.Size(), content: f, signature: signature, again: again}
	if signature != nil {
		o.signed = image.NewSignatureCheck(f)
		o.content = o.signed
	}
	return errors.Join(use(o), f.Close())
}

// signature reads the signature beside an image. It is nil for an image that is not
// signed and need not be.
func (r *Run) signature(root *os.Root, name string) ([]byte, error) {
	signature, err := root.ReadFile(name + image.SignatureSuffix)
	switch {
	case errors.Is(err, os.ErrNotExist) && r.Config.Trust.Signature == "if-present":
		r.warn("the image is not signed, and the configuration allows it")
		return nil, nil
	case errors.Is(err, os.ErrNotExist):
		return nil, report.Hint(fmt.Errorf("there is no signature %s%s beside it", name, image.SignatureSuffix),
			`sign it with "minisign -S -H", or set [trust] signature = "if-present"`)
	case err != nil:
		return nil, fmt.Errorf("read signature: %w", err)
	case len(r.Keys) == 0:
		return nil, report.Hint(errors.New("it is signed, but this initrd trusts no key"), "build the initrd with imagebuild initrd --key")
	}
	return signature, nil
}
