package retain

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Options for Restore and Verify.
type Options struct {
	Owners OwnerRule
	// Progress, which may be nil, is called with the bytes of the archive so far.
	Progress func(bytes int64)
}

// Restore puts the archive's files back beneath the new root at rootDir, with
// content, owner, mode, extended attributes (security.capability last) and
// modification time, in this order; directories get theirs in the end, deepest
// first. The account files of the new root give the owners; if the archive
// itself has etc/passwd or etc/group, which Capture writes first, these do.
//
// A file is written under a temporary name in its directory and then renamed:
// at each moment the old one or the new one is there, whole. Nothing is synced
// to the disk: errors of delayed writes come when the caller does that.
//
// The parents of a path are resolved inside the root, so that a merged /usr
// works; missing ones are made, root:root 0755. The last component is never
// followed. Where something is in the way:
//
//	in the archive   in the new system          what happens
//	no directory     no directory, any link     replaced
//	no directory     an empty directory         replaced
//	no directory     a directory with content   conflict
//	                 or a mount point
//	directory        directory                  merged; owner, mode, time and
//	                                            extended attributes as archived
//	directory        link to a directory        merged with what it leads to,
//	                 inside the root            inside the root
//	directory        anything else              conflict
//	anything         parent is no directory,    conflict
//	                 or a link to nothing
//	hard link        its target was not put     conflict
//	                 back by this archive
//
// The archive is taken as hostile. A leading slash is dropped; names with "..",
// the root itself, unknown types and owner numbers that don't fit are conflicts.
// Nothing is written outside the root.
//
// The Report has every conflict, every owner name that the new system lacks and
// every attribute that its filesystem refused. The error is for what ends the
// run: reading, writing, no space; it names the path, and the Report tells what
// had been done.
func Restore(ctx context.Context, rootDir string, archive io.Reader, opts Options) (*Report, error) {
	report := &Report{}
	root, err := OpenRoot(rootDir)
	if err != nil {
		return report, err
	}
	defer root.Close()
	accounts, err := readAccounts(root)
	if err != nil {
		return report, err
	}
	r := &restorer{
		ctx: ctx, root: root, dirs: &dirCache{root: root}, report: report,
		owners: owners{rule: opts.Owners, accounts: accounts},
		in:     newReader(archive), sum: sha256.New(), done: map[string]bool{},
		buf: make([]byte, bufferBytes), xattrBuf: make([]byte, maxXattr),
	}
	defer r.dirs.flush()
	err = r.all(opts.Progress)
	report.Unmapped = r.owners.report()
	return report, err
}

type restorer struct {
	ctx      context.Context
	root     *Root
	dirs     *dirCache
	in       *reader
	owners   owners
	report   *Report
	sum      hash.Hash
	buf      []byte
	xattrBuf []byte
	stale    bool            // forget dirs before the next entry
	done     map[string]bool // paths that are no directories and were put back
	pending  []pendingDir

	// Whether files inherit an ACL from the directory that was used last.
	inheritRel string
	inherit    bool
}

// pendingDir is a directory that still gets its attributes.
type pendingDir struct {
	item
	index int // in the report's entries
}

func (r *restorer) all(progress func(int64)) error {
	for {
		if err := r.ctx.Err(); err != nil {
			return fmt.Errorf("restore %s: %w", r.root.dir, err)
		}
		it, err := r.in.next()
		if err == io.EOF {
			break
		}
		if it.header == nil {
			return err
		}
		if err == nil {
			err = r.entry(it)
		}
		if err := r.settle(it, err); err != nil {
			return err
		}
		if progress != nil {
			progress(r.in.counted.n)
		}
	}
	return r.finishDirs()
}

// settle keeps a conflict for the report and returns any other error.
func (r *restorer) settle(it item, err error) error {
	var conflict conflictError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &conflict):
		r.report.Conflicts = append(r.report.Conflicts, Conflict{it.conflictPath(), conflict.Error()})
		return nil
	}
	return fmt.Errorf("restore %s: %w", r.root.display(it.rel), err)
}

func (r *restorer) entry(it item) error {
	if r.stale {
		r.dirs.flush()
		r.stale, r.inheritRel = false, ""
	}
	uid, gid, err := r.owners.of(it.header)
	if err != nil {
		return err
	}
	restored := Restored{Record: it.record(), UID: uid, GID: gid}
	above, name := splitLast(it.rel)
	dir, err := r.parent(above)
	if err != nil {
		return err
	}
	r.noteInheritance(dir, above)
	switch it.kind {
	case TypeDirectory:
		restored.Replaced, err = r.directory(it, dir, name)
		if err == nil {
			r.pending = append(r.pending, pendingDir{it, len(r.report.Entries)})
		}
	case TypeHardLink:
		restored.Replaced, err = r.hardLink(it, dir, name)
	default:
		restored.Replaced, err = r.replace(it, dir, name, &restored)
	}
	if err != nil {
		return err
	}
	if it.kind != TypeDirectory {
		r.done[it.rel] = true
	}
	r.report.Entries = append(r.report.Entries, restored)
	r.report.ContentBytes += restored.Bytes
	if isAccountsFile(it.rel) {
		if r.owners.accounts, err = readAccounts(r.root); err != nil {
			return err
		}
	}
	return nil
}

// noteInheritance asks once per directory, not once per file. Any error counts as
// a yes: then each file is looked at. Directories get their own default ACLs only
// in the end, so the answer stays right while their files are put back.
func (r *restorer) noteInheritance(dir int, rel string) {
	if rel == r.inheritRel && rel != "" {
		return
	}
	_, err := unix.Fgetxattr(dir, xattrDefaultACL, nil)
	r.inheritRel, r.inherit = rel, err != unix.ENODATA && err != unix.EOPNOTSUPP
}

// parent opens a directory for what is put into it, and makes what is missing.
func (r *restorer) parent(rel string) (int, error) {
	dir, err := r.dirs.open(rel)
	if err == nil {
		return dir, nil
	}
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return -1, conflictError("a directory above it is none in the new system")
	case errors.Is(err, unix.ELOOP):
		return -1, conflictError("a directory above it is a link that leads in a circle")
	case errors.Is(err, unix.ENAMETOOLONG):
		return -1, refusedName(unix.ENAMETOOLONG)
	case !errors.Is(err, unix.ENOENT) || rel == "":
		return -1, err
	}
	above, name := splitLast(rel)
	if dir, err = r.parent(above); err != nil {
		return -1, err
	}
	if err := unix.Mkdirat(dir, name, 0o755); err != nil {
		if err == unix.EEXIST {
			return -1, conflictError("a directory above it is a link to nothing in the new system")
		}
		return -1, fmt.Errorf("make directory %s: %w", r.root.display(rel), err)
	}
	r.report.CreatedParents = append(r.report.CreatedParents, absolute(rel))
	if dir, err = r.dirs.open(rel); err != nil {
		return -1, err
	}
	return dir, r.plainParent(dir, rel)
}

// plainParent takes back what the umask, a setgid bit or a default ACL above
// made of a new directory.
func (r *restorer) plainParent(dir int, rel string) error {
	it := item{rel: rel}
	if unix.Geteuid() == 0 {
		if err := r.tolerate(it, "owner", unix.Fchown(dir, 0, 0)); err != nil {
			return err
		}
	}
	if err := r.tolerate(it, "mode", unix.Fchmod(dir, 0o755)); err != nil {
		return err
	}
	return r.removeExtra(it, xattrObject{fd: dir})
}

// directory makes or finds a directory; its attributes come in the end.
func (r *restorer) directory(it item, dir int, name string) (merged bool, err error) {
	// Closed to others until it has its own owner and mode.
	if err := unix.Mkdirat(dir, name, 0o700); err != unix.EEXIST {
		return false, refusedName(err)
	}
	// Opening follows a link in the last place, inside the root.
	_, err = r.dirs.open(it.rel)
	switch {
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP):
		return false, conflictError("it is a directory in the archive and none, nor a link to one, in the new system")
	}
	return true, err
}

// finishDirs gives directories their attributes, deepest first.
func (r *restorer) finishDirs() error {
	r.dirs.flush()
	slices.SortStableFunc(r.pending, func(a, b pendingDir) int {
		return cmp.Compare(strings.Count(b.rel, "/"), strings.Count(a.rel, "/"))
	})
	for _, p := range r.pending {
		if err := r.ctx.Err(); err != nil {
			return fmt.Errorf("restore %s: %w", r.root.display(p.rel), err)
		}
		fd, err := r.dirs.open(p.rel)
		switch {
		case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP):
			err = conflictError("a later entry of the archive took its place")
		case err == nil:
			e := r.report.Entries[p.index]
			err = r.attributes(p.item, xattrObject{fd: fd}, e.UID, e.GID)
		}
		if err := r.settle(p.item, err); err != nil {
			return err
		}
	}
	return nil
}
