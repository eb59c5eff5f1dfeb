package check

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"reimager/boot"
	"reimager/disk"
)

// superusers is how grub.cfg asks for a password: GRUB manual, "Authentication and
// authorisation".
var superusers = regexp.MustCompile(`(?m)^\s*set\s+superusers=`)

// bootLoader finds GRUB and makes sure that it reads our entry.
func (h Host) bootLoader() (*boot.GRUB, Result) {
	g, err := boot.FindGRUB(h.root(""))
	if err != nil {
		return nil, failed(BootLoader, err)
	}
	bls, err := g.ReadsBLS()
	if err != nil {
		return g, failed(BootLoader, err)
	}
	found := "GRUB in " + g.Dir()
	b, err := os.ReadFile(filepath.Join(g.Dir(), "grub.cfg"))
	if err == nil && superusers.Match(b) {
		found += "; it has a password, which our entry needs not (--unrestricted)"
	}
	return g, judgeBootLoader(found, bls)
}

// judgeBootLoader warns of an entry that cannot ask whether its run has been tried.
func judgeBootLoader(found string, bls bool) Result {
	if bls {
		return warn(BootLoader, "reimager arm --rehearse proves that GRUB clears next_entry",
			"%s; it reads boot loader entries, not custom.cfg: an entry without a gate, which stays in the menu until the run or disarm", found)
	}
	return pass(BootLoader, "%s", found)
}

// environment is GRUB's environment block, as GRUB itself would find it when it
// clears next_entry.
type environment struct {
	file       string // links resolved
	stack      string // what its filesystem lies on, if not on a partition
	filesystem string // as the kernel names it
	size       int64
	scattered  error // why its bytes do not lie on the disk as they are
	parse      error
	next       string // as boot.GRUB.NextEntry
	started    string // the run that next_entry was for, if it has started already
}

// environment looks at grubenv. A filesystem without a device of its own, as ZFS is,
// has no location.
func (h Host) environment(g *boot.GRUB) (*environment, error) {
	name := filepath.Join(g.Dir(), "grubenv")
	file, err := filepath.EvalSymlinks(name)
	if err != nil {
		return nil, fmt.Errorf("find GRUB's environment: %w", err)
	}
	e := &environment{file: file}
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read GRUB's environment: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read GRUB's environment: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read GRUB's environment %s: not a regular file", file)
	}
	e.size = info.Size()
	at, err := boot.Holding(file)
	if err != nil {
		return nil, err
	}
	e.stack, e.filesystem = h.stack(at.Device), at.FSType
	_, e.scattered = disk.Extents(f)
	if errors.Is(e.scattered, syscall.EOPNOTSUPP) && e.filesystem == "vfat" {
		e.scattered = nil // FAT has no FIEMAP, and knows neither holes nor compression
	}
	if e.size == boot.EnvSize {
		block := make([]byte, boot.EnvSize)
		if _, err := f.ReadAt(block, 0); err != nil {
			return nil, fmt.Errorf("read GRUB's environment %s: %w", file, err)
		}
		if _, e.parse = boot.ParseEnv(block); e.parse == nil {
			if e.next, err = g.NextEntry(); err != nil {
				return nil, err
			}
		}
	}
	return e, nil
}

// grubWrites are the filesystems on which GRUB's save_env works: it rewrites the
// file's sectors, and refuses what checks sums or packs its data (00_header of GRUB
// 2.06 leaves it out on btrfs and ZFS, and above LVM and RAID).
func grubWrites() []string { return []string{"ext2", "ext3", "ext4", "xfs", "vfat", "f2fs"} }

// judgeEnvironment refuses a place where GRUB could not clear next_entry: the machine
// would start the run at each boot.
func judgeEnvironment(e *environment, err error) Result {
	const move = "put /boot on a partition of its own with ext4 (on UEFI the EFI system partition will do), and run grub-install and update-grub"
	if err != nil {
		r := failed(GRUBEnv, err)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			r.Hint = "make one: grub-editenv - create (grub2-editenv on Red Hat)"
		case r.Hint == "":
			r.Hint = move
		}
		return r
	}
	anew := fmt.Sprintf("make a new one: rm %s && grub-editenv %s create (grub2-editenv on Red Hat)", e.file, e.file)
	switch {
	case e.stack != "":
		return fail(GRUBEnv, move, "%s lies on %s, where GRUB cannot write: it could not clear next_entry", e.file, e.stack)
	case !slices.Contains(grubWrites(), e.filesystem):
		return fail(GRUBEnv, move, "%s lies on %s, where GRUB cannot write: it could not clear next_entry", e.file, e.filesystem)
	case e.size != boot.EnvSize:
		return fail(GRUBEnv, anew, "%s has %d bytes, expected %d", e.file, e.size, boot.EnvSize)
	case e.scattered != nil:
		return fail(GRUBEnv, anew, "GRUB cannot write %s: %v", e.file, e.scattered)
	case e.parse != nil:
		return fail(GRUBEnv, anew, "%s: %v", e.file, e.parse)
	case e.started != "":
		return fail(GRUBEnv, anew+"; then arm again, and rehearse first", "GRUB did not clear next_entry at the last run: %s has started, and %s still says it", e.started, e.file)
	}
	return pass(GRUBEnv, "%s, on %s, where GRUB can write", e.file, e.filesystem)
}

// judgeNextEntry refuses to take away what somebody else wants to boot once.
func judgeNextEntry(e *environment, ours string) Result {
	switch e.next {
	case "":
		return pass(NextEntry, "the next boot is an ordinary one")
	case ours:
		return pass(NextEntry, "this machine is armed already; arming again is the same as once")
	}
	return fail(NextEntry, fmt.Sprintf("let it, or run: grub-editenv %s unset next_entry", e.file), "something else wants to boot once: %s", e.next)
}

// bootSpace is room for kernel and initrd.
type bootSpace struct {
	dir        string
	on         *Location
	need       int64 // of both, as far as they are not there
	free, held int64 // held: by an earlier arming, which makes way
	err        error
}

func judgeBootSpace(s bootSpace) Result {
	const hint = "remove old kernels, or make the filesystem larger"
	switch {
	case s.err != nil:
		r := failed(BootSpace, s.err)
		if r.Hint == "" {
			r.Hint = "/boot has to lie on a plain partition with ext4, XFS or vfat"
		}
		return r
	case s.on != nil && s.on.Type == "btrfs":
		return fail(BootSpace, "put /boot on a partition of its own with ext4", "%s is on btrfs", s.dir)
	case s.need > s.free+s.held:
		return fail(BootSpace, hint, "%s needed in %s, %s free", disk.Size(s.need), s.dir, disk.Size(s.free+s.held))
	}
	return pass(BootSpace, "%s needed in %s, %s free", disk.Size(s.need), s.dir, disk.Size(s.free+s.held))
}

// judgeKexec says whether this kernel may load another one. loadable is
// /sys/kernel/kexec_loaded, disabled kernel.kexec_load_disabled, lockdown the
// kernel's: "" where there is no such file.
func judgeKexec(loadable, disabled, lockdown string) Result {
	const hint = "arm without --kexec: GRUB starts the run"
	switch {
	case loadable == "":
		return fail(Kexec, hint, "this kernel knows no kexec")
	case disabled != "" && disabled != "0":
		return fail(Kexec, "remove kernel.kexec_load_disabled from /etc/sysctl.d and reboot, or arm without --kexec", "the sysctl kernel.kexec_load_disabled is %s", disabled)
	case lockdown != "" && !strings.Contains(lockdown, "[none]"):
		return warn(Kexec, hint, "the kernel is locked down (%s), and starts signed kernels only", lockdown)
	}
	return pass(Kexec, "this kernel starts another one")
}

func (h Host) kexec() Result {
	return judgeKexec(text(h.sys("kernel/kexec_loaded")), text(h.proc("sys/kernel/kexec_load_disabled")), text(h.sys("kernel/security/lockdown")))
}
