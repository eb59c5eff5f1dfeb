package retain

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"reimager/accounts"
)

// Options for Restore and Verify.
type Options struct {
	Owners OwnerRule
	// Progress, which may be nil, is called with the bytes of the archive so far.
	Progress func(bytes int64)
}

// Restore puts the archive's files back beneath the new root at rootDir, with
// content, owner, mode, extended attributes (security.capability last),
// modification time and inode flags, in this order; directories get theirs in the
// end, deepest first. The account files of the new root give the owners, and those
// whom POSIX ACLs name; if the archive itself has etc/passwd or etc/group, which
// Capture writes first, these do.
//
// What replaces a file is written under a temporary name in its directory and
// then renamed: at each moment the old one or the new one is there, whole. What is
// new is made under its own name, and removed if it can't be finished; after a
// power cut a part of it may be there, which the next run replaces. Nothing is
// synced to the disk: errors of delayed writes come when the caller does that.
//
// What is immutable or append-only in the new root is no obstacle: a file that is
// replaced loses the flag, a directory gets it back in the end.
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
	root, err := OpenRoot(rootDir)
	if err != nil {
		return &Report{}, err
	}
	defer root.Close()
	known, err := readAccounts(root)
	if err != nil {
		return &Report{}, err
	}
	r := &restorer{
		ctx: ctx, root: root, dirs: &dirCache{root: root}, in: newReader(archive),
		owners: owners{rule: opts.Owners, accounts: known}, maker: newMaker(ctx),
		unlocked: map[dirKey]unlocked{}, put: map[placeKey]Path{},
	}
	defer r.dirs.flush()
	r.in.onAttachment = r.mergeAccounts
	r.crew = newCrew(ctx)
	err = r.all(opts.Progress)
	if r.batch != nil {
		unix.Close(r.batch.to.fd) // after an error; an open directory keeps the root from being unmounted
	}
	r.crew.dismiss()
	err = errors.Join(err, r.relock())
	report := r.crew.report()
	report.CreatedParents = r.createdParents
	report.Unmapped = r.owners.report()
	report.Accounts = r.accountsReport
	if r.accountsConflict != "" {
		report.Conflicts = append(report.Conflicts, Conflict{SetAccounts, r.accountsConflict})
	}
	return report, err
}

// restorer reads the archive and decides, entry by entry. Directories, hard links
// and large files it makes itself; all others it gives to the crew.
type restorer struct {
	ctx            context.Context
	root           *Root
	dirs           *dirCache
	in             *reader
	owners         owners
	maker          *maker
	crew           *crew
	createdParents []Path
	pending        []pendingDir
	unlocked       map[dirKey]unlocked // directories that were immutable or append-only
	at             destination         // the directory that was used last
	batch          *batch              // for it, not given to the crew yet
	accountsReport *accounts.Report
	// accountsConflict says why they were not merged; "" if they were, or need not be.
	accountsConflict string
	put              map[placeKey]Path // what was put back, by where it really lies
}

// pendingDir is a directory that still gets its attributes.
type pendingDir struct {
	item
	index int // in the crew's slots
}

// unlocked is a directory that gets its inode flags back.
type unlocked struct {
	rel   string
	flags inodeFlags
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
		index := r.crew.reserve()
		if err == nil {
			err = r.entry(it, index)
		}
		if err := r.settle(it, index, err); err != nil {
			return err
		}
		if progress != nil {
			progress(r.in.at)
		}
	}
	if r.drain() != nil {
		return r.crew.failed(r.root)
	}
	if err := r.finish(); err != nil {
		return err
	}
	if progress != nil {
		progress(r.in.at)
	}
	return nil
}

// settle keeps a conflict, and what was lost, for the report and returns any other
// error, with that of a worker.
func (r *restorer) settle(it item, index int, err error) error {
	err = r.crew.settle(index, it, &r.maker.outcome, err)
	r.maker.outcome = outcome{}
	if err != nil && !errors.Is(err, errCrew) {
		return errors.Join(fmt.Errorf("restore %s: %w", r.root.display(it.rel), err), r.crew.failed(r.root))
	}
	return r.crew.failed(r.root)
}

func (r *restorer) entry(it item, index int) error {
	uid, gid, err := r.owners.of(it.header)
	if err != nil {
		return err
	}
	for _, xattr := range r.owners.mapACLs(it.header) {
		r.maker.lose(it, xattr, "two of those whom it names are one in the new system; they have what both had")
	}
	above, name := splitLast(it.rel)
	if err := r.enter(above); err != nil {
		return err
	}
	if err := r.once(it, name); err != nil {
		return err
	}
	j := job{it: it, name: name, index: index, restored: Restored{Record: it.record(), UID: uid, GID: gid}}
	switch {
	case it.kind == TypeDirectory:
		if err := r.drainHere(); err != nil {
			return err
		}
		return r.directory(&j)
	case it.kind == TypeHardLink, isAccountsFile(it.rel):
		if err := r.drain(); err != nil {
			return err
		}
		return r.alone(&j)
	case it.stored+it.attributeBytes() > smallBytes:
		if err := r.drainHere(); err != nil {
			return err
		}
		return r.alone(&j)
	}
	return r.assign(j)
}

// placeKey is a file by where it really lies, whatever path leads there.
type placeKey struct {
	dir  dirKey
	name string
}

// once refuses a second file of the archive for one place: two paths may be one in
// the new system, where /lib is a link to /usr/lib.
func (r *restorer) once(it item, name string) error {
	if it.kind == TypeDirectory {
		return nil // is merged
	}
	key := placeKey{r.at.key, name}
	if first, twice := r.put[key]; twice && first != absolute(it.rel) {
		return conflictError(fmt.Sprintf("in the new system it is the same file as %s", first))
	}
	r.put[key] = absolute(it.rel)
	return nil
}

// alone makes what is not for the crew.
func (r *restorer) alone(j *job) (err error) {
	if j.it.kind == TypeHardLink {
		err = r.hardLink(j)
	} else {
		err = r.maker.make(&r.at, j, r.in)
	}
	if err != nil {
		return err
	}
	r.crew.done(j)
	if isAccountsFile(j.it.rel) {
		r.owners.accounts, err = readAccounts(r.root)
	}
	return err
}

// enter makes a directory the one that is put into.
func (r *restorer) enter(rel string) error {
	same := r.at.entered && r.at.rel == rel
	if !same {
		if err := r.send(); err != nil {
			return err
		}
		r.at = destination{}
		if r.crew.makesLinks() {
			// They may change where the path leads.
			if err := r.drain(); err != nil {
				return err
			}
		}
		if r.crew.takeStale() {
			r.dirs.flush()
		}
	}
	dir, err := r.parent(rel)
	if err != nil {
		return err
	}
	if r.at.fd = dir; same {
		return nil
	}
	return r.describe(rel)
}

// describe asks once per directory what else would be asked once per file.
func (r *restorer) describe(rel string) error {
	var st unix.Stat_t
	if err := unix.Fstat(r.at.fd, &st); err != nil {
		return err
	}
	r.at.rel, r.at.key = rel, dirKey{st.Dev, st.Ino}
	r.maker.gives = givenOwner{}
	var err error
	if r.at.flags, err = r.unlock(r.at.fd, rel, r.at.key); err != nil {
		return err
	}
	// Any error counts as a yes: then each file is looked at. Directories get their
	// own default ACLs only in the end, so the answer stays right.
	_, err = unix.Fgetxattr(r.at.fd, xattrDefaultACL, nil)
	r.at.inherit = err != unix.ENODATA && err != unix.EOPNOTSUPP
	r.at.entered = true
	return nil
}

// directory makes or finds a directory; its attributes come in the end.
func (r *restorer) directory(j *job) error {
	// Closed to others until it has its own owner and mode.
	err := unix.Mkdirat(r.at.fd, j.name, 0o700)
	if err == unix.EEXIST {
		// Opening follows a link in the last place, inside the root.
		_, err = r.dirs.open(j.it.rel)
		switch {
		case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP):
			return conflictError("it is a directory in the archive and none, nor a link to one, in the new system")
		}
		j.restored.Replaced = true
	}
	if err != nil {
		return refusedName(err)
	}
	r.crew.done(j)
	r.pending = append(r.pending, pendingDir{j.it, j.index})
	return nil
}

// hardLink makes a further name of a file that this archive has put back.
func (r *restorer) hardLink(j *job) error {
	target := j.it.target
	if !r.crew.isPresent(target) {
		return conflictError(fmt.Sprintf("it is a hard link to %s, which was not put back", absolute(target)))
	}
	if target == j.it.rel {
		return conflictError("it is a hard link to itself")
	}
	above, name := splitLast(target)
	from, err := r.dirs.open(above)
	if err != nil {
		return fmt.Errorf("open directory of link target %s: %w", absolute(target), err)
	}
	return r.maker.link(&r.at, j, from, name)
}

// assign gives a file to the crew, with its content.
func (r *restorer) assign(j job) error {
	if b := r.batch; b != nil && (len(b.jobs) == batchJobs || len(b.content)+int(j.it.stored) > cap(b.content)) {
		if err := r.send(); err != nil {
			return err
		}
	}
	if r.batch == nil {
		b := <-r.crew.free
		b.to = r.at
		var err error
		if b.to.fd, err = unix.FcntlInt(uintptr(r.at.fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			r.crew.free <- b
			return err
		}
		r.batch = b
	}
	b := r.batch
	from := len(b.content)
	b.content = b.content[:from+int(r.in.left)]
	if _, err := io.ReadFull(r.in, b.content[from:]); err != nil {
		return fmt.Errorf("read from the archive: %w", unexpectedEnd(err))
	}
	j.content = b.content[from:]
	b.jobs = append(b.jobs, j)
	return nil
}

// send lets the crew have what was assigned.
func (r *restorer) send() error {
	if r.batch != nil {
		r.crew.send(r.batch)
		r.batch = nil
	}
	return r.crew.check()
}

// drain waits for the crew.
func (r *restorer) drain() error { return r.drainOnly(nil) }

// drainHere waits for what is made in the directory at hand.
func (r *restorer) drainHere() error { return r.drainOnly(&r.at.key) }

func (r *restorer) drainOnly(only *dirKey) error {
	if err := r.send(); err != nil {
		return err
	}
	r.crew.wait(only)
	return r.crew.check()
}
