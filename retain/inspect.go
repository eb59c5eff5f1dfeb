package retain

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// workers is how many goroutines share what many small files cost: system calls,
// mostly, and with more of them they wait for each other in the kernel.
func workers() int { return min(4, runtime.GOMAXPROCS(0)) }

// inspector finds what entries take in an archive, beyond what stat(2) tells. It
// opens files and directories, which has no side effects, and reads no content.
type inspector struct {
	ctx      context.Context
	root     *Root
	dirs     *dirCache
	accounts *Accounts
	xattrBuf []byte
	portion  *portion
}

// portion is a run of the entries in the order in which they are found.
type portion struct {
	entries   []Entry
	surprises []Surprise
	err       error
}

const portionEntries = 64

// inspection shares entries out among inspectors, while more are found.
type inspection struct {
	portions []*portion
	todo     chan *portion
	wait     sync.WaitGroup
	stop     atomic.Bool // after an error
}

func newInspection(ctx context.Context, root *Root, accounts *Accounts) *inspection {
	all := &inspection{todo: make(chan *portion, 64)}
	for range workers() {
		in := &inspector{ctx: ctx, root: root, dirs: &dirCache{root: root}, accounts: accounts, xattrBuf: make([]byte, maxXattr)}
		all.wait.Go(func() {
			defer in.dirs.flush()
			for p := range all.todo {
				in.portion = p
				for i := 0; i < len(p.entries) && !all.stop.Load(); i++ {
					if err := in.entry(&p.entries[i]); err != nil {
						p.err = fmt.Errorf("scan %s: %w", root.display(p.entries[i].rel), err)
						all.stop.Store(true)
					}
				}
			}
		})
	}
	return all
}

// add takes an entry.
func (all *inspection) add(e Entry) {
	n := len(all.portions)
	if n == 0 || len(all.portions[n-1].entries) == portionEntries {
		all.portions = append(all.portions, &portion{entries: make([]Entry, 0, portionEntries)})
		n++
	}
	p := all.portions[n-1]
	if p.entries = append(p.entries, e); len(p.entries) == portionEntries {
		all.todo <- p
	}
}

// finish waits for the inspectors and gives the plan all entries, and what is
// surprising in the order of the entries.
func (all *inspection) finish(plan *Plan) error {
	if n := len(all.portions); n > 0 && len(all.portions[n-1].entries) < portionEntries {
		all.todo <- all.portions[n-1]
	}
	close(all.todo)
	all.wait.Wait()
	n := 0
	for _, p := range all.portions {
		if p.err != nil {
			return p.err
		}
		n += len(p.entries)
	}
	// Growing by and by would take several times the memory of a large plan.
	plan.Entries = make([]Entry, 0, n)
	for i, p := range all.portions {
		plan.Entries = append(plan.Entries, p.entries...)
		plan.Surprises = append(plan.Surprises, p.surprises...)
		all.portions[i] = nil
	}
	return nil
}

func (in *inspector) entry(e *Entry) error {
	if err := in.ctx.Err(); err != nil {
		return err
	}
	above, name := splitLast(e.rel)
	dir, err := in.dirs.open(above)
	if err != nil {
		return err
	}
	if e.Type != TypeFile && e.Type != TypeDirectory {
		return in.attributes(e, xattrObject{dir, name})
	}
	fd, err := e.open(dir, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// Capture compares with what stat(2) has told.
	if e.Type == TypeFile {
		var extents []extent
		if extents, e.sparse, err = dataExtents(fd, e.Bytes); err != nil {
			return fmt.Errorf("find its holes: %w", err)
		}
		e.stored = e.Bytes
		if e.sparse {
			e.stored = storedBytes(extents, e.Bytes)
		}
	}
	flags, _, err := getFlags(fd)
	if err != nil {
		return fmt.Errorf("read inode flags: %w", err)
	}
	if flags != 0 {
		e.attributes = true
		e.attributeBytes += paxRecordBytes(paxFlags, len(flags.String()))
	}
	return in.attributes(e, xattrObject{fd: fd})
}

// open opens a file or directory for reading.
func (e *Entry) open(dir int, name string) (int, error) {
	flags := unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK
	if e.Type == TypeDirectory {
		flags |= unix.O_DIRECTORY
	}
	return openat(dir, name, flags)
}

// maxAttributeBytes leaves room for the other records among maxRecords.
const maxAttributeBytes = maxRecords - 2*maxPath - 8<<10

// attributes adds up the PAX records of extended attributes.
func (in *inspector) attributes(e *Entry, object xattrObject) error {
	names, err := object.list(in.xattrBuf)
	if err != nil {
		return err
	}
	acls := map[string]string{}
	for _, xattr := range names {
		if !keptXattr(xattr) {
			in.portion.surprises = append(in.portion.surprises,
				Surprise{e.Path, "has the extended attribute " + Path(xattr).String() + ", which is not kept"})
			continue
		}
		var buf []byte // nil asks for the length alone
		if isACL(xattr) {
			buf = in.xattrBuf
		}
		n, err := object.get(xattr, buf)
		if err != nil {
			return fmt.Errorf("read extended attribute %s: %w", xattr, err)
		}
		if isACL(xattr) {
			acls[xattr] = string(buf[:n])
		}
		e.attributes = true
		e.attributeBytes += paxRecordBytes(xattrKey(xattr), n)
	}
	if text := aclNames(acls, in.accounts); text != "" {
		e.attributeBytes += paxRecordBytes(paxACLNames, len(text))
	}
	if e.attributeBytes > maxAttributeBytes {
		return fmt.Errorf("extended attributes take %d bytes, more than the %d that an archive holds for one file", e.attributeBytes, maxAttributeBytes)
	}
	return nil
}
