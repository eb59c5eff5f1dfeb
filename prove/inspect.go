package prove

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/report"
	"reimager/retain"
)

// newSystem is the new system as it lies on the disk.
type newSystem struct {
	table *disk.Table
	kinds map[int]disk.Filesystem // by partition
	// mounts are its directories and the partitions on them; "/" is the root.
	mounts map[string]disk.Entry
}

// inspect compares the disk, without mounting it, with the release and with what the
// old system had.
func (r *run) inspect(ctx context.Context) error {
	f, err := os.Open(r.disk)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := r.findNew(ctx, f)
	if err != nil {
		return r.failed("restored", err)
	}
	same, err := r.compareRanges(f, n)
	if err != nil {
		return r.failed("read back", err)
	}
	rec, err := r.record(ctx, n)
	if err != nil {
		return r.failed("restored", err)
	}
	restore := 0.0
	if rec == nil {
		r.passed("written", 0, "sector 0 is the image's, which init writes last")
		r.passed("read back", 0, "by init, or it had not landed")
	} else {
		r.written(rec)
		restore = duration(rec, "restore").Seconds
	}
	said, err := r.restored(ctx, n, rec)
	if err != nil {
		return r.failed("restored", err)
	}
	r.passed("restored", restore, "%s; %s", said, same)
	return nil
}

// restored says how it is known that the retained files are back.
func (r *run) restored(ctx context.Context, n *newSystem, rec *report.Record) (string, error) {
	if len(r.old.files) == 0 {
		return "the list requires nothing", nil
	}
	if root, ok := n.mounts["/"]; !ok || !n.isExt(root) {
		return r.trustConsole()
	}
	back, err := r.compareFiles(ctx, n, rec)
	return fmt.Sprintf("%d of the %d files and directories that the list requires, found on the disk", back, len(r.old.files)), err
}

// findNew finds the new root and what it mounts.
func (r *run) findNew(ctx context.Context, f *os.File) (*newSystem, error) {
	table, err := disk.ReadTable(f, r.release.manifest.Disk.SectorSize)
	if err != nil {
		return nil, fmt.Errorf("read the new partition table: %w", err)
	}
	n := &newSystem{table: table, kinds: map[int]disk.Filesystem{}, mounts: map[string]disk.Entry{}}
	for _, e := range table.Entries {
		if n.kinds[e.Number], err = disk.Probe(io.NewSectionReader(f, e.Start, e.Bytes)); err != nil {
			return nil, fmt.Errorf("look at the new partition %d: %w", e.Number, err)
		}
	}
	c := r.release.initrd.Config.New
	root, ok := n.find(c.Root)
	if facts := r.release.manifest.System; !ok && facts != nil {
		root, ok = table.Entry(facts.Root)
	}
	if !ok {
		return n, nil // init has found it by its fstab
	}
	n.mounts["/"] = root
	for dir, device := range c.Mounts {
		if e, ok := n.find(device); ok {
			n.mounts[dir] = e
		}
	}
	if len(c.Mounts) > 0 || !n.isExt(root) {
		return n, nil
	}
	text, err := r.ext(root).read(ctx, "/etc/fstab")
	if err != nil {
		return nil, err
	}
	entries, err := disk.ParseFstab(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		device, err := config.ParseDevice(e.Spec)
		if part, ok := n.find(device); err == nil && ok && e.Local() && e.Dir != "/" {
			n.mounts[e.Dir] = part
		}
	}
	return n, nil
}

// find finds what a configuration or an fstab names; /dev/sda6 counts by its number.
func (n *newSystem) find(d config.Device) (disk.Entry, bool) {
	for _, e := range n.table.Entries {
		fs := n.kinds[e.Number]
		is := false
		switch d.Kind {
		case config.ByNumber:
			is = e.Number == d.Number()
		case config.ByPath:
			is = d.Value[len(strings.TrimRight(d.Value, "0123456789")):] == strconv.Itoa(e.Number)
		case config.ByUUID:
			is = fs.UUID != "" && strings.EqualFold(fs.UUID, d.Value)
		case config.ByLabel:
			is = fs.Label != "" && fs.Label == d.Value
		case config.ByPartUUID:
			is = strings.EqualFold(e.PartUUID, d.Value)
		case config.ByPartLabel:
			is = e.Name != "" && e.Name == d.Value
		}
		if is {
			return e, true
		}
	}
	return disk.Entry{}, false
}

func (n *newSystem) isExt(e disk.Entry) bool { return n.kinds[e.Number].Driver() == "ext4" }

func (r *run) ext(e disk.Entry) extAt { return extAt{r.disk, e.Start} }

// place tells on which partition of the new system a path lies, and where there.
func (n *newSystem) place(name string) (disk.Entry, string, bool) {
	at := "/"
	for dir := range n.mounts {
		if (name == dir || strings.HasPrefix(name, dir+"/")) && len(dir) > len(at) {
			at = dir
		}
	}
	e, ok := n.mounts[at]
	return e, path.Join("/", strings.TrimPrefix(name, at)), ok && n.isExt(e)
}

// compareRanges holds what no restore can have changed to the block map: the boot
// sector, what lies before the first partition, and all ranges that touch no
// filesystem. The rest was read back by init before it restored.
func (r *run) compareRanges(f *os.File, n *newSystem) (string, error) {
	// A GPT's header knows where its backup lies, which moves to the end of the disk.
	head := r.release.head[:512]
	if n.table.Kind == "mbr" {
		head = r.release.head
		for _, e := range n.table.Entries {
			head = head[:min(int64(len(head)), e.Start)]
		}
	}
	got := make([]byte, len(head))
	if _, err := f.ReadAt(got, 0); err != nil {
		return "", fmt.Errorf("read disk: %w", err)
	}
	for _, m := range r.release.blockMap.Ranges {
		// What is not mapped is not written.
		from, to := max(m.Off, 0), min(m.End(), int64(len(head)))
		if from < to && !bytes.Equal(got[from:to], head[from:to]) {
			return "", errors.New("compare the disk with the image: the boot code before the first partition differs")
		}
	}
	compared := int64(0)
	for _, m := range r.release.blockMap.Ranges {
		if n.mayDiffer(m.Extent, r.release.manifest.Image.RawBytes) {
			continue
		}
		content := make([]byte, m.Bytes)
		if _, err := f.ReadAt(content, m.Off); err != nil {
			return "", fmt.Errorf("read disk: %w", err)
		}
		if image.Digest(sha256.Sum256(content)) != m.Digest {
			return "", fmt.Errorf("compare the disk with the image: the %d bytes at byte %d differ", m.Bytes, m.Off)
		}
		compared += m.Bytes
	}
	return fmt.Sprintf("boot code and %s outside filesystems are the image's", disk.Size(compared)), nil
}

// mayDiffer tells whether restore, or the move of a GPT's backup, may have changed a
// range.
func (n *newSystem) mayDiffer(m image.Extent, imageBytes int64) bool {
	const tableBytes = 34 * 4096 // of a GPT at either end, whatever its sectors
	if n.table.Kind == "gpt" && (m.Off < tableBytes || m.End() > imageBytes-tableBytes) {
		return true
	}
	return slices.ContainsFunc(n.table.Entries, func(e disk.Entry) bool {
		return !e.Extended && n.kinds[e.Number].Mountable() && m.Off < e.Start+e.Bytes && e.Start < m.End()
	})
}

// record reads the record that the run has left; nil if only the console tells.
func (r *run) record(ctx context.Context, n *newSystem) (*report.Record, error) {
	dir := r.release.initrd.Config.New.LogDir
	if dir == config.LogOff {
		return nil, nil
	}
	e, name, ok := n.place(path.Join(dir, "record.json"))
	if !ok {
		return nil, nil
	}
	text, err := r.ext(e).read(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("read the run's record: %w", err)
	}
	rec := &report.Record{Retained: &retain.Report{}}
	if err := json.Unmarshal(text, rec); err != nil {
		return nil, fmt.Errorf("read the run's record: %w", err)
	}
	if _, ok := rec.Retained.(*retain.Report); !ok {
		rec.Retained = &retain.Report{} // null: nothing was retained
	}
	if rec.RunID != r.job.RunID || rec.Outcome != "restored" {
		return nil, fmt.Errorf("read the run's record: it says %q of run %s, expected \"restored\" of run %s", rec.Outcome, rec.RunID, r.job.RunID)
	}
	for _, w := range rec.Warnings {
		r.warn("%s", w)
	}
	return rec, nil
}

// trustConsole takes init's word, which has compared every file with the archive,
// where the new system cannot be read from here.
func (r *run) trustConsole() (string, error) {
	text, err := os.ReadFile(filepath.Join(r.Options.Output, reimageLog))
	if err != nil {
		return "", err
	}
	back := regexp.MustCompile(`restore +(\d+) files and directories are back`).FindSubmatch(text)
	if back == nil || !bytes.Contains(text, []byte("every one was read back and is as it was")) {
		return "", errors.New("the console does not say that every retained file is back as it was")
	}
	return fmt.Sprintf("%s files and directories, says init", back[1]), nil
}

// compareFiles holds what was restored to what the old system had.
func (r *run) compareFiles(ctx context.Context, n *newSystem, rec *report.Record) (back int, err error) {
	conflicts := map[string]bool{}
	if rec != nil {
		for _, c := range rec.Retained.(*retain.Report).Conflicts {
			conflicts[path.Join("/", string(c.Path))] = true
		}
	}
	var all []error
	for _, f := range r.old.files {
		// The record says why, and the warnings repeat it: prove may have guessed a file
		// where the new system has a directory.
		if conflicts[f.path] {
			continue
		}
		e, name, ok := n.place(f.path)
		if !ok {
			r.warn("%s lies on a filesystem that is not ext4; only init has compared it", f.path)
			continue
		}
		if err := r.compareFile(ctx, r.ext(e), name, f); err != nil {
			all = append(all, fmt.Errorf("compare retained %s: %w", f.path, err))
			continue
		}
		back++
	}
	return back, errors.Join(all...)
}

var statLine = regexp.MustCompile(`Type: (\S+)[\s\S]*?User: +(\d+) +Group: +(\d+)`)

func (r *run) compareFile(ctx context.Context, fs extAt, name string, f standIn) error {
	out, err := fs.run(ctx, false, "stat "+quote(name))
	if err != nil {
		return err
	}
	stat := statLine.FindSubmatch(out)
	if stat == nil {
		return fmt.Errorf("debugfs says %q", out)
	}
	kind := "regular"
	if f.directory {
		kind = "directory"
	}
	if string(stat[1]) != kind {
		return fmt.Errorf("it is %s, expected %s", stat[1], kind)
	}
	if got, want := fmt.Sprintf("%s:%s", stat[2], stat[3]), fmt.Sprintf("%d:%d", f.wantUID, f.wantGID); got != want {
		return fmt.Errorf("it belongs to %s, expected %s", got, want)
	}
	if f.directory {
		return nil
	}
	content, err := fs.read(ctx, name)
	if err == nil && string(content) != f.content {
		err = fmt.Errorf("%d bytes with another content, expected the %d of the old system", len(content), len(f.content))
	}
	return err
}
