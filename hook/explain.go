package hook

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// explainStart says why the kernel did not start a program, and what to do about it.
// It runs in the new system's root: execve(2) says ENOENT both of a program and of
// what should interpret it.
func explainStart(program string, err error) (why, hint string) {
	var errno unix.Errno
	errors.As(err, &errno)
	why = fmt.Sprintf("start %s: %v", program, errors.Unwrap(err))
	switch errno {
	case unix.ENOENT, unix.ENOTDIR:
		if _, err := os.Stat(program); err != nil {
			return why, "the image has no such file; run takes an absolute path in the new system"
		}
		if name := interpreter(program); name != "" {
			return fmt.Sprintf("start %s: its interpreter %q is not in the new system", program, name), "install what the program needs in the image"
		}
	case unix.EACCES, unix.EPERM:
		info, err := os.Stat(program)
		switch {
		case err == nil && info.IsDir():
			return fmt.Sprintf("start %s: it is a directory", program), "run takes a program and its arguments"
		case err == nil && info.Mode()&0o111 == 0:
			return fmt.Sprintf("start %s: it is not executable (mode %#o)", program, info.Mode().Perm()), "chmod +x in the image"
		}
		return why, "its filesystem may be mounted noexec by the new system's fstab, or its interpreter is not executable"
	case unix.ENOEXEC:
		if is := machine(program); is != "" {
			return fmt.Sprintf("%s (%s)", why, is), "the image is of another architecture than the initrd's kernel, or the file is damaged"
		}
		return why, `it is no program; a script has to begin with a line such as "#!/bin/sh"`
	}
	return why, ""
}

// interpreter returns what a script or a dynamic program wants to be run by.
func interpreter(program string) string {
	f, err := os.Open(program)
	if err != nil {
		return ""
	}
	defer f.Close()
	// BINPRM_BUF_SIZE is 256 bytes, of which the kernel reads the first line.
	line, _ := bufio.NewReaderSize(f, 256).ReadSlice('\n')
	if rest, ok := strings.CutPrefix(string(line), "#!"); ok {
		// A script that was written on Windows asks for "/bin/sh\r".
		name, _, _ := strings.Cut(strings.Trim(strings.TrimSuffix(rest, "\n"), " \t"), " ")
		return name
	}
	e, err := elf.NewFile(f)
	if err != nil {
		return ""
	}
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz < 4096 {
			name := make([]byte, p.Filesz)
			if _, err := p.ReadAt(name, 0); err == nil {
				return strings.TrimRight(string(name), "\x00")
			}
		}
	}
	return ""
}

// machine names the architecture of an ELF file.
func machine(program string) string {
	e, err := elf.Open(program)
	if err != nil {
		return ""
	}
	defer e.Close()
	return fmt.Sprintf("it is for %s, this machine is %s", e.Machine, runtime.GOARCH)
}
