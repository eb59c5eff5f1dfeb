package main

import (
	"context"
	"fmt"
	"io"

	"reimager/qemu-tests/scenario"
)

// debian shows the same with real systems, each with its own kernel and GRUB.
func debian(ctx context.Context, out io.Writer) error {
	dir, err := folder()
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "Building Debian 12 as the old system and Debian 13 as the new one from packages;\nthe first time this takes about ten minutes, without a word …")
	d, err := scenario.BuildDebian(ctx, dir, scenario.DebianSpec{})
	if err != nil {
		return err
	}
	fmt.Fprint(out, d.Log)
	s := show{
		dir: dir, disk: d.Disk, drive: d.Drive(), memoryMiB: d.MemoryMiB(), partition: d.NewRoot, logDir: "/var/log/reimager",
		steps: append([]step{
			{"old: Debian GNU/Linux 12", "Debian 12 has booted through its own GRUB, and is armed"},
			{"armed; rebooting now", "it reboots; GRUB starts the reimager, once"},
		}, append(stages(),
			step{"Debian GNU/Linux 13", "Debian 13 has booted through its own GRUB, with the old machine's name"},
			step{d.Old.LoginPrompt(), ""})...),
	}
	return s.watch(ctx, out)
}
