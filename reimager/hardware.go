package main

import (
	"bytes"
	"fmt"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"reimager/check"
)

func hardwareCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "hardware [-o FILE]",
		Short: "Write down what drivers this machine needs",
		Long: `Writes as JSON what drives the disks of this machine, which filesystems are mounted
from them, and the modalias of every device. Name the file in reimager.toml,
[machine] modules = "./FILE", and imagebuild initrd bakes the modules that a machine
like this one needs. Run it while the machine runs its old system.`,
		Example: `  reimager hardware -o kiosk-g3.json`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			hw, err := check.Host{}.Hardware()
			if err != nil {
				return err
			}
			if output == "" {
				return hw.Encode(c.OutOrStdout())
			}
			var text bytes.Buffer
			if err := hw.Encode(&text); err != nil {
				return err
			}
			if err := renameio.WriteFile(output, text.Bytes(), 0o644); err != nil {
				return fmt.Errorf("write hardware: %w", err)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "the file to write (default: standard output)")
	return c
}
