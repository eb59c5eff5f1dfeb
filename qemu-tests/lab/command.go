// Package lab is a virtual machine, its disks and the systems on them, for
// tests, the demo and benchmarks. Kiosks are built without root and without
// loop devices; ReadTree, InjectFiles and BuildDebian need root. Whole machines
// are QEMU processes that never outlive the program that started them.
package lab

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

// Packages are the Debian packages (Ubuntu has the same names) whose tools the
// lab runs.
const Packages = "qemu-system-x86 grub-pc-bin grub-common fdisk e2fsprogs busybox-static kmod xz-utils fakeroot bzip2"

// command is one run of a host's tool.
type command struct {
	env   []string
	stdin io.Reader
	name  string
	args  []string
}

// run starts a tool and returns its standard output. The error carries the
// command line and what it printed.
func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	out, _, err := command{name: name, args: args}.run(ctx)
	return out, err
}

func (c command) run(ctx context.Context) (stdout, stderr []byte, err error) {
	path, err := lookTool(c.name)
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, path, c.args...)
	// Output is compared and parsed, so no translation may reach it.
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), c.env...)
	cmd.Stdin = c.stdin
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
		return outBuf.Bytes(), errBuf.Bytes(), fmt.Errorf("run %s: %w\n%s", quoteCommand(append([]string{c.name}, c.args...)), err, said)
	}
	return outBuf.Bytes(), errBuf.Bytes(), nil
}

// lookTool finds a program; mkfs, sfdisk and debugfs lie in /usr/sbin, which
// Debian leaves out of an ordinary user's PATH.
func lookTool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", report.Hint(fmt.Errorf("find program %s: not in PATH, /usr/sbin or /sbin", name),
		"install the lab's tools: apt-get install %s", Packages)
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

// writeAtomically gives path its content by rename, so that an interrupted
// run leaves no half file that a later one would believe.
func writeAtomically(path string, mode os.FileMode, write func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("create file for %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(write(f), f.Chmod(mode), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}
