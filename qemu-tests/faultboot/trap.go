package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From include/uapi/linux/seccomp.h.
type notification struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type answer struct {
	id           uint64
	val          int64
	error, flags uint32
}

// trapped says which system calls stop for the tracer: those listed, or with others
// all that are not.
type trapped struct {
	calls  []int32
	others bool
}

// filter is the program in the kernel's packet filter that lets the rest pass. It looks
// at the number only (offset 0 of struct seccomp_data).
func (t trapped) filter() ([]unix.SockFilter, error) {
	const allow, notify = unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_USER_NOTIF
	listed, rest := uint32(notify), uint32(allow)
	if t.others {
		listed, rest = allow, notify
	}
	if len(t.calls) > 250 { // a jump is one byte
		return nil, fmt.Errorf("make filter: %d system calls, room for 250", len(t.calls))
	}
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}}
	for i, nr := range t.calls {
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(len(t.calls) - i), K: uint32(nr)})
	}
	return append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: rest},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: listed}), nil
}

// install puts the calling thread, and what it starts or becomes, under the filter.
// What answers is the process that takes the listener from our file descriptors.
func (t trapped) install() error {
	program, err := t.filter()
	if err != nil {
		return err
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	// With WAIT_KILLABLE_RECV (Linux 5.19) Go's own signals cannot have a call counted twice.
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return fmt.Errorf("install filter: %w", errno)
	}
	return nil
}

// takeListener waits until a process is under its filter and takes the listener from it.
func takeListener(pid, pidfd int, patience time.Duration) (int, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return -1, fmt.Errorf("look for the listener: %w", err)
		}
		for _, e := range entries {
			target, err := os.Readlink(filepath.Join(dir, e.Name()))
			if err != nil || target != "anon_inode:seccomp notify" {
				continue
			}
			var number int
			if _, err := fmt.Sscan(e.Name(), &number); err != nil {
				return -1, err
			}
			fd, err := unix.PidfdGetfd(pidfd, number, 0)
			if err != nil {
				return -1, fmt.Errorf("take the listener: %w", err)
			}
			return fd, nil
		}
	}
	return -1, errors.New("look for the listener: there is none")
}

// receive returns the next call that was stopped; nil if its process died meanwhile.
func receive(listener int) (*notification, error) {
	n := &notification{}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(n)))
	switch errno {
	case 0:
		return n, nil
	case unix.ENOENT, unix.EINTR:
		return nil, nil
	}
	return nil, fmt.Errorf("receive a system call: %w", errno)
}

// proceed lets a call happen; fail and pretend answer it without it.
func (n *notification) proceed(listener int) error {
	return reply(listener, answer{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE})
}

func (n *notification) fail(listener int, errno unix.Errno) error {
	return reply(listener, answer{id: n.id, error: uint32(-int32(errno))})
}

func (n *notification) pretend(listener int) error { return reply(listener, answer{id: n.id}) }

func reply(listener int, a answer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&a)))
	if errno != 0 && errno != unix.ENOENT { // ENOENT: the process has been killed
		return fmt.Errorf("answer a system call: %w", errno)
	}
	return nil
}

// forFaults are the calls that have to stop so that some can fail, and those that the
// container may not do by itself.
func forFaults(calls ...int32) trapped {
	list := append([]int32{unix.SYS_EXECVE, unix.SYS_REBOOT, unix.SYS_MOUNT}, calls...)
	slices.Sort(list)
	return trapped{calls: slices.Compact(list)}
}

// forCount are all calls that can be made to fail, and these two.
func forCount() trapped {
	list := slices.DeleteFunc(untouched(), func(nr int32) bool { return nr == unix.SYS_EXECVE || nr == unix.SYS_REBOOT })
	return trapped{calls: list, others: true}
}
