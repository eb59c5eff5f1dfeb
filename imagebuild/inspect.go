package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"reimager/config"
	"reimager/disk"
	"reimager/initramfs"
	"reimager/initrd"
)

// inside is what imagebuild inspect shows, and its JSON.
type inside struct {
	Kernel   string       `json:"kernel"`
	Modules  []string     `json:"modules"`
	First    []string     `json:"modules_loaded_first"`
	BuiltIn  []string     `json:"modules_built_in,omitempty"`
	Lifeboat bool         `json:"lifeboat"`
	Config   string       `json:"config"`
	Retain   []string     `json:"retain"`
	Keys     []insideKey  `json:"keys"`
	Files    []insideFile `json:"files"`
}

type insideKey struct {
	Name string `json:"name"`
	ID   string `json:"id"`
}

type insideFile struct {
	Path   string `json:"path"`
	Mode   string `json:"mode"`
	Bytes  int    `json:"bytes"`
	SHA256 string `json:"sha256,omitempty"`
	Target string `json:"target,omitempty"`
}

func inspectCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "inspect RELEASE/|INITRD",
		Short: "Show what is in a release or an initrd",
		Long: `Shows what a release's manifest says, or what an initrd of imagebuild holds: the
kernel it is for, its modules, the configuration, the retention list, the trusted
keys, and every file with its mode, size and SHA-256. It checks them as init will;
that the files of a release are whole is imagebuild verify's to say.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			info, err := os.Stat(args[0])
			if err != nil {
				return fmt.Errorf("inspect: %w", err)
			}
			if info.IsDir() {
				return inspectRelease(args[0], asJSON, c.OutOrStdout())
			}
			in, err := look(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(in)
			}
			return in.print(c.OutOrStdout())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON; for a release, the manifest")
	return c
}

func look(name string) (*inside, error) {
	read, err := initrd.Read(name)
	if err != nil {
		return nil, err
	}
	in := &inside{Keys: []insideKey{}, Kernel: read.Index.Kernel, First: read.Index.First, Lifeboat: read.Lifeboat != nil}
	for _, k := range read.Keys {
		in.Keys = append(in.Keys, insideKey{k.Name, k.ID()})
	}
	text, err := read.Archive.Content(config.FilePath)
	if err != nil {
		return nil, err
	}
	in.Config = string(text)
	if text, err = read.Archive.Content(config.RetentionListPath); err != nil {
		return nil, err
	}
	in.Retain = strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	for _, m := range read.Index.Modules {
		in.Modules = append(in.Modules, m.Name)
	}
	for _, b := range read.Index.BuiltIns {
		in.BuiltIn = append(in.BuiltIn, b.Name)
	}
	return in, in.addFiles(read.Archive)
}

func (in *inside) addFiles(a *initramfs.Archive) error {
	const typeMask, directory, link, regular = 0o170000, 0o040000, 0o120000, 0o100000
	for _, name := range a.Names() {
		mode := a.Mode(name)
		f := insideFile{Path: name, Mode: fmt.Sprintf("%06o", mode)}
		content, err := a.Content(name)
		if err != nil {
			return err
		}
		switch mode & typeMask {
		case link:
			f.Target = string(content)
		case regular:
			sum := sha256.Sum256(content)
			f.Bytes, f.SHA256 = len(content), hex.EncodeToString(sum[:])
		}
		in.Files = append(in.Files, f)
	}
	return nil
}

func (in *inside) print(w io.Writer) error {
	fmt.Fprintf(w, "kernel    %s\n", in.Kernel)
	fmt.Fprintf(w, "modules   %s\n", strings.Join(in.Modules, " "))
	if len(in.BuiltIn) > 0 {
		fmt.Fprintf(w, "built in  %s\n", strings.Join(in.BuiltIn, " "))
	}
	lifeboat := "none"
	if in.Lifeboat {
		lifeboat = "GRUB for BIOS"
	}
	fmt.Fprintf(w, "lifeboat  %s\n", lifeboat)
	for _, k := range in.Keys {
		fmt.Fprintf(w, "key       %s (%s)\n", k.ID, k.Name)
	}
	fmt.Fprintf(w, "\nreimager.toml:\n%s\n", indent(in.Config))
	fmt.Fprintf(w, "\nretention list:\n%s\n\nfiles:\n", indent(strings.Join(in.Retain, "\n")))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	total := 0
	for _, f := range in.Files {
		digest := f.SHA256
		if len(digest) > 16 {
			digest = digest[:16]
		}
		if f.Target != "" {
			digest = "-> " + f.Target
		}
		fmt.Fprintf(t, "  %s\t%d\t%s\t%s\n", f.Mode, f.Bytes, f.Path, digest)
		total += f.Bytes
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d entries, %s unpacked\n", len(in.Files), disk.Size(int64(total)))
	return err
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  ")
}
