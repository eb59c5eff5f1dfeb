package prove

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"reimager/vm"
)

// Where things lie on the old system, as `reimager arm` puts them.
const (
	jobFile    = "/boot/reimager/job.json"
	gateFile   = "/boot/reimager/gate"
	reportFile = "/var/lib/reimager/report"
	releaseDir = "/release"
)

// tree is what goes into one filesystem: files on the host, and who owns them there.
type tree struct {
	dir    string            // on the host
	owners map[string][2]int // of paths in dir; all others are root's
}

// write writes a file of the tree.
func (t *tree) write(name, content string, mode os.FileMode) error {
	file := filepath.Join(t.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(content), mode)
}

// add writes a file that is retained.
func (t *tree) add(name string, f standIn) error {
	t.owners[name] = [2]int{int(f.uid), int(f.gid)}
	if !f.directory {
		return t.write(name, f.content, os.FileMode(f.mode))
	}
	// Readable for us, too, until it is copied.
	if err := os.MkdirAll(filepath.Join(t.dir, name), 0o755); err != nil {
		return err
	}
	return os.Chmod(filepath.Join(t.dir, name), os.FileMode(f.mode))
}

// buildDisk makes the stand-in's disk. work is a directory for what is needed only
// meanwhile; release holds the release's files, and is taken over.
func buildDisk(ctx context.Context, file, work, release string, m *machine, old *oldSystem, job, gate, report []byte) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	if err := errors.Join(f.Truncate(m.bytes), f.Close()); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	if err := m.writeTable(ctx, file); err != nil {
		return err
	}
	trees := map[int]*tree{}
	for _, p := range m.parts {
		if p.uuid != "" {
			t := &tree{dir: filepath.Join(work, "partition"+strconv.Itoa(p.number)), owners: map[string][2]int{}}
			if err := os.Mkdir(t.dir, 0o755); err != nil {
				return fmt.Errorf("make disk: %w", err)
			}
			trees[p.number] = t
		}
	}
	err = errors.Join(
		m.fill(trees, old, job, gate, report),
		os.Rename(release, filepath.Join(trees[m.release().number].dir, releaseDir)))
	if err != nil {
		return fmt.Errorf("make old system: %w", err)
	}
	for _, p := range m.parts {
		if t := trees[p.number]; t != nil {
			if err := makeExt4(ctx, file, p, t); err != nil {
				return fmt.Errorf("make partition %d of the old system: %w", p.number, err)
			}
			if err := os.RemoveAll(t.dir); err != nil {
				return fmt.Errorf("make old system: %w", err)
			}
		}
	}
	return nil
}

// fill puts the old system's files into the filesystems that they belong to.
func (m *machine) fill(trees map[int]*tree, old *oldSystem, job, gate, report []byte) error {
	root := trees[m.root().number]
	fstab := fmt.Sprintf("UUID=%s / ext4 defaults 0 1\n", m.root().uuid)
	for _, p := range m.parts {
		for _, dir := range p.mounts {
			fstab += fmt.Sprintf("UUID=%s %s ext4 defaults 0 2\n", p.uuid, strings.ReplaceAll(dir, " ", `\040`))
			inner, name := m.place(dir, true)
			if err := os.MkdirAll(filepath.Join(trees[inner.number].dir, name), 0o755); err != nil {
				return err
			}
		}
	}
	all := []error{
		root.write("/etc/fstab", fstab, 0o644),
		root.write("/etc/passwd", old.passwd, 0o644),
		root.write("/etc/group", old.group, 0o644),
		root.write("/etc/os-release", "ID=prove\nPRETTY_NAME=\"Stand-in of imagebuild prove\"\n", 0o644),
		root.write(jobFile, string(job), 0o600),
		root.write(gateFile, string(gate), 0o600),
		root.write(reportFile, string(report), 0o600),
	}
	for _, f := range old.files {
		p, name := m.place(f.path, false)
		all = append(all, trees[p.number].add(name, f))
	}
	return errors.Join(all...)
}

// place tells on which partition of the old system a path lies, and where there.
// A mount point itself lies, as a directory, on the partition around it.
func (m *machine) place(name string, around bool) (partition, string) {
	best, at := m.root(), ""
	for _, p := range m.parts {
		for _, dir := range p.mounts {
			if (strings.HasPrefix(name, dir+"/") || name == dir && !around) && len(dir) > len(at) {
				best, at = p, dir
			}
		}
	}
	return best, path.Join("/", strings.TrimPrefix(name, at))
}

// writeTable writes the partition table.
func (m *machine) writeTable(ctx context.Context, file string) error {
	const sector = 512
	var script strings.Builder
	fmt.Fprintf(&script, "label: %s\nlabel-id: %s\nunit: sectors\n", m.label, m.id)
	for _, p := range m.parts {
		kind := "L"
		if p.extended {
			kind = "E"
		}
		fmt.Fprintf(&script, "%d : start=%d, size=%d, type=%s", p.number, p.start/sector, p.size/sector, kind)
		if p.partUUID != "" {
			fmt.Fprintf(&script, ", uuid=%s", p.partUUID)
		}
		if p.name != "" {
			fmt.Fprintf(&script, ", name=%q", p.name)
		}
		script.WriteByte('\n')
	}
	_, _, err := vm.Command{
		Name: "sfdisk", Args: []string{"--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "never", file},
		Stdin: strings.NewReader(script.String()),
	}.Run(ctx)
	if err != nil {
		return fmt.Errorf("write partition table: %w\n%s", err, script.String())
	}
	return nil
}

// makeExt4 has mke2fs copy the tree, which leaves its owners to be set: without root
// every file on the host is ours.
func makeExt4(ctx context.Context, file string, p partition, t *tree) error {
	args := []string{"-t", "ext4", "-F", "-q", "-b", "4096", "-U", p.uuid, "-d", t.dir,
		"-E", "offset=" + strconv.FormatInt(p.start, 10) + ",root_owner=0:0,nodiscard"}
	if p.label != "" {
		args = append(args, "-L", p.label)
	}
	if _, err := vm.Run(ctx, "mke2fs", append(args, file, strconv.FormatInt(p.size/1024, 10)+"k")...); err != nil {
		return err
	}
	var requests []string
	err := filepath.WalkDir(t.dir, func(name string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name = path.Join("/", strings.TrimPrefix(name, t.dir))
		for i, field := range []string{"uid", "gid"} {
			requests = append(requests, fmt.Sprintf("sif %s %s %d", quote(name), field, t.owners[name][i]))
		}
		return nil
	})
	if err != nil {
		return err
	}
	_, err = extAt{file, p.start}.run(ctx, true, requests...)
	return err
}

// extAt is an ext2/3/4 filesystem within a file.
type extAt struct {
	file   string
	offset int64
}

// run runs requests of debugfs, which exits 0 whatever happens, and has no word
// for "all went well" either: what it says on standard error is an error.
func (e extAt) run(ctx context.Context, write bool, requests ...string) ([]byte, error) {
	args := []string{"-f", "-", e.file + "?offset=" + strconv.FormatInt(e.offset, 10)}
	if write {
		args = slices.Insert(args, 0, "-w")
	}
	out, said, err := vm.Command{Name: "debugfs", Args: args, Stdin: strings.NewReader(strings.Join(requests, "\n") + "\n")}.Run(ctx)
	for line := range strings.Lines(string(said)) {
		if line = strings.TrimSpace(line); err == nil && line != "" && !strings.HasPrefix(line, "debugfs 1.") {
			err = errors.New(line)
		}
	}
	return out, err
}

// quote quotes an argument of debugfs: ss_parse in e2fsprogs' lib/ss/parse.c.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// read returns the content of a file.
func (e extAt) read(ctx context.Context, name string) ([]byte, error) {
	// dump and not cat: with -f debugfs repeats each request on standard output.
	dir, err := os.MkdirTemp("", "prove-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // a leftover in the temporary directory harms nobody
	to := filepath.Join(dir, "file")
	if _, err := e.run(ctx, false, "dump "+quote(name)+" "+quote(to)); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	content, err := os.ReadFile(to)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return content, nil
}
