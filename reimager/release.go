package main

import (
	"bytes"
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
	"reimager/kmod"
	"reimager/report"
)

// release is what a directory holds to replace a machine: each of the three is
// known by its content, whatever its name.
type release struct {
	kernel, initrd, image string // paths
	config                *config.Config
}

func readRelease(dir string) (*release, error) {
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
	return r, r.checkInitrd()
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

// checkInitrd reads the configuration out of the initrd, and makes sure that its
// modules are for the kernel beside it: any other would boot and find no disk.
func (r *release) checkInitrd() error {
	a, err := initramfs.ReadFile(r.initrd)
	if err != nil {
		return err
	}
	text, err := a.Content(config.FilePath)
	if err != nil {
		return report.Hint(fmt.Errorf("check initrd %s: %w", r.initrd, err), "build it with imagebuild initrd")
	}
	if r.config, err = config.Parse(r.initrd+":reimager.toml", text); err != nil {
		return err
	}
	if text, err = a.Content(config.ModuleIndexPath); err != nil {
		return fmt.Errorf("check initrd %s: %w", r.initrd, err)
	}
	index, err := kmod.DecodeIndex(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("check initrd %s: %w", r.initrd, err)
	}
	f, err := os.Open(r.kernel)
	if err != nil {
		return err
	}
	defer f.Close()
	kernel, err := boot.KernelVersion(f)
	if err != nil {
		return fmt.Errorf("check kernel %s: %w", r.kernel, err)
	}
	if kernel != index.Kernel && len(index.Modules) > 0 {
		return report.Hint(fmt.Errorf("check release: the kernel is %s, but the initrd has modules for %s", kernel, index.Kernel),
			"build the initrd with --modules /lib/modules/%s", kernel)
	}
	return nil
}
