// Command imagebuild runs on the build host: it bakes the initrd that replaces a
// machine's operating system, and shows what is in one.
package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	"reimager/cli"
)

// version is set by the linker.
var version = "unknown"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:   "imagebuild",
		Short: "Build what replaces a machine's operating system",
		Long: `imagebuild runs on the build host. It bakes reimager's /init together with its
configuration, the list of files that a machine keeps, the trusted keys and the
kernel modules that reach its disk into one initrd; and it packs a disk image
together with these into a signed release.

  imagebuild keygen -o fleet           a key to sign with
  imagebuild initrd …                  an initrd that trusts it
  imagebuild pack disk.img -o rel/ …   a release
  imagebuild verify rel/               is it whole, and signed?
  imagebuild prove rel/                does it work? a machine in QEMU says so
  imagebuild media rel/ -o stick.img   a stick for a machine that does not boot
  imagebuild inspect rel/              what is in it?

Exit status: 0 done, 1 failed, 2 wrong usage.`,
		Version: version,
		RunE: func(c *cobra.Command, _ []string) error {
			return cli.Usagef("no command given; see imagebuild --help")
		},
	}
	root.AddCommand(keygenCommand(), initrdCommand(), packCommand(), verifyCommand(), proveCommand(), mediaCommand(), inspectCommand())
	return cli.Execute(root, args, stdout, stderr)
}
