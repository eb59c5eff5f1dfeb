package retain

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	xattrCapability = "security.capability"
	xattrACLPrefix  = "system.posix_acl_"
	xattrDefaultACL = "system.posix_acl_default"

	maxXattr = 64 << 10 // XATTR_SIZE_MAX and XATTR_LIST_MAX of linux/limits.h
)

// xattrKey writes a name as a PAX key, which has no "=", as GNU tar does
// (xattr_encode_keyword in its xheader.c).
func xattrKey(name string) string {
	return paxXattr + strings.ReplaceAll(strings.ReplaceAll(name, "%", "%25"), "=", "%3D")
}

func xattrName(key string) string {
	name := strings.TrimPrefix(key, paxXattr)
	return strings.ReplaceAll(strings.ReplaceAll(name, "%3D", "="), "%25", "%")
}

// keptXattr says whether an extended attribute belongs to the file and not to
// the filesystem that it is on.
func keptXattr(name string) bool {
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "security.") ||
		strings.HasPrefix(name, "trusted.") || isACL(name)
}

// exactXattr says whether a file that is put back must not have the attribute
// unless the archive has it. What a security module or the kernel gives by
// itself (security.selinux, security.ima) is not of that kind.
func exactXattr(name string) bool {
	return strings.HasPrefix(name, "user.") || isACL(name) || name == xattrCapability
}

// xattrObject is a file whose extended attributes are used: an open one, or a
// name in an open directory, links not followed.
type xattrObject struct {
	fd   int
	name string
}

// path leads through /proc, as there was no listxattrat(2) before Linux 6.13.
func (o xattrObject) path() string { return "/proc/self/fd/" + strconv.Itoa(o.fd) + "/" + o.name }

func (o xattrObject) get(name string, buf []byte) (int, error) {
	if o.name == "" {
		return unix.Fgetxattr(o.fd, name, buf)
	}
	return unix.Lgetxattr(o.path(), name, buf)
}

func (o xattrObject) set(name string, value []byte) error {
	if o.name == "" {
		return unix.Fsetxattr(o.fd, name, value, 0)
	}
	return unix.Lsetxattr(o.path(), name, value, 0)
}

func (o xattrObject) remove(name string) error {
	if o.name == "" {
		return unix.Fremovexattr(o.fd, name)
	}
	return unix.Lremovexattr(o.path(), name)
}

// list returns the sorted names. buf has maxXattr bytes.
func (o xattrObject) list(buf []byte) ([]string, error) {
	var n int
	var err error
	if o.name == "" {
		n, err = unix.Flistxattr(o.fd, buf)
	} else {
		n, err = unix.Llistxattr(o.path(), buf)
	}
	// ENOTSUP: a filesystem without extended attributes has none to keep.
	if errors.Is(err, unix.ENOTSUP) || (err == nil && n == 0) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	return names, nil
}

// read returns the attributes that are kept.
func (o xattrObject) read(buf []byte) (map[string]string, error) {
	names, err := o.list(buf)
	if err != nil {
		return nil, err
	}
	var all map[string]string
	for _, name := range names {
		if !keptXattr(name) {
			continue
		}
		n, err := o.get(name, buf)
		if err != nil {
			return nil, fmt.Errorf("read extended attribute %s: %w", name, err)
		}
		if all == nil {
			all = map[string]string{}
		}
		all[name] = string(buf[:n])
	}
	return all, nil
}

// applyOrder sorts names so that security.capability, which any other change of
// a file may clear, is last.
func applyOrder(xattrs map[string]string) []string {
	names := make([]string, 0, len(xattrs))
	for name := range xattrs {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if c := b2i(a == xattrCapability) - b2i(b == xattrCapability); c != 0 {
			return c
		}
		return strings.Compare(a, b)
	})
	return names
}
