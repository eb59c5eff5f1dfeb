package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// call is a kind of system call with the errors that it is made to fail with: those
// that a broken machine gives, the commonest first, which is also the one that stays.
type call struct {
	name   string
	errnos []unix.Errno
}

// calls are the kinds that are known by name, by their number on amd64
// (arch/x86/entry/syscalls/syscall_64.tbl). All others fail with EIO.
func calls() map[int32]call {
	const (
		io, busy, inval, space, files, memory, again, access, missing, nosys, intr = unix.EIO, unix.EBUSY, unix.EINVAL, unix.ENOSPC, unix.EMFILE,
			unix.ENOMEM, unix.EAGAIN, unix.EACCES, unix.ENOENT, unix.ENOSYS, unix.EINTR
	)
	of := func(name string, errnos ...unix.Errno) call { return call{name, errnos} }
	return map[int32]call{
		unix.SYS_READ: of("read", io, intr), unix.SYS_PREAD64: of("pread64", io, intr), unix.SYS_READV: of("readv", io),
		unix.SYS_WRITE: of("write", space, io, intr), unix.SYS_PWRITE64: of("pwrite64", io, space, intr), unix.SYS_WRITEV: of("writev", space),
		unix.SYS_OPENAT: of("openat", io, missing, files, access), unix.SYS_OPENAT2: of("openat2", io, nosys, again),
		unix.SYS_OPEN: of("open", io), unix.SYS_CLOSE: of("close", io), unix.SYS_LSEEK: of("lseek", inval),
		unix.SYS_FSYNC: of("fsync", io), unix.SYS_FDATASYNC: of("fdatasync", io), unix.SYS_SYNCFS: of("syncfs", io),
		unix.SYS_FSTAT: of("fstat", io), unix.SYS_NEWFSTATAT: of("newfstatat", io, missing), unix.SYS_STATX: of("statx", io, nosys),
		unix.SYS_STATFS: of("statfs", io), unix.SYS_FSTATFS: of("fstatfs", io), unix.SYS_GETDENTS64: of("getdents64", io),
		unix.SYS_READLINKAT: of("readlinkat", io), unix.SYS_READLINK: of("readlink", io), unix.SYS_FACCESSAT: of("faccessat", access),
		unix.SYS_MKDIRAT: of("mkdirat", space, io), unix.SYS_UNLINKAT: of("unlinkat", io), unix.SYS_RENAMEAT: of("renameat", io),
		unix.SYS_RENAMEAT2: of("renameat2", io), unix.SYS_LINKAT: of("linkat", io), unix.SYS_SYMLINKAT: of("symlinkat", space),
		unix.SYS_MKNODAT: of("mknodat", space), unix.SYS_FTRUNCATE: of("ftruncate", space), unix.SYS_FALLOCATE: of("fallocate", space),
		unix.SYS_FCHMOD: of("fchmod", io), unix.SYS_FCHMODAT: of("fchmodat", io), unix.SYS_FCHOWN: of("fchown", io), unix.SYS_FCHOWNAT: of("fchownat", io),
		unix.SYS_UTIMENSAT: of("utimensat", io), unix.SYS_COPY_FILE_RANGE: of("copy_file_range", io), unix.SYS_SPLICE: of("splice", inval),
		unix.SYS_GETXATTR: of("getxattr", io), unix.SYS_LGETXATTR: of("lgetxattr", io), unix.SYS_FGETXATTR: of("fgetxattr", io),
		unix.SYS_LISTXATTR: of("listxattr", io), unix.SYS_LLISTXATTR: of("llistxattr", io), unix.SYS_FLISTXATTR: of("flistxattr", io),
		unix.SYS_SETXATTR: of("setxattr", space), unix.SYS_LSETXATTR: of("lsetxattr", space), unix.SYS_FSETXATTR: of("fsetxattr", space),
		unix.SYS_REMOVEXATTR: of("removexattr", io), unix.SYS_LREMOVEXATTR: of("lremovexattr", io), unix.SYS_FREMOVEXATTR: of("fremovexattr", io),
		unix.SYS_MOUNT: of("mount", io, busy, inval), unix.SYS_UMOUNT2: of("umount2", busy, io), unix.SYS_SYNC: of("sync", io),
		unix.SYS_IOCTL: of("ioctl", io, busy), unix.SYS_FCNTL: of("fcntl", inval), unix.SYS_FLOCK: of("flock", io),
		unix.SYS_FINIT_MODULE: of("finit_module", io, unix.ENOEXEC), unix.SYS_INIT_MODULE: of("init_module", io), unix.SYS_DELETE_MODULE: of("delete_module", io),
		unix.SYS_SOCKET: of("socket", files, unix.EPROTONOSUPPORT), unix.SYS_BIND: of("bind", inval), unix.SYS_SETSOCKOPT: of("setsockopt", inval),
		unix.SYS_RECVFROM: of("recvfrom", unix.ENOBUFS, io), unix.SYS_MMAP: of("mmap", memory), unix.SYS_MUNMAP: of("munmap", inval),
		unix.SYS_MADVISE: of("madvise", inval), unix.SYS_MPROTECT: of("mprotect", memory), unix.SYS_BRK: of("brk", memory), unix.SYS_MINCORE: of("mincore", memory),
		unix.SYS_CLONE: of("clone", again, memory), unix.SYS_CLONE3: of("clone3", again), unix.SYS_FUTEX: of("futex", again, inval),
		unix.SYS_EPOLL_CREATE1: of("epoll_create1", files), unix.SYS_EPOLL_CTL: of("epoll_ctl", memory, unix.EPERM), unix.SYS_EPOLL_PWAIT: of("epoll_pwait", inval, intr),
		unix.SYS_EVENTFD2: of("eventfd2", files), unix.SYS_PIPE2: of("pipe2", files), unix.SYS_NANOSLEEP: of("nanosleep", inval),
		unix.SYS_SCHED_YIELD: of("sched_yield", nosys), unix.SYS_SCHED_GETAFFINITY: of("sched_getaffinity", inval),
		unix.SYS_RT_SIGACTION: of("rt_sigaction", inval), unix.SYS_RT_SIGPROCMASK: of("rt_sigprocmask", inval), unix.SYS_SIGALTSTACK: of("sigaltstack", inval),
		unix.SYS_GETTID: of("gettid", nosys), unix.SYS_GETPID: of("getpid", nosys), unix.SYS_TGKILL: of("tgkill", again), unix.SYS_ARCH_PRCTL: of("arch_prctl", inval),
		unix.SYS_PRCTL: of("prctl", inval), unix.SYS_PRLIMIT64: of("prlimit64", inval), unix.SYS_GETRLIMIT: of("getrlimit", inval), unix.SYS_UNAME: of("uname", unix.EFAULT),
		unix.SYS_CLOCK_GETTIME: of("clock_gettime", inval), unix.SYS_GETRANDOM: of("getrandom", nosys), unix.SYS_RSEQ: of("rseq", nosys),
		unix.SYS_TIMER_CREATE: of("timer_create", again), unix.SYS_SETITIMER: of("setitimer", inval), unix.SYS_PIDFD_OPEN: of("pidfd_open", nosys),
		unix.SYS_UMASK: of("umask", nosys), unix.SYS_GETUID: of("getuid", nosys), unix.SYS_SYSINFO: of("sysinfo", unix.EFAULT),
	}
}

// ioctls are the requests that are told apart: each does another thing.
func ioctls() map[uint32]string {
	return map[uint32]string{
		unix.BLKSSZGET: "BLKSSZGET", unix.BLKGETSIZE64: "BLKGETSIZE64", unix.BLKRRPART: "BLKRRPART", unix.BLKPG: "BLKPG", unix.BLKFLSBUF: "BLKFLSBUF",
		0x127f: "BLKZEROOUT", 0x1277: "BLKDISCARD", 0xc020660b: "FIEMAP", unix.FS_IOC_GETFLAGS: "GETFLAGS", unix.FS_IOC_SETFLAGS: "SETFLAGS",
		0x801c581f: "FSGETXATTR", 0x401c5820: "FSSETXATTR", unix.TCGETS: "TCGETS", unix.TIOCGWINSZ: "TIOCGWINSZ",
	}
}

// untouched are calls that cannot fail, or whose failure the kernel itself would make
// good; and execve, by which a container begins.
func untouched() []int32 {
	return []int32{unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_RT_SIGRETURN, unix.SYS_RESTART_SYSCALL, unix.SYS_EXECVE, unix.SYS_WAIT4, unix.SYS_REBOOT}
}

// callName names a system call; an ioctl by its request, too.
func callName(nr int32, args [6]uint64) string {
	c, ok := calls()[nr]
	switch {
	case !ok:
		return fmt.Sprintf("syscall%d", nr)
	case nr != unix.SYS_IOCTL:
		return c.name
	}
	if name, ok := ioctls()[uint32(args[1])]; ok {
		return "ioctl(" + name + ")"
	}
	return fmt.Sprintf("ioctl(%#x)", uint32(args[1]))
}

// runtimeCalls are kinds that Go's runtime calls for itself, most of them more often
// than a run has steps: a few of them tell as much as all.
func runtimeCalls() []string {
	return []string{"arch_prctl", "clone", "epoll_create1", "epoll_ctl", "epoll_pwait", "eventfd2", "fcntl", "futex", "getpid", "getrlimit", "gettid", "getuid",
		"madvise", "nanosleep", "prlimit64", "rt_sigaction", "rt_sigprocmask", "sched_getaffinity", "sched_yield", "sigaltstack", "tgkill"}
}
