package image

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"syscall"

	"reimager/report"
)

// ManifestName is the manifest's file in a release directory.
const ManifestName = "manifest.json"

// Sizes above which a file of a release is not what it should be: a manifest with
// the facts of a large system has some hundred KiB, a map of 64 MiB describes
// more than a TiB in ranges of RangeBytes.
const (
	maxManifest  = 16 << 20
	maxSignature = 64 << 10
	maxMap       = 64 << 20
)

// Trust says whose images and releases are accepted.
type Trust struct {
	Keys []Key
	// Unsigned accepts what is not signed at all. A wrong signature is never accepted.
	Unsigned bool
	// Unchecked accepts a signature that nobody can judge, where there are no keys.
	Unchecked bool
}

// Release is a release directory whose manifest and map are proven. Its image,
// kernel and initrd are proven as they are read: see Open.
type Release struct {
	Manifest *Manifest
	Map      *Map
	// SignedBy is the key that signed it; nil if it is not signed.
	SignedBy *Key
	// Digest is the SHA-256 of manifest.json.
	Digest Digest
	root   *os.Root

	text, signature []byte // of the manifest
}

// IsRelease tells whether a directory holds a release.
func IsRelease(root *os.Root) bool {
	info, err := root.Stat(ManifestName)
	return err == nil && info.Mode().IsRegular()
}

// OpenRelease reads manifest and map of a release and proves them: the signature
// is that of a trusted key over the very bytes that are parsed, the map is the one
// that the manifest names. The root has to stay open as long as the release is used.
func OpenRelease(root *os.Root, trust Trust) (*Release, error) {
	text, err := readSmall(root, ManifestName, maxManifest)
	if err != nil {
		return nil, fmt.Errorf("read release: %w", err)
	}
	r := &Release{Digest: sha256.Sum256(text), root: root, text: text}
	r.signature, err = readSmall(root, ManifestName+SignatureSuffix, maxSignature)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read release: %w", err)
	}
	if err := r.Judge(trust); err != nil {
		return nil, err
	}
	if r.Manifest, err = ParseManifest(text); err != nil {
		return nil, err
	}
	return r, r.readMap()
}

// Judge holds the manifest, as it was read, against other keys: those that were found
// in the release's own initrd, which the manifest vouches for.
func (r *Release) Judge(trust Trust) (err error) {
	if r.SignedBy, err = trust.judge(ManifestName, r.text, r.signature); err != nil {
		return fmt.Errorf("check release: %w", err)
	}
	return nil
}

func (r *Release) readMap() error {
	m := r.Manifest
	text, err := readSmall(r.root, m.Map.Name, maxMap)
	if err != nil {
		return fmt.Errorf("read release: %w", err)
	}
	if got := Digest(sha256.Sum256(text)); got != m.Map.SHA256 {
		return differs(m.Map.Name, got, m.Map.SHA256)
	}
	if r.Map, err = ParseMap(text); err != nil {
		return fmt.Errorf("check release: %w", err)
	}
	if err := r.Map.CheckFine(); err != nil {
		return fmt.Errorf("check release: %w", err)
	}
	sector := int64(m.Disk.SectorSize)
	if err := r.Map.CheckSectors(sector); err != nil {
		return fmt.Errorf("check release: %w", err)
	}
	if r.Map.Bytes != m.Image.RawBytes {
		return fmt.Errorf("check release: the block map is for %d bytes, the manifest says %d", r.Map.Bytes, m.Image.RawBytes)
	}
	return nil
}

func differs(name string, got, want Digest) error {
	return report.Hint(fmt.Errorf("check release: %s has the SHA-256 %s, expected %s as in the manifest", name, got, want), "it was changed or cut short; copy the release again")
}

// judge tells who signed a text.
func (t Trust) judge(name string, text, signature []byte) (*Key, error) {
	if signature == nil {
		if t.Unsigned {
			return nil, nil
		}
		return nil, report.Hint(fmt.Errorf("there is no signature %s%s beside %s", name, SignatureSuffix, name), "sign the release with imagebuild pack --key, or allow unsigned ones")
	}
	if len(t.Keys) == 0 {
		if t.Unchecked {
			return nil, nil
		}
		return nil, report.Hint(fmt.Errorf("%s is signed, but no key is trusted here", name), "build the initrd with imagebuild initrd --key")
	}
	key, err := verifyText(t.Keys, text, signature)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &key, nil
}

// Open opens a file of the release, whose size has to be right. Reading it to its
// end fails if its digest is not the manifest's.
func (r *Release) Open(f File) (io.ReadCloser, error) {
	file, err := openQuietly(r.root, f.Name)
	if err != nil {
		return nil, fmt.Errorf("read release: %w", err)
	}
	info, err := file.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() != f.Bytes) {
		err = report.Hint(fmt.Errorf("check release: %s has %d bytes, expected %d as in the manifest", f.Name, info.Size(), f.Bytes), "it was changed or cut short; copy the release again")
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &provenFile{Closer: file, Proven: NewProven(file, f)}, nil
}

// Prove reads a file of the release to its end, and forgets it.
func (r *Release) Prove(f File) error {
	file, err := r.Open(f)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, file)
	return errors.Join(err, file.Close())
}

// openQuietly opens a file that may be anything: a FIFO would block until somebody
// writes to it.
func openQuietly(root *os.Root, name string) (*os.File, error) {
	return root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

type provenFile struct {
	io.Closer
	*Proven
}

// Proven passes on what it reads and at the end, in place of io.EOF, says whether
// it was something else than the manifest describes.
type Proven struct {
	r    io.Reader
	want File
	sum  hash.Hash
	n    int64
}

// NewProven wraps the content of a file of a release.
func NewProven(r io.Reader, want File) *Proven { return &Proven{r: r, want: want, sum: sha256.New()} }

// Read implements io.Reader.
func (p *Proven) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.sum.Write(b[:n])
	p.n += int64(n)
	if err == io.EOF {
		if e := p.judge(); e != nil {
			return n, e
		}
	}
	return n, err
}

func (p *Proven) judge() error {
	var got Digest
	p.sum.Sum(got[:0])
	switch {
	case p.want.Bytes >= 0 && p.n != p.want.Bytes:
		return fmt.Errorf("check release: %s has %d bytes, expected %d", p.want.Name, p.n, p.want.Bytes)
	case got != p.want.SHA256:
		return differs(p.want.Name, got, p.want.SHA256)
	}
	return nil
}

// readSmall reads a file that has to be a regular one.
func readSmall(root *os.Root, name string, limit int64) ([]byte, error) {
	f, err := openQuietly(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("read %s: not a regular file", name))
	}
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("longer than %d bytes", limit)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return text, nil
}
