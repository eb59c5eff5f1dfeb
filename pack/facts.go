package pack

import (
	"context"
	"fmt"
	"strings"

	"reimager/filesystem"
	"reimager/image"
)

// facts describes the system in the image.
func (p *packer) facts(ctx context.Context) (*image.SystemFacts, error) {
	s := &image.SystemFacts{Filesystems: []image.FilesystemFacts{}, UEFILoader: p.layout.loaders, UEFISigned: p.layout.signed, Missing: p.layout.missing}
	roots := 0
	for _, part := range p.layout.partitions {
		if part.Filesystem.Type == "" {
			continue
		}
		f, err := filesystem.Look(ctx, p.img, part.Start, part.Bytes, part.Filesystem)
		if err != nil {
			return nil, fmt.Errorf("look into partition %d: %w", part.Number, err)
		}
		s.Filesystems = append(s.Filesystems, image.FilesystemFacts{
			Partition: part.Number, Type: f.Type, UUID: f.UUID, Label: f.Label,
			Bytes: f.Bytes, FreeBytes: f.FreeBytes, FreeInodes: f.FreeInodes,
		})
		for _, m := range f.Missing {
			s.Missing = append(s.Missing, fmt.Sprintf("partition %d: %s", part.Number, m))
		}
		if f.Root != nil {
			if roots++; roots == 1 {
				addRoot(s, part.Number, f.Root)
			} else {
				s.Missing = append(s.Missing, fmt.Sprintf("partition %d has an fstab, too: the facts are those of partition %d", part.Number, s.Root))
			}
		}
	}
	if roots == 0 {
		s.Missing = append(s.Missing, "no partition with an /etc/fstab was found")
	}
	return s, nil
}

// addRoot takes over what is known of the root filesystem.
func addRoot(s *image.SystemFacts, partition int, r *filesystem.Root) {
	s.Root, s.FSTab, s.OSRelease = partition, r.Fstab, osRelease(r.OSRelease)
	s.Users, s.Groups = r.Users, r.Groups
	s.Paths = make(map[string]string, len(r.Etc))
	for _, p := range r.Etc {
		s.Paths[p.Path] = p.Kind
	}
	for _, m := range r.Missing {
		s.Missing = append(s.Missing, fmt.Sprintf("partition %d: %s", partition, m))
	}
}

// osRelease reads os-release(5): NAME=value in the quoting of a shell.
func osRelease(text string) map[string]string {
	values := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			quote := value[0]
			value = value[1 : n-1]
			if quote == '"' {
				value = strings.NewReplacer(`\"`, `"`, `\\`, `\`, `\$`, `$`, "\\`", "`").Replace(value)
			}
		}
		values[key] = value
	}
	return values
}
