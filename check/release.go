package check

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
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

// Release is what a directory holds to replace a machine: a release of imagebuild
// pack, or kernel, initrd and image, each known by its content, whatever its name.
type Release struct {
	Dir                   string
	Kernel, Initrd, Image string // paths
	KernelVersion         string // as uname -r
	Baked                 *initrd.Initrd
	// Manifest and Map are nil for three files without a manifest.
	Manifest *image.Manifest
	Map      *image.Map
	Digest   image.Digest // of the manifest
	SignedBy *image.Key   // nil: not signed, and need not be
	// ImageBytes and ImageDigest are those of the compressed image as it was read.
	ImageBytes  int64
	ImageDigest image.Digest
}

// String names a release for messages.
func (r *Release) String() string {
	if r.Manifest == nil {
		return filepath.Base(r.Image)
	}
	return r.Manifest.String()
}

// Job names the release as the job does.
func (r *Release) Job() config.JobRelease {
	if r.Manifest == nil {
		return config.JobRelease{}
	}
	return config.JobRelease{Name: r.Manifest.Name, Version: r.Manifest.Version, Counter: r.Manifest.Counter, Manifest: r.Digest.String()}
}

// ReadRelease reads a directory and proves all of it. With keys it has to be a
// release that one of them has signed; without, one that its own initrd will take.
// The release is nil if it cannot be armed; the results say why.
func ReadRelease(dir string, keys []image.Key) (*Release, Results) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, Results{failed(ReleaseFiles, fmt.Errorf("read release: %w", err))}
	}
	defer root.Close()
	r := &Release{Dir: dir}
	var results Results
	if image.IsRelease(root) {
		results = r.readPacked(root, keys)
	} else {
		results = r.readFiles(keys)
	}
	if results.Count(Fail) > 0 {
		return nil, results
	}
	// A release for other machines is one all the same: what else is wrong may be said, too.
	return r, append(results, judgeCompatible(r.Manifest, r.Baked.Config.Machine.Compatible))
}

// readPacked proves a release. The signature comes first where keys were given;
// without, the keys are in the initrd, for which the manifest vouches.
func (r *Release) readPacked(root *os.Root, given []image.Key) Results {
	opened, err := image.OpenRelease(root, image.Trust{Keys: given, Unsigned: len(given) == 0, Unchecked: true})
	if err != nil {
		name := Digests
		if _, e := image.OpenRelease(root, image.Trust{Unsigned: true, Unchecked: true}); e == nil {
			name = Signature
		}
		return Results{failed(name, err)}
	}
	m := opened.Manifest
	if m.Kernel == nil || m.Initrd == nil {
		return Results{failed(ReleaseFiles, report.Hint(fmt.Errorf("read release %s: there is no kernel and initrd in it", r.Dir), "pack it with --kernel and --initrd"))}
	}
	r.Manifest, r.Map, r.Digest = m, opened.Map, opened.Digest
	r.Kernel, r.Initrd, r.Image = filepath.Join(r.Dir, m.Kernel.Name), filepath.Join(r.Dir, m.Initrd.Name), filepath.Join(r.Dir, m.Image.Name)
	for _, f := range []image.File{m.Kernel.File, m.Initrd.File, m.Image.File} {
		if err := opened.Prove(f); err != nil {
			return Results{failed(Digests, err)}
		}
	}
	r.ImageBytes, r.ImageDigest = m.Image.Bytes, m.Image.SHA256
	results, ok := r.readInitrd()
	if !ok {
		return results
	}
	if err := opened.Judge(image.Trust{Keys: r.Baked.Keys, Unsigned: r.Baked.Config.Trust.Signature == "if-present"}); err != nil {
		return append(results, failed(Signature, err))
	}
	r.SignedBy = opened.SignedBy
	return append(results,
		pass(ReleaseFiles, "%s, counter %d", m, m.Counter), judgeSigned(r.SignedBy, len(given) > 0),
		pass(Digests, "image, block map, kernel and initrd are those of the manifest"))
}

// judgeSigned says who signed, and whose word that is.
func judgeSigned(by *image.Key, given bool) Result {
	switch {
	case by == nil:
		return warn(Signature, "pack it with --key, and bake the initrd with --key", `not signed, and the initrd allows it (trust.signature = "if-present")`)
	case given:
		return pass(Signature, "signed by %s, a key that was given", by.ID())
	}
	return pass(Signature, "signed by %s, which its own initrd trusts", by.ID())
}

func judgeCompatible(m *image.Manifest, machine []string) Result {
	if m == nil && len(machine) > 0 {
		return fail(Compatible, "pack it into a release with imagebuild pack --compatible", "this machine is %q, and a bare image does not say what it is for", machine)
	}
	if len(machine) == 0 {
		return pass(Compatible, "not checked: machine.compatible names nothing")
	}
	if err := m.CheckCompatible(machine); err != nil {
		return failed(Compatible, err)
	}
	return pass(Compatible, "this machine is %s", strings.Join(machine, ", "))
}

// readFiles takes a directory with three files that are known by their content.
func (r *Release) readFiles(keys []image.Key) Results {
	if len(keys) > 0 {
		return Results{failed(Signature, report.Hint(fmt.Errorf("read release %s: there is no %s in it, and a key was given", r.Dir, image.ManifestName), "pack the three files with imagebuild pack"))}
	}
	if err := r.findFiles(); err != nil {
		return Results{failed(ReleaseFiles, err)}
	}
	results, ok := r.readInitrd()
	if !ok {
		return results
	}
	signed := r.readBare()
	return append(results, signed, pass(ReleaseFiles, "%s, a bare image without a manifest", r),
		pass(Digests, "a bare image has none; that it can be decoded is proven before it is written"))
}

// readBare reads a bare image once, for its digest and its signature. The signature
// lies beside the image itself, where a link may lead: that is where a run looks.
func (r *Release) readBare() Result {
	file, err := filepath.EvalSymlinks(r.Image)
	if err != nil {
		return failed(Signature, fmt.Errorf("read image: %w", err))
	}
	name := filepath.Base(file)
	signature, err := os.ReadFile(file + image.SignatureSuffix)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed(Signature, fmt.Errorf("read signature: %w", err))
	}
	f, err := os.Open(file)
	if err != nil {
		return failed(Signature, fmt.Errorf("read image: %w", err))
	}
	defer f.Close()
	signed, sum := image.NewSignatureCheck(f), sha256.New()
	if r.ImageBytes, err = io.Copy(sum, signed); err != nil {
		return failed(Signature, fmt.Errorf("read image %s: %w", r.Image, err))
	}
	sum.Sum(r.ImageDigest[:0])
	switch {
	case signature == nil && r.Baked.Config.Trust.Signature == "if-present":
		return judgeSigned(nil, false)
	case signature == nil:
		return failed(Signature, report.Hint(fmt.Errorf("there is no signature %s%s", name, image.SignatureSuffix), `sign it with "minisign -S -H", or set [trust] signature = "if-present"`))
	case len(r.Baked.Keys) == 0:
		return failed(Signature, report.Hint(fmt.Errorf("%s is signed, but its initrd trusts no key", name), "build the initrd with imagebuild initrd --key"))
	}
	key, err := signed.By(r.Baked.Keys, signature)
	if err != nil {
		return failed(Signature, fmt.Errorf("%s: %w", name, err))
	}
	r.SignedBy = &key
	return judgeSigned(&key, false)
}

func (r *Release) findFiles() error {
	entries, err := os.ReadDir(r.Dir)
	if err != nil {
		return fmt.Errorf("read release: %w", err)
	}
	found := map[string][]string{}
	for _, e := range entries {
		name := filepath.Join(r.Dir, e.Name())
		info, err := os.Stat(name)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		kind, err := classify(name)
		if err != nil {
			return fmt.Errorf("read release: %w", err)
		}
		found[kind] = append(found[kind], name)
	}
	var all []error
	one := func(kind string) string {
		switch names := found[kind]; len(names) {
		case 1:
			return names[0]
		case 0:
			all = append(all, fmt.Errorf("read release %s: there is no %s in it", r.Dir, kind))
		default:
			all = append(all, fmt.Errorf("read release %s: %d files are each %s: %s", r.Dir, len(names), kind, strings.Join(names, ", ")))
		}
		return ""
	}
	r.Kernel, r.Initrd, r.Image = one("kernel"), one("initrd"), one("image")
	return report.Hint(errors.Join(all...), "the directory has to hold one kernel, one initrd of imagebuild, and one disk image")
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

// readInitrd reads what is baked into the initrd, and makes sure that its modules
// are for the kernel beside it. It says whether both are so.
func (r *Release) readInitrd() (Results, bool) {
	in, err := initrd.Read(r.Initrd)
	if err != nil {
		return Results{failed(ReleaseFiles, err)}, false
	}
	r.Baked = in
	f, err := os.Open(r.Kernel)
	if err != nil {
		return Results{failed(KernelFits, err)}, false
	}
	defer f.Close()
	if r.KernelVersion, err = in.CheckKernel(f); err != nil {
		return Results{failed(KernelFits, fmt.Errorf("check release %s: %w", r.Dir, err))}, false
	}
	return Results{pass(KernelFits, "%s, which the initrd's modules are for", r.KernelVersion)}, true
}

// CheckCopies makes sure that what boots is what the manifest names: the release may
// have been written to while its image was read.
func (r *Release) CheckCopies(kernel, initrd string) error {
	if r.Manifest == nil {
		return nil
	}
	for name, want := range map[string]image.Digest{kernel: r.Manifest.Kernel.SHA256, initrd: r.Manifest.Initrd.SHA256} {
		got, err := Digest(name)
		if err == nil && got != want {
			err = report.Hint(fmt.Errorf("check release: %s was copied with the SHA-256 %s, expected %s as in the manifest", name, got, want), "something writes to the release; arm again when it is through")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Digest returns the SHA-256 of a file.
func Digest(name string) (d image.Digest, err error) {
	f, err := os.Open(name)
	if err != nil {
		return d, fmt.Errorf("digest: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return d, fmt.Errorf("digest %s: %w", name, err)
	}
	sum.Sum(d[:0])
	return d, nil
}
