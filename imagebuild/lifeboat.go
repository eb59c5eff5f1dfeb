package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"reimager/boot"
	"reimager/config"
	"reimager/initramfs"
	"reimager/report"
)

// defaultGRUB is where Debian's grub-pc-bin and Red Hat's grub2-pc-modules put boot.img
// and modules for BIOS.
const defaultGRUB = "/usr/lib/grub/i386-pc"

// bakeLifeboat adds GRUB's images, which a machine's lifeboat boots by. Only the build
// host has grub-mkimage, and the machine needs nothing but the place filled in.
func bakeLifeboat(ctx context.Context, a *initramfs.Archive, rule config.Choice, grub string, out io.Writer) error {
	if rule == "off" {
		return nil
	}
	bootImg, coreImg, err := makeGRUB(ctx, grub)
	if err != nil {
		err = report.Hint(fmt.Errorf("make lifeboat: %w", err), `apt-get install grub-common grub-pc-bin, or name the folder with boot.img with --grub, or go without: [power_cut] lifeboat = "off"`)
		if rule == "require" || grub != "" {
			return err
		}
		_, err = fmt.Fprintf(out, "warning: this initrd has no lifeboat, so a power cut while the disk is written leaves a machine that does not boot: %s\n", report.Explain(err))
		return err
	}
	if err := a.File(config.LifeboatBootPath, bootImg, 0o644); err != nil {
		return err
	}
	if err := a.File(config.LifeboatCorePath, coreImg, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(out, "lifeboat: GRUB, %d bytes\n", len(bootImg)+len(coreImg))
	return nil
}

// makeGRUB makes the images of a lifeboat's GRUB, and checks them as init will.
func makeGRUB(ctx context.Context, grub string) (bootImg, coreImg []byte, err error) {
	if grub == "" {
		grub = defaultGRUB
	}
	if bootImg, err = os.ReadFile(filepath.Join(grub, "boot.img")); err != nil {
		return nil, nil, err
	}
	mkimage, err := exec.LookPath("grub-mkimage")
	if errors.Is(err, exec.ErrNotFound) {
		mkimage, err = exec.LookPath("grub2-mkimage") // Red Hat's name
	}
	if err != nil {
		return nil, nil, fmt.Errorf("find grub-mkimage: %w", err)
	}
	work, err := os.MkdirTemp("", "imagebuild-grub-")
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	embedded, core := filepath.Join(work, "embedded.cfg"), filepath.Join(work, "core.img")
	if err := os.WriteFile(embedded, []byte(boot.LifeboatConfig()), 0o600); err != nil {
		return nil, nil, err
	}
	// The prefix is for modules that are not built in: there are none.
	args := []string{"-O", "i386-pc", "-d", grub, "-c", embedded, "-o", core, "-p", "/"}
	cmd := exec.CommandContext(ctx, mkimage, append(args, boot.LifeboatModules()...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("run %s: %w: %s", mkimage, err, strings.TrimSpace(string(said)))
	}
	if coreImg, err = os.ReadFile(core); err != nil {
		return nil, nil, err
	}
	if _, err := boot.ParseLifeboatCore(bootImg, coreImg); err != nil {
		return nil, nil, fmt.Errorf("GRUB in %s: %w", grub, err)
	}
	return bootImg, coreImg, nil
}
