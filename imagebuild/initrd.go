package main

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"reimager/cli"
	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/initramfs"
	"reimager/kmod"
	"reimager/report"
	"reimager/retain"
)

// initrdOptions are the options of imagebuild initrd.
type initrdOptions struct {
	config, list, modules, init, reimager, grub, output string
	compress                                            string
	keys, includes                                      []string
}

func initrdCommand() *cobra.Command {
	var o initrdOptions
	c := &cobra.Command{
		Use:   "initrd --config FILE --retain FILE --modules DIR -o FILE",
		Short: "Bake an initrd",
		Long: `Bakes the initrd that replaces a machine's operating system: the static /init,
its configuration, the retention list, the trusted keys, and the kernel modules
that the configuration asks for with all that they depend on. Modules are
resolved here, so that a missing one is found here, and stored decompressed.

Unless the configuration says lifeboat = "off", GRUB's images for BIOS are made here
(grub-mkimage) and baked, by which a machine boots again after a power cut while its
disk is written. Where this host has no GRUB there is a warning instead; with lifeboat =
"require" it is an error.

The same input gives the same bytes. The output appears whole or not at all.`,
		Example: `  imagebuild initrd --config reimager.toml --retain retentionlist.txt \
      --modules /lib/modules/6.1.0-42-amd64 --key fleet.pub -o reimager.initrd

  # a diagnosis shell, for [console] diagnosis
  imagebuild initrd … --include /bin/busybox:/bin/sh -o reimager.initrd`,
		RunE: func(c *cobra.Command, _ []string) error {
			for _, name := range []string{"config", "retain", "modules", "output"} {
				if c.Flag(name).Value.String() == "" {
					return cli.Usagef("--%s is missing; see %s --help", name, c.CommandPath())
				}
			}
			return bakeInitrd(c.Context(), o, c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringVar(&o.config, "config", "", "the configuration, reimager.toml")
	f.StringVar(&o.list, "retain", "", "the retention list: one path or glob per line")
	f.StringVar(&o.modules, "modules", "", "module tree of the kernel that will boot the initrd, /lib/modules/VERSION")
	f.StringArrayVar(&o.keys, "key", nil, "a minisign public key file whose images are trusted; may be given several times")
	f.StringArrayVar(&o.includes, "include", nil, "HOSTPATH[:PATH]: a file or folder of this host, a program with its libraries; may be given several times")
	f.StringVar(&o.init, "init", "", "the static /init (default: init beside imagebuild)")
	f.StringVar(&o.reimager, "reimager", "", "the static reimager, baked where [report] names a place, for a new system that lacks it (default: reimager beside imagebuild)")
	f.StringVar(&o.grub, "grub", "", "the folder with GRUB's boot.img and modules for i386-pc (default: "+defaultGRUB+")")
	f.StringVar(&o.compress, "compress", string(initramfs.Gzip), "gzip, or zstd for kernels from 5.9 on")
	f.StringVarP(&o.output, "output", "o", "", "where to write the initrd")
	return c
}

func bakeInitrd(ctx context.Context, o initrdOptions, out io.Writer) error {
	a := initramfs.New()
	c, err := bakeConfig(a, o)
	if err != nil {
		return err
	}
	if err := bakeProgram(a, "init", o.init, config.InitPath); err != nil {
		return err
	}
	if c.Report.Named() {
		if err := bakeProgram(a, "reimager", o.reimager, config.ProgramPath); err != nil {
			return err
		}
	}
	wanted, err := wants(c.Machine.Modules, filepath.Dir(o.config))
	if err != nil {
		return err
	}
	if err := bakeModules(a, wanted, o.modules, out); err != nil {
		return err
	}
	if err := bakeLifeboat(ctx, a, c.PowerCut.Lifeboat, o.grub, out); err != nil {
		return err
	}
	for _, spec := range o.includes {
		if err := include(a, spec); err != nil {
			return err
		}
	}
	if _, err := a.Content(c.Console.Shell); len(c.Console.Diagnosis) > 0 && err != nil {
		return report.Hint(fmt.Errorf("check console.diagnosis: the shell %s is not in the initrd", c.Console.Shell), "add it, for example with --include /bin/busybox:%s", c.Console.Shell)
	}
	size, err := writeAtomically(a, o.output, initramfs.Compression(o.compress))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: %s\n", o.output, disk.Size(size))
	return nil
}

// writeAtomically writes an initrd so that its name never means half of one.
func writeAtomically(a *initramfs.Archive, name string, c initramfs.Compression) (size int64, err error) {
	f, err := renameio.NewPendingFile(name, renameio.WithPermissions(0o644))
	if err != nil {
		return 0, fmt.Errorf("write initrd: %w", err)
	}
	defer func() { err = errors.Join(err, f.Cleanup()) }()
	if err := a.Write(f, c); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return 0, fmt.Errorf("write initrd: %w", err)
	}
	return info.Size(), nil
}

// bakeConfig adds configuration, list and keys, each checked as init will check it.
func bakeConfig(a *initramfs.Archive, o initrdOptions) (*config.Config, error) {
	text, err := os.ReadFile(o.config)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	c, err := config.Parse(o.config, text)
	if err != nil {
		return nil, err
	}
	if err := a.File(config.FilePath, text, 0o600); err != nil {
		return nil, err
	}
	list, err := os.ReadFile(o.list)
	if err != nil {
		return nil, fmt.Errorf("read retention list: %w", err)
	}
	parsed, err := retain.ParseList(o.list, bytes.NewReader(list))
	if err == nil && c.Retain.Owners == "id" {
		err = parsed.CheckOwners(retain.ByID)
	}
	if err != nil {
		return nil, err
	}
	if err := a.File(config.RetentionListPath, list, 0o600); err != nil {
		return nil, err
	}
	for _, name := range o.keys {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read key: %w", err)
		}
		if _, err := image.ParseKey(name, text); err != nil {
			return nil, err
		}
		if err := a.File(path.Join(config.KeyDir, filepath.Base(name)), text, 0o644); err != nil {
			return nil, err
		}
	}
	if c.Trust.Signature == "require" && len(o.keys) == 0 {
		return nil, report.Hint(fmt.Errorf(`%s: trust.signature = "require", but no key is given`, o.config),
			`give the public key with --key, or allow unsigned images with signature = "if-present"`)
	}
	return c, nil
}

// bakeProgram adds a program of ours and refuses one that needs a dynamic linker,
// which no initrd of ours has. name is what it is called beside imagebuild; file is
// where the operator says that it is, or "".
func bakeProgram(a *initramfs.Archive, name, file, inside string) error {
	if file == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		file = filepath.Join(filepath.Dir(self), name)
	}
	binary, err := os.ReadFile(file)
	if err != nil {
		return report.Hint(fmt.Errorf("read %s: %w", name, err), "build it with `just build`, or name it with --%s", name)
	}
	f, err := elf.NewFile(bytes.NewReader(binary))
	if err != nil {
		return fmt.Errorf("read %s %s: %w", name, file, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return report.Hint(fmt.Errorf("read %s %s: it is dynamically linked", name, file), "build it with CGO_ENABLED=0")
		}
	}
	return a.File(inside, binary, 0o755)
}

// wants turns the configuration's modules into what kmod resolves. dir is the
// configuration's folder, from which a hardware file is named.
func wants(m config.Modules, dir string) ([]kmod.Want, error) {
	switch {
	case m.Set == "classic":
		return kmod.Classic(), nil
	case m.Set == "all-storage":
		return kmod.AllStorage(), nil
	case m.File != "":
		name := m.File
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, report.Hint(fmt.Errorf("read machine.modules: %w", err), "write the file on the machine with reimager hardware -o FILE, and put it beside reimager.toml")
		}
		hw, err := kmod.ParseHardware(name, text)
		if err != nil {
			return nil, err
		}
		return hw.Wants(), nil
	}
	var all []kmod.Want
	for _, name := range m.Names {
		all = append(all, kmod.Want{Name: name})
	}
	return all, nil
}

func bakeModules(a *initramfs.Archive, wanted []kmod.Want, dir string, out io.Writer) error {
	tree, err := kmod.OpenTree(dir)
	if err != nil {
		return err
	}
	selection, err := tree.Resolve(wanted)
	if err != nil {
		return err
	}
	for _, mod := range selection.Modules {
		content, err := tree.Read(mod)
		if err != nil {
			return err
		}
		if err := a.File(path.Join(config.ModuleDir, mod.File()), content, 0o644); err != nil {
			return err
		}
	}
	var index bytes.Buffer
	if err := selection.Index().Encode(&index); err != nil {
		return err
	}
	fmt.Fprintf(out, "kernel %s: %d modules\n", selection.Version, len(selection.Modules))
	byState := map[kmod.State][]string{}
	for _, w := range selection.Wanted {
		if w.State != kmod.Included {
			byState[w.State] = append(byState[w.State], w.Name)
		}
	}
	for _, state := range []kmod.State{kmod.BuiltInto, kmod.Missing} {
		if names := byState[state]; len(names) > 0 {
			sort.Strings(names)
			note := ""
			if state == kmod.Missing {
				note = " (optional)"
			}
			fmt.Fprintf(out, "%s%s: %s\n", state, note, strings.Join(names, " "))
		}
	}
	return a.File(config.ModuleIndexPath, index.Bytes(), 0o644)
}
