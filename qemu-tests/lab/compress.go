package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"reimager/vm"
)

// CompressBzip2 compresses a raw image with the host's lbzip2 or bzip2 at
// level 9.
func CompressBzip2(ctx context.Context, raw, out string) error {
	program, err := exec.LookPath("lbzip2")
	if err != nil {
		if program, err = vm.FindProgram("bzip2"); err != nil {
			return err
		}
	}
	in, err := os.Open(raw)
	if err != nil {
		return err
	}
	defer in.Close() // read only: nothing can be lost
	return writeAtomically(out, 0o644, func(f *os.File) error {
		var said strings.Builder
		cmd := exec.CommandContext(ctx, program, "-9", "-c")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = in, f, &said
		if err := cmd.Run(); err != nil {
			return errors.Join(fmt.Errorf("compress %s: %w: %s", raw, err, said.String()), context.Cause(ctx))
		}
		return nil
	})
}
