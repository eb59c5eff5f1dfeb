package retain

import (
	"strings"

	"golang.org/x/sys/unix"
)

// inodeFlags are those of linux/fs.h, FS_IOC_GETFLAGS in ioctl_iflags(2).
type inodeFlags uint32

const (
	flagCompress  inodeFlags = 0x00000004
	flagSync      inodeFlags = 0x00000008
	flagImmutable inodeFlags = 0x00000010
	flagAppend    inodeFlags = 0x00000020
	flagNoDump    inodeFlags = 0x00000040
	flagNoAtime   inodeFlags = 0x00000080
	flagJournal   inodeFlags = 0x00004000
	flagNoTail    inodeFlags = 0x00008000
	flagDirSync   inodeFlags = 0x00010000
	flagTopDir    inodeFlags = 0x00020000
	flagNoCOW     inodeFlags = 0x00800000

	// beforeContent are the flags that say how content is stored: btrfs takes
	// nocow of an empty file only.
	beforeContent = flagNoCOW | flagCompress
	// locking flags keep a file, or a directory's names, from being changed.
	locking = flagImmutable | flagAppend
)

// keptFlag is one that belongs to the file, as its owner chose it, with
// libarchive's name for it (archive_entry.c). Not among them is what the
// filesystem itself decides or what can't be set on a file that is there
// (extents, encryption, verity, case folding, DAX), what no kernel heeds (secure
// deletion, undeletion), and project quotas, as the project's number isn't kept.
type keptFlag struct {
	bit  inodeFlags
	name string
}

var keptFlags = [...]keptFlag{
	{flagAppend, "sappnd"}, {flagImmutable, "schg"}, {flagNoDump, "nodump"}, {flagCompress, "compress"},
	{flagNoAtime, "noatime"}, {flagDirSync, "dirsync"}, {flagJournal, "journal-data"}, {flagSync, "sync"},
	{flagNoTail, "notail"}, {flagTopDir, "topdir"}, {flagNoCOW, "nocow"},
}

const keptFlagBits = flagCompress | flagSync | flagImmutable | flagAppend | flagNoDump | flagNoAtime |
	flagJournal | flagNoTail | flagDirSync | flagTopDir | flagNoCOW

func (f inodeFlags) String() string {
	var names []string
	for _, kept := range keptFlags {
		if f&kept.bit != 0 {
			names = append(names, kept.name)
		}
	}
	return strings.Join(names, ",")
}

// parseInodeFlags passes over names that it doesn't know, which libarchive may
// have written.
func parseInodeFlags(text string) (f inodeFlags) {
	for name := range strings.SplitSeq(text, ",") {
		for _, kept := range keptFlags {
			if kept.name == name {
				f |= kept.bit
			}
		}
	}
	return f
}

// getFlags returns those of an open file or directory that are kept, and all.
func getFlags(fd int) (kept, all inodeFlags, err error) {
	v, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	all = inodeFlags(v)
	switch err {
	case nil:
		return all & keptFlagBits, all, nil
	case unix.ENOTTY, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL:
		// No such flags: vfat and older tmpfs (ENOTTY), overlayfs above such a
		// one (EOPNOTSUPP), FUSE (ENOSYS, EINVAL).
		return 0, 0, nil
	}
	return 0, 0, err
}

// changeFlags gives an open file the kept flags that are wanted and leaves the
// others. It returns those that the filesystem did not take, and perhaps why. An
// error with none lost is one of its own, or says why flags were not cleared.
func changeFlags(fd int, wanted inodeFlags) (lost inodeFlags, why error) {
	kept, all, err := getFlags(fd)
	if err != nil || kept == wanted {
		return 0, err
	}
	rest := all &^ keptFlagBits
	switch why = setFlags(fd, rest|wanted); why {
	case nil:
	case unix.EOPNOTSUPP, unix.EINVAL, unix.EPERM, unix.ENOTTY:
		// The filesystem lacks one (EOPNOTSUPP), or has it for directories only
		// (EINVAL), or the caller may not set it (EPERM), or it has no flags
		// (ENOTTY). Which was it? The locking ones last, as they forbid the rest.
		set := rest
		for _, round := range [...]inodeFlags{wanted &^ locking, wanted & locking} {
			for _, flag := range keptFlags {
				if round&flag.bit != 0 && setFlags(fd, set|flag.bit) == nil {
					set |= flag.bit
				}
			}
		}
	default:
		return 0, why
	}
	// Some filesystems pass over what they don't know.
	if kept, _, err = getFlags(fd); err != nil || kept == wanted {
		return 0, err
	}
	return wanted &^ kept, why
}

func setFlags(fd int, f inodeFlags) error {
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(f))
}
