package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"reimager/vm"
)

// grubModules is where Debian's grub-pc-bin puts boot.img and the modules.
const grubModules = "/usr/lib/grub/i386-pc"

// biosBootType is the type of the partition that holds GRUB's core on a GPT disk: GRUB's
// manual, "BIOS installation".
const biosBootType = "21686148-6449-6E6F-744E-656564454649"

// Grub is GRUB for BIOS machines, put on a disk as grub-install does it.
type Grub struct {
	// Partition holds grub.cfg; Dir is GRUB's directory there: "/grub" on a
	// boot partition of its own, "/boot/grub" on a root.
	Partition int
	Dir       string
	// CorePartition is the BIOS boot partition of a GPT disk. An MBR disk has
	// the core image in the sectors between the table and the first partition.
	CorePartition int
}

// GrubFiles are the modules and their lists, as grub-install copies them
// below GRUB's directory.
func GrubFiles(dir string) (Tree, error) {
	var tree Tree
	for _, pattern := range []string{"*.mod", "*.lst", "modinfo.sh"} {
		paths, err := filepath.Glob(filepath.Join(grubModules, pattern))
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			tree = append(tree, File{Path: filepath.Join(dir, "i386-pc", filepath.Base(path)), Source: path})
		}
	}
	if len(tree) == 0 {
		return nil, fmt.Errorf("find GRUB modules in %s: none (Debian package grub-pc-bin)", grubModules)
	}
	return tree, nil
}

// grubCoreModules are linked into the core: enough to read grub.cfg from
// either table; all others come from GRUB's directory.
func grubCoreModules() []string {
	return []string{"biosdisk", "part_msdos", "part_gpt", "ext2", "normal", "search", "search_fs_uuid", "search_label",
		"loadenv", "linux", "configfile", "test", "echo", "minicmd", "boot", "reboot"}
}

// Where the boot code keeps its addresses: grub-core/boot/i386/pc/boot.S and
// diskboot.S, GRUB_BOOT_MACHINE_* in include/grub/i386/pc/boot.h.
const (
	bootCodeSize    = 440  // up to the MBR's disk signature
	bootKernelLBA   = 0x5c // boot.img: the core's first sector
	bootDriveCheck  = 0x66 // boot.img: a jump over the drive check
	coreContinueLBA = 0x1f4
)

func (g *Grub) install(ctx context.Context, disk *os.File, parts []BuiltPartition) error {
	scheme, at, room := "msdos", int64(sectorSize), firstOffset(parts)-sectorSize
	if g.CorePartition != 0 {
		scheme = "gpt"
		for _, p := range parts {
			if p.Number == g.CorePartition {
				at, room = p.Offset, p.Size
			}
		}
	}
	core, err := makeCore(ctx, fmt.Sprintf("(hd0,%s%d)%s", scheme, g.Partition, g.Dir))
	if err != nil {
		return err
	}
	if int64(len(core)) > room {
		return fmt.Errorf("install GRUB: core image of %d bytes does not fit into %d", len(core), room)
	}
	boot, err := os.ReadFile(filepath.Join(grubModules, "boot.img"))
	if err != nil {
		return fmt.Errorf("install GRUB: %w (Debian package grub-pc-bin)", err)
	}
	lba := uint64(at / sectorSize)
	binary.LittleEndian.PutUint64(boot[bootKernelLBA:], lba)
	binary.LittleEndian.PutUint64(core[coreContinueLBA:], lba+1)
	// As grub-bios-setup does on hard disks: two NOPs let the check run that
	// corrects a BIOS which passes no drive number.
	copy(boot[bootDriveCheck:], []byte{0x90, 0x90})
	_, bootErr := disk.WriteAt(boot[:bootCodeSize], 0)
	_, coreErr := disk.WriteAt(core, at)
	return errors.Join(bootErr, coreErr)
}

func makeCore(ctx context.Context, prefix string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "lab-grub-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // a leftover in the temporary directory harms nobody
	out := filepath.Join(dir, "core.img")
	args := append([]string{"-O", "i386-pc", "-d", grubModules, "-o", out, "-p", prefix}, grubCoreModules()...)
	if _, err := vm.Run(ctx, "grub-mkimage", args...); err != nil {
		return nil, fmt.Errorf("make GRUB core image: %w", err)
	}
	core, err := os.ReadFile(out)
	if err == nil && len(core) <= sectorSize {
		err = fmt.Errorf("make GRUB core image: %d bytes only", len(core))
	}
	return core, err
}

func firstOffset(parts []BuiltPartition) int64 {
	first := int64(mib)
	for _, p := range parts {
		first = min(first, p.Offset)
	}
	return first
}

// grubenv's form: grub-core/lib/envblk.c.
const (
	grubEnvSize   = 1024
	grubEnvHeader = "# GRUB Environment Block\n"
)

// GrubEnv returns an environment block of exactly 1024 bytes with the given
// NAME=VALUE lines.
func GrubEnv(variables ...string) (string, error) {
	text := grubEnvHeader
	for _, v := range variables {
		text += strings.NewReplacer(`\`, `\\`, "\n", "\\\n").Replace(v) + "\n"
	}
	if len(text) > grubEnvSize {
		return "", fmt.Errorf("make GRUB environment: %d bytes, at most %d fit", len(text), grubEnvSize)
	}
	return text + strings.Repeat("#", grubEnvSize-len(text)), nil
}
