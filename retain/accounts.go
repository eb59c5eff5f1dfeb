package retain

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxAccountsFile bounds etc/passwd and etc/group, in bytes: a root is not
// trusted to have sensible ones.
const maxAccountsFile = 64 << 20

// Accounts are the names and numbers of a system's users and groups.
type Accounts struct {
	Skipped int // malformed lines

	users, groups idTable
}

// idTable maps both ways; the first line with a name, or a number, wins, as it
// does in libc's files database.
type idTable struct {
	ids   map[string]uint32
	names map[uint32]string
}

// ReadAccounts reads etc/passwd and etc/group beneath the directory root (see
// passwd(5), group(5)). A missing file is an empty one.
func ReadAccounts(root string) (Accounts, error) {
	r, err := OpenRoot(root)
	if err != nil {
		return Accounts{}, err
	}
	defer r.Close()
	return readAccounts(r)
}

func readAccounts(r *Root) (Accounts, error) {
	var a Accounts
	for _, file := range []struct {
		path  string
		table *idTable
	}{{"etc/passwd", &a.users}, {"etc/group", &a.groups}} {
		skipped, err := readAccountsFile(r, file.path, file.table)
		if err != nil {
			return Accounts{}, fmt.Errorf("read accounts %s: %w", r.display(file.path), err)
		}
		a.Skipped += skipped
	}
	return a, nil
}

func readAccountsFile(r *Root, path string, table *idTable) (skipped int, err error) {
	// O_NONBLOCK: a FIFO in its place must not block.
	fd, err := r.open(path, unix.O_RDONLY|unix.O_NONBLOCK)
	if errors.Is(err, unix.ENOENT) {
		return table.parse(strings.NewReader(""))
	}
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, errors.New("not a regular file")
	}
	if st.Size > maxAccountsFile {
		return 0, fmt.Errorf("%d bytes are more than the %d that are read", st.Size, maxAccountsFile)
	}
	return table.parse(io.LimitReader(fdFile(fd), maxAccountsFile))
}

// parse reads lines of name:password:number:... as both files have them.
func (t *idTable) parse(r io.Reader) (skipped int, err error) {
	t.ids, t.names = map[string]uint32{}, map[uint32]string{}
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if err != nil && err != io.EOF {
			return skipped, err
		}
		if !t.add(strings.TrimSuffix(line, "\n")) {
			skipped++
		}
		if err == io.EOF {
			return skipped, nil
		}
	}
}

func (t *idTable) add(line string) bool {
	if strings.TrimSpace(line) == "" || line[0] == '#' {
		return true
	}
	fields := strings.SplitN(line, ":", 4)
	// A + or - starts a line of NIS compatibility, not a name.
	if len(fields) < 4 || fields[0] == "" || strings.ContainsAny(fields[0][:1], "+-") || strings.IndexByte(fields[0], 0) >= 0 {
		return false
	}
	id, err := strconv.ParseUint(fields[2], 10, 32)
	if err != nil || id > maxID {
		return false
	}
	if _, taken := t.ids[fields[0]]; !taken {
		t.ids[fields[0]] = uint32(id)
	}
	if _, taken := t.names[uint32(id)]; !taken {
		t.names[uint32(id)] = fields[0]
	}
	return true
}

// maxID is the largest owner number: (uid_t)-1 means "leave as it is" to chown(2).
const maxID = 1<<32 - 2

// UID returns the number of a user.
func (a Accounts) UID(name string) (uint32, bool) { id, ok := a.users.ids[name]; return id, ok }

// GID returns the number of a group.
func (a Accounts) GID(name string) (uint32, bool) { id, ok := a.groups.ids[name]; return id, ok }

// UserName returns the name of a user, or "".
func (a Accounts) UserName(uid uint32) string { return a.users.names[uid] }

// GroupName returns the name of a group, or "".
func (a Accounts) GroupName(gid uint32) string { return a.groups.names[gid] }
