// Package initrd reads what imagebuild has baked: the configuration, the retention
// list, the trusted keys and the module index, each checked as init will check it,
// and whether a kernel belongs to it.
package initrd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"reimager/boot"
	"reimager/config"
	"reimager/image"
	"reimager/initramfs"
	"reimager/kmod"
	"reimager/report"
	"reimager/retain"
)

// Initrd is what is in an initrd of imagebuild.
type Initrd struct {
	Name    string // of its file
	Archive *initramfs.Archive
	Config  *config.Config
	List    retain.List
	Keys    []image.Key
	Index   *kmod.Index
	// Lifeboat is the GRUB that a lifeboat boots by; nil: the initrd has none.
	Lifeboat *boot.LifeboatCore
	// RawBytes is how much memory its files take.
	RawBytes int64
}

// Read reads and checks the initrd in a file.
func Read(name string) (*Initrd, error) {
	a, err := initramfs.ReadFile(name)
	if err != nil {
		return nil, err
	}
	in := &Initrd{Name: name, Archive: a}
	if err := in.read(); err != nil {
		return nil, fmt.Errorf("check initrd %s: %w", name, err)
	}
	return in, nil
}

func (in *Initrd) read() error {
	text, err := in.Archive.Content(config.FilePath)
	if err != nil {
		return report.Hint(fmt.Errorf("not an initrd of imagebuild: %w", err), "build it with imagebuild initrd")
	}
	if in.Config, err = config.Parse("reimager.toml", text); err != nil {
		return err
	}
	if text, err = in.Archive.Content(config.RetentionListPath); err != nil {
		return err
	}
	if in.List, err = retain.ParseList("retentionlist", bytes.NewReader(text)); err != nil {
		return err
	}
	if in.Config.Retain.Owners == "id" {
		if err := in.List.CheckOwners(retain.ByID); err != nil {
			return err
		}
	}
	if text, err = in.Archive.Content(config.ModuleIndexPath); err != nil {
		return err
	}
	if in.Index, err = kmod.DecodeIndex(bytes.NewReader(text)); err != nil {
		return err
	}
	if err := in.readLifeboat(); err != nil {
		return err
	}
	for _, name := range in.Archive.Names() {
		content, err := in.Archive.Content(name)
		if err != nil {
			return err
		}
		in.RawBytes += int64(len(content))
		if path.Dir(name) == strings.TrimPrefix(config.KeyDir, "/") || path.Dir(name) == config.KeyDir {
			key, err := image.ParseKey(path.Base(name), content)
			if err != nil {
				return err
			}
			in.Keys = append(in.Keys, key)
		}
	}
	return nil
}

func (in *Initrd) readLifeboat() error {
	bootImg, err := in.Archive.Content(config.LifeboatBootPath)
	if errors.Is(err, initramfs.ErrNotThere) {
		if in.Config.PowerCut.Lifeboat == "require" {
			return report.Hint(errors.New(`power_cut.lifeboat = "require", but this initrd has no lifeboat`), "build it anew with imagebuild initrd, on a host with grub-common and grub-pc-bin")
		}
		return nil
	}
	if err != nil {
		return err
	}
	coreImg, err := in.Archive.Content(config.LifeboatCorePath)
	if err != nil {
		return err
	}
	in.Lifeboat, err = boot.ParseLifeboatCore(bootImg, coreImg)
	return err
}

// CheckKernel makes sure that its modules are for the kernel: any other would boot
// and find no disk. It returns the kernel's version, as uname -r prints it.
func (in *Initrd) CheckKernel(kernel io.ReaderAt) (string, error) {
	is, err := boot.IsKernel(kernel)
	if err != nil {
		return "", err
	}
	if !is {
		return "", errors.New("not a kernel: expected a Linux bzImage")
	}
	version, err := boot.KernelVersion(kernel)
	if err != nil {
		return "", err
	}
	if version != in.Index.Kernel && len(in.Index.Modules) > 0 {
		return "", report.Hint(fmt.Errorf("the kernel is %s, but the initrd has modules for %s", version, in.Index.Kernel), "build the initrd with --modules /lib/modules/%s", version)
	}
	return version, nil
}
