package media

import (
	"context"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"reimager/report"
)

// plainNames refuses names that FAT would change or mistake for each other.
func plainNames(names []string) error {
	seen := map[string]bool{}
	for _, name := range names {
		lower := strings.ToLower(name)
		if !regexp.MustCompile(`^[A-Za-z0-9_+-][A-Za-z0-9._+-]*$`).MatchString(name) || seen[lower] {
			return report.Hint(fmt.Errorf("make stick: the release has a file %q, which a FAT cannot tell from another, or keep", name), "pack the release with plain names")
		}
		seen[lower] = true
	}
	return nil
}

// fatBytes is the size of the filesystem: the files, each rounded up to a large cluster,
// the two tables with four bytes for each small one, and some room.
func (m *maker) fatBytes() (int64, error) {
	const cluster, smallest = 32 << 10, 64 * mib // FAT32 needs 65,525 clusters of 512 bytes at least
	total := int64(0)
	for _, f := range m.files {
		info, err := os.Stat(f.from)
		if err != nil {
			return 0, fmt.Errorf("make stick: %w", err)
		}
		total += (info.Size() + cluster - 1) / cluster * cluster
	}
	total += total/50 + 8*mib
	return max(smallest, (total+mib-1)/mib*mib), nil
}

// writeFAT makes the filesystem in the stick's image and copies all files into it.
func (m *maker) writeFAT(ctx context.Context, stick string, size int64) error {
	if err := run(ctx, "mkfs.vfat", "-F", "32", "-n", "REIMAGER", "-i", strings.ReplaceAll(m.VolumeID, "-", ""),
		"-h", strconv.Itoa(partStart/sectorBytes), "--offset", strconv.Itoa(partStart/sectorBytes), stick, strconv.FormatInt(size/1024, 10)); err != nil {
		return err
	}
	at := stick + "@@" + strconv.Itoa(partStart)
	var dirs []string
	for _, f := range m.files {
		for dir := path.Dir(f.path); dir != "/" && !slices.Contains(dirs, dir); dir = path.Dir(dir) {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs) // parents first
	for _, dir := range dirs {
		if err := run(ctx, "mmd", "-i", at, "::"+dir); err != nil {
			return err
		}
	}
	for _, f := range m.files {
		if err := run(ctx, "mcopy", "-i", at, f.from, "::"+f.path); err != nil {
			return fmt.Errorf("copy %s: %w", f.path, err)
		}
	}
	return nil
}
