package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"reimager/disk"
	"reimager/image"
	"reimager/report"
)

// inspectRelease shows a manifest; whether to trust it is verify's question.
func inspectRelease(dir string, asJSON bool, out io.Writer) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("inspect: %w", err)
	}
	defer root.Close()
	if !image.IsRelease(root) {
		return report.Hint(fmt.Errorf("inspect %s: there is no %s in it", dir, image.ManifestName), "name a release of imagebuild pack, or an initrd of imagebuild initrd")
	}
	release, err := image.OpenRelease(root, image.Trust{Unsigned: true, Unchecked: true})
	if err != nil {
		return err
	}
	if asJSON {
		text, err := release.Manifest.Encode()
		if err != nil {
			return err
		}
		_, err = out.Write(text)
		return err
	}
	return printManifest(release, root, out)
}

func printManifest(release *image.Release, root *os.Root, out io.Writer) error {
	m := release.Manifest
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(what, format string, args ...any) { fmt.Fprintf(t, what+"\t"+format+"\n", args...) }
	line("release", "%s", m)
	line("counter", "%d", m.Counter)
	if len(m.Compatible) > 0 {
		line("compatible", "%s", strings.Join(m.Compatible, ", "))
	}
	if _, err := root.Stat(image.ManifestName + image.SignatureSuffix); err == nil {
		line("signature", "there; imagebuild verify says whose")
	} else {
		line("signature", "none")
	}
	line("image", "%s: %s, %s decoded, SHA-256 %s", m.Image.Name, disk.Size(m.Image.Bytes), disk.Size(m.Image.RawBytes), m.Image.SHA256)
	line("block map", "%s: %s in %d ranges", m.Map.Name, disk.Size(m.Image.MappedBytes), len(release.Map.Ranges))
	if m.Kernel != nil {
		line("kernel", "%s: %s, SHA-256 %s", m.Kernel.Name, m.Kernel.Version, m.Kernel.SHA256)
	}
	if m.Initrd != nil {
		line("initrd", "%s: %s, SHA-256 %s", m.Initrd.Name, disk.Size(m.Initrd.Bytes), m.Initrd.SHA256)
	}
	line("disk", "at least %s in sectors of %d, %s, boots with %s", disk.Size(m.Disk.MinBytes), m.Disk.SectorSize, m.Disk.Table, strings.Join(m.Disk.Firmware, " and "))
	line("memory", "%s, and what is retained", disk.Size(m.Memory.Bytes))
	if s := m.System; s != nil {
		line("system", "%s", s.OSRelease["PRETTY_NAME"])
		for _, f := range s.Filesystems {
			free := ""
			if f.FreeBytes != nil {
				free = ", " + disk.Size(*f.FreeBytes) + " free"
			}
			if f.FreeInodes != nil {
				free += fmt.Sprintf(", %d inodes free", *f.FreeInodes)
			}
			line(fmt.Sprintf("partition %d", f.Partition), "%s, %s%s", f.Type, disk.Size(f.Bytes), free)
		}
		line("accounts", "%d users, %d groups", len(s.Users), len(s.Groups))
		line("paths", "%d at /etc and below", len(s.Paths))
		for _, missing := range s.Missing {
			line("not known", "%s", missing)
		}
	}
	return t.Flush()
}
