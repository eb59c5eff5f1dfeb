package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"reimager/report"
)

// Input is an image that is read by hand: from a release directory, a file, or a
// pipe. Reading it to its end judges it: what a release, a digest or a signature
// says otherwise is an error in place of io.EOF.
type Input struct {
	Name    string
	Release *Release // nil: a bare image
	Map     *Map     // nil: all of it carries data
	Bytes   int64    // compressed; -1 if not known
	// SignedBy is the key that signed a release; nil otherwise.
	SignedBy *Key
	// Progress, which may be set before anything is taken from the decoder, is told how
	// many bytes were read since the last time.
	Progress func(bytes int64)

	content io.Reader
	close   []io.Closer
}

// InputOptions say what an input is held against.
type InputOptions struct {
	// Keys are trusted. With any, a release or image that none of them has signed is
	// refused; without, signatures are not judged.
	Keys []Key
	// Map is a .bmap file for a bare image.
	Map string
	// SHA256 is what the compressed image has to be; nil: not known.
	SHA256 *Digest
}

// OpenInput opens a release directory or an image; "-" is the standard input.
func OpenInput(name string, o InputOptions) (*Input, error) {
	in := &Input{Name: name, Bytes: -1}
	err := in.open(o)
	if err == nil && o.SHA256 != nil {
		in.content = NewProven(in.content, File{Name: name, Bytes: in.Bytes, SHA256: *o.SHA256})
	}
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return in, nil
}

func (in *Input) open(o InputOptions) error {
	if in.Name == "-" {
		if len(o.Keys) > 0 {
			return errors.New("open image: the standard input has no signature beside it; use a file, or --sha256")
		}
		in.content = os.Stdin
		return in.readMap(o.Map)
	}
	info, err := os.Stat(in.Name)
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	if info.IsDir() {
		if o.Map != "" {
			return fmt.Errorf("open release %s: it has a block map of its own", in.Name)
		}
		return in.openRelease(o)
	}
	f, err := os.Open(in.Name)
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	in.close = append(in.close, f)
	in.content = f
	if info.Mode().IsRegular() {
		in.Bytes = info.Size()
	}
	if len(o.Keys) > 0 {
		signature, err := os.ReadFile(in.Name + SignatureSuffix)
		if err != nil {
			return report.Hint(fmt.Errorf("check image: %w", err), "sign it with minisign -S -H, or leave out --key")
		}
		in.content = &signedReader{SignatureCheck: NewSignatureCheck(f), name: in.Name, keys: o.Keys, signature: signature}
	}
	return in.readMap(o.Map)
}

func (in *Input) openRelease(o InputOptions) error {
	root, err := os.OpenRoot(in.Name)
	if err != nil {
		return fmt.Errorf("open release: %w", err)
	}
	in.close = append(in.close, root)
	if !IsRelease(root) {
		return report.Hint(fmt.Errorf("open release %s: there is no %s in it", in.Name, ManifestName), "name a release of imagebuild pack, or an image")
	}
	none := len(o.Keys) == 0
	if in.Release, err = OpenRelease(root, Trust{Keys: o.Keys, Unsigned: none, Unchecked: none}); err != nil {
		return fmt.Errorf("%s: %w", in.Name, err)
	}
	content, err := in.Release.Open(in.Release.Manifest.Image.File)
	if err != nil {
		return fmt.Errorf("%s: %w", in.Name, err)
	}
	in.close = append(in.close, content)
	in.content, in.Map, in.Bytes, in.SignedBy = content, in.Release.Map, in.Release.Manifest.Image.Bytes, in.Release.SignedBy
	return nil
}

func (in *Input) readMap(name string) error {
	if name == "" {
		return nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read block map: %w", err)
	}
	if in.Map, err = ParseMap(text); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Read passes the compressed image on.
func (in *Input) Read(p []byte) (int, error) {
	n, err := in.content.Read(p)
	if in.Progress != nil {
		in.Progress(int64(n))
	}
	return n, err
}

// Decode decodes it, for a caller who holds each range against the map if there is one.
func (in *Input) Decode(workers int) (*Decoder, error) {
	return decodeAs(in, workers, in.Map != nil)
}

// Close closes all that was opened.
func (in *Input) Close() error {
	var all []error
	for i := len(in.close) - 1; i >= 0; i-- {
		all = append(all, in.close[i].Close())
	}
	in.close = nil
	return errors.Join(all...)
}

// signedReader judges a signature when all was read.
type signedReader struct {
	*SignatureCheck
	name      string
	keys      []Key
	signature []byte
}

func (s *signedReader) Read(p []byte) (int, error) {
	n, err := s.SignatureCheck.Read(p)
	if err == io.EOF {
		if _, e := s.By(s.keys, s.signature); e != nil {
			return n, fmt.Errorf("check image %s: %w", s.name, e)
		}
	}
	return n, err
}

// ReadKeys reads minisign public key files.
func ReadKeys(names []string) ([]Key, error) {
	var keys []Key
	for _, name := range names {
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, report.Hint(fmt.Errorf("read key: %w", err), "name the public key file, such as fleet.pub")
		}
		if err != nil {
			return nil, fmt.Errorf("read key: %w", err)
		}
		key, err := ParseKey(name, text)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}
