package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"reimager/report"
)

// Command is one run of a program of the host.
type Command struct {
	Env   []string // added to our own
	Stdin io.Reader
	Name  string
	Args  []string
}

// Run runs a program of the host and returns its standard output. The error
// carries the command line and what it printed.
func Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	out, _, err := Command{Name: name, Args: args}.Run(ctx)
	return out, err
}

// Run is Run for a program that needs more than arguments.
func (c Command) Run(ctx context.Context) (stdout, stderr []byte, err error) {
	path, err := FindProgram(c.Name)
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, path, c.Args...)
	// Output is compared and parsed, so no translation may reach it.
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), c.Env...)
	cmd.Stdin = c.Stdin
	var outBuf, errBuf bytes.Buffer
	cmd.Stdout, cmd.Stderr = &outBuf, &errBuf
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(errBuf.String())
		if said == "" {
			said = strings.TrimSpace(outBuf.String())
		}
		if ctx.Err() != nil {
			err = errors.Join(err, context.Cause(ctx))
		}
		return outBuf.Bytes(), errBuf.Bytes(), fmt.Errorf("run %s: %w\n%s", quoteCommand(append([]string{c.Name}, c.Args...)), err, said)
	}
	return outBuf.Bytes(), errBuf.Bytes(), nil
}

// FindProgram finds a program; mkfs, sfdisk and debugfs lie in /usr/sbin, which
// Debian leaves out of an ordinary user's PATH.
func FindProgram(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", report.Hint(fmt.Errorf("find program %s: not in PATH, /usr/sbin or /sbin", name),
		"apt-get install %s", packageOf(name))
}

// packageOf is the Debian package (Ubuntu has the same names) that has a program.
func packageOf(name string) string {
	switch name {
	case "qemu-system-x86_64":
		return "qemu-system-x86"
	case "sfdisk":
		return "fdisk"
	case "mkfs.ext4", "mke2fs", "debugfs", "dumpe2fs", "e2fsck":
		return "e2fsprogs"
	case "grub-mkimage":
		return "grub-common"
	case "busybox":
		return "busybox-static"
	case "depmod":
		return "kmod"
	case "mkswap":
		return "util-linux"
	case "xz":
		return "xz-utils"
	}
	return name
}

// quoteCommand writes a command line so that a shell reads it back unchanged.
func quoteCommand(args []string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = quoteArg(arg)
	}
	return strings.Join(quoted, " ")
}

func quoteArg(arg string) string {
	const safe = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%"
	if arg != "" && strings.Trim(arg, safe) == "" {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}
