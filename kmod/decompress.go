package kmod

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"reimager/report"
)

// maxModule bounds a decompressed module in bytes: the largest of a distribution
// (amdgpu with debug information stripped) has about a third of it.
const maxModule = 64 << 20

// Read returns the decompressed ELF object of m, which is .ko, .ko.xz, .ko.zst or
// .ko.gz. It must be a relocatable object of at most 64 MiB, built for the tree's
// kernel by its vermagic. A signature that is appended to it is kept.
func (t *Tree) Read(m Module) ([]byte, error) {
	name := filepath.Join(t.dir, filepath.FromSlash(m.Path))
	f, err := os.Open(name)
	if err != nil {
		return nil, report.Hint(fmt.Errorf("read module %s: %w", m.Name, err), "%s", t.depmodHint())
	}
	defer f.Close()
	data, err := decompress(f, name, maxModule)
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", name, err)
	}
	magic, err := vermagic(data)
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", name, err)
	}
	// weak-modules(8) links modules of another kernel with the same ABI; the kernel
	// compares symbol versions there, not the release.
	release, _, _ := strings.Cut(magic, " ")
	if release != t.Version && !strings.HasPrefix(m.Path, "weak-updates/") {
		return nil, report.Hint(
			fmt.Errorf("read module %s: built for kernel %s, want %s", name, release, t.Version),
			"the directory must have the name of the kernel it belongs to, and hold only its modules")
	}
	return data, nil
}

// decompress reads r as the suffix of name says, at most limit bytes.
func decompress(r io.Reader, name string, limit int64) ([]byte, error) {
	switch {
	case strings.HasSuffix(name, ".ko"):
	case strings.HasSuffix(name, ".ko.gz"):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		r = z
	case strings.HasSuffix(name, ".ko.xz"):
		z, err := xz.NewReader(r)
		if err != nil {
			return nil, err
		}
		r = z
	case strings.HasSuffix(name, ".ko.zst"):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(2*maxModule))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	default:
		return nil, errors.New("unknown compression: want .ko, .ko.xz, .ko.zst or .ko.gz")
	}
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("larger than %d bytes decompressed", limit)
	}
	return data, nil
}

// vermagic returns the value of that name from .modinfo, a section of
// NUL-terminated KEY=VALUE (linux/moduleparam.h).
func vermagic(object []byte) (string, error) {
	f, err := elf.NewFile(bytes.NewReader(object))
	if err != nil {
		return "", fmt.Errorf("not an ELF object: %w", err)
	}
	if f.Type != elf.ET_REL {
		return "", fmt.Errorf("an ELF object of type %v, want a relocatable one", f.Type)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return "", errors.New("not a kernel module: no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return "", fmt.Errorf("read its .modinfo: %w", err)
	}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		if value, ok := bytes.CutPrefix(entry, []byte("vermagic=")); ok {
			return string(value), nil
		}
	}
	return "", errors.New("no vermagic in its .modinfo")
}
