package lab

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"reimager/vm"
)

// makeExt4 unpacks the partition's files to a staging directory and has
// mkfs.ext4 copy them in, both within one fakeroot session when we are not
// root, so that owners and devices are those of the table.
func makeExt4(ctx context.Context, disk string, p Partition, at BuiltPartition) (err error) {
	stage, err := os.MkdirTemp("", "lab-stage-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeStage(stage)) }()
	mkfs, err := vm.FindProgram("mkfs.ext4")
	if err != nil {
		return err
	}
	script := `set -e
stage=$1 tarball=$2
shift 2
unpack="tar -x --numeric-owner -p --delay-directory-restore"
[ -z "$tarball" ] || $unpack -f "$tarball" -C "$stage"
$unpack -f - -C "$stage"
exec "$@"`
	args := []string{"-c", script, "sh", stage, p.Tarball, mkfs, "-F", "-q", "-b", "4096", "-I", "256",
		"-U", at.UUID, "-L", p.Label, "-d", stage,
		"-E", "offset=" + strconv.FormatInt(at.Offset, 10) + ",hash_seed=" + FixedUUID("hash seed "+at.UUID) +
			",lazy_itable_init=0,lazy_journal_init=0,nodiscard",
	}
	features := p.Features
	if features == "" {
		features = "^metadata_csum_seed"
	}
	args = append(args, "-O", features, disk, strconv.FormatInt(at.Size/1024, 10)+"k")
	name := "sh"
	if os.Geteuid() != 0 {
		name, args = "fakeroot", append([]string{"--", "sh"}, args...)
	}
	if err := pipeTree(ctx, p.Tree, vm.Command{Name: name, Args: args, Env: fakeTime()}); err != nil {
		return err
	}
	if err := setXattrs(ctx, disk, p, at); err != nil {
		return err
	}
	if err := setNanoseconds(ctx, disk, p.Tree, at); err != nil {
		return err
	}
	return settleTimes(ctx, disk, at)
}

// pipeTree runs a command with the tree as a tar stream on its input.
func pipeTree(ctx context.Context, tree Tree, c vm.Command) error {
	r, w := io.Pipe()
	wrote := make(chan error, 1)
	go func() {
		err := tree.WriteTar(w)
		w.CloseWithError(err)
		wrote <- err
	}()
	c.Stdin = r
	_, _, err := c.Run(ctx)
	r.CloseWithError(io.ErrClosedPipe)
	treeErr := <-wrote
	if err != nil && errors.Is(treeErr, io.ErrClosedPipe) {
		treeErr = nil // the command's own words say more
	}
	return errors.Join(err, treeErr)
}

// removeStage also removes directories that their modes lock for us.
func removeStage(dir string) error {
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	_, chmodErr := vm.Run(context.Background(), "chmod", "-R", "u+rwX", dir)
	return errors.Join(chmodErr, os.RemoveAll(dir))
}

// setXattrs writes the extended attributes into the filesystem: tar cannot
// below fakeroot, whose mknod(2) takes a mode without type, as tar passes
// before it sets attributes, for no regular file.
func setXattrs(ctx context.Context, disk string, p Partition, at BuiltPartition) (err error) {
	attrs, err := tarballXattrs(p.Tarball)
	if err != nil {
		return err
	}
	for _, f := range p.Tree {
		attrs[cleanPath(f.Path)] = f.Xattrs
	}
	dir, err := os.MkdirTemp("", "lab-xattr-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	value := filepath.Join(dir, "value")
	for _, path := range slices.Sorted(maps.Keys(attrs)) {
		for _, name := range slices.Sorted(maps.Keys(attrs[path])) {
			if err := os.WriteFile(value, []byte(attrs[path][name]), 0o600); err != nil {
				return err
			}
			if _, err := debugfs(ctx, deviceAt(disk, at.Offset), true, "ea_set", "-f", value, "/"+path, name); err != nil {
				return fmt.Errorf("set extended attribute %s of %q: %w", name, path, err)
			}
		}
	}
	return nil
}

// setNanoseconds completes mtimes, of which mke2fs -d copies whole seconds:
// i_mtime_extra has them above two bits of epoch (fs/ext4/ext4.h).
func setNanoseconds(ctx context.Context, disk string, tree Tree, at BuiltPartition) error {
	files, err := tree.complete()
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.ModTime.Nanosecond() == 0 || f.HardLink != "" {
			continue
		}
		extra := strconv.Itoa(f.ModTime.Nanosecond() << 2)
		if _, err := debugfs(ctx, deviceAt(disk, at.Offset), true, "set_inode_field", "/"+f.Path, "mtime_extra", extra); err != nil {
			return fmt.Errorf("set mtime of %q: %w", f.Path, err)
		}
	}
	return nil
}

// tarballXattrs returns the attributes by clean path; those of hard links are
// the ones of the file that they link to.
func tarballXattrs(tarball string) (map[string]map[string]string, error) {
	attrs := map[string]map[string]string{}
	if tarball == "" {
		return attrs, nil
	}
	f, err := os.Open(tarball)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only: nothing can be lost
	archive := tar.NewReader(f)
	for {
		h, err := archive.Next()
		if err == io.EOF {
			return attrs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", tarball, err)
		}
		for key, value := range h.PAXRecords {
			name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
			if !ok || h.Typeflag == tar.TypeLink {
				continue
			}
			path := cleanPath(h.Name)
			if attrs[path] == nil {
				attrs[path] = map[string]string{}
			}
			attrs[path][name] = value
		}
	}
}

// fakeTime makes e2fsprogs write the same times whenever it runs; releases
// before 1.47.1 know only the second name.
func fakeTime() []string {
	at := strconv.FormatInt(Epoch().Unix(), 10)
	return []string{"SOURCE_DATE_EPOCH=" + at, "E2FSPROGS_FAKE_TIME=" + at}
}

// settleTimes sets atime and ctime of every inode: mke2fs -d copies those of
// the staging directory, which nobody can choose.
func settleTimes(ctx context.Context, disk string, at BuiltPartition) error {
	device := deviceAt(disk, at.Offset)
	used, err := usedInodes(ctx, device)
	if err != nil {
		return err
	}
	var script strings.Builder
	for _, inode := range used {
		for _, field := range []string{"atime", "ctime", "crtime"} {
			fmt.Fprintf(&script, "sif <%d> %s @%d\n", inode, field, Epoch().Unix())
		}
	}
	_, stderr, err := vm.Command{
		Stdin: strings.NewReader(script.String()), Env: fakeTime(), Name: "debugfs", Args: []string{"-w", "-f", "-", device},
	}.Run(ctx)
	return errors.Join(err, debugfsComplaint(stderr))
}

// usedInodes reads dumpe2fs, which prints the free inodes of each group.
func usedInodes(ctx context.Context, device string) ([]int, error) {
	out, err := vm.Run(ctx, "dumpe2fs", device)
	if err != nil {
		return nil, err
	}
	free, total := map[int]bool{}, 0
	for _, line := range strings.Split(string(out), "\n") {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch key {
		case "Inode count":
			if total, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
				return nil, fmt.Errorf("read inode count of %s: %w", device, err)
			}
		case "Free inodes":
			// Indented: a group's ranges; at the margin: the superblock's count.
			if !strings.HasPrefix(line, " ") || strings.TrimSpace(value) == "" {
				continue
			}
			if err := markRanges(free, total, value); err != nil {
				return nil, fmt.Errorf("read free inodes of %s: %w", device, err)
			}
		}
	}
	var used []int
	for inode := 1; inode <= total; inode++ {
		if !free[inode] && (inode == 2 || inode >= 11) {
			used = append(used, inode)
		}
	}
	return used, nil
}

// markRanges reads a list like "13-16, 20"; numbers go from 1 to last.
func markRanges(set map[int]bool, last int, list string) error {
	for _, field := range strings.Split(list, ",") {
		first, second, ranged := strings.Cut(strings.TrimSpace(field), "-")
		from, err := strconv.Atoi(first)
		if err != nil {
			return err
		}
		to := from
		if ranged {
			if to, err = strconv.Atoi(second); err != nil {
				return err
			}
		}
		if from < 1 || to > last {
			return fmt.Errorf("%d-%d does not lie between 1 and %d", from, to, last)
		}
		for i := from; i <= to; i++ {
			set[i] = true
		}
	}
	return nil
}
