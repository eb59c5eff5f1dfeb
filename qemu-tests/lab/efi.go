package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"reimager/vm"
)

// grubEFIModules is where Debian's grub-efi-amd64-bin puts the modules.
const grubEFIModules = "/usr/lib/grub/x86_64-efi"

// espType is the type of an EFI system partition: UEFI 2.10, table 5.7.
const espType = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"

// RemovableLoader is what UEFI starts from a disk that no boot entry names.
const RemovableLoader = "EFI/BOOT/BOOTX64.EFI"

// EFILoader is a GRUB for UEFI that goes on with dir/grub.cfg on the filesystem with
// that UUID. It has all that a grub.cfg of Debian needs, and reads no modules.
func EFILoader(ctx context.Context, uuid, dir string) (string, error) {
	work, err := os.MkdirTemp("", "lab-grub-efi-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work) // a leftover in the temporary directory harms nobody
	early, out := filepath.Join(work, "early.cfg"), filepath.Join(work, "grub.efi")
	script := fmt.Sprintf("search.fs_uuid %s root\nset prefix=($root)%s\n", uuid, dir)
	if err := os.WriteFile(early, []byte(script), 0o600); err != nil {
		return "", err
	}
	args := []string{"-O", "x86_64-efi", "-d", grubEFIModules, "-c", early, "-o", out, "-p", dir,
		"part_msdos", "part_gpt", "ext2", "fat", "normal", "search", "search_fs_uuid", "search_fs_file", "search_label", "loadenv",
		"linux", "configfile", "test", "true", "echo", "terminal", "gzio", "boot", "reboot", "minicmd", "all_video", "efi_gop"}
	if _, err := vm.Run(ctx, "grub-mkimage", args...); err != nil {
		return "", fmt.Errorf("make GRUB for UEFI: %w (Debian package grub-efi-amd64-bin)", err)
	}
	image, err := os.ReadFile(out)
	return string(image), err
}

// makeFAT makes a FAT filesystem and copies the partition's files in. It knows no
// owners, links and modes.
func makeFAT(ctx context.Context, disk string, p Partition, at BuiltPartition) (err error) {
	// The volume ID is what is called a UUID, as in 1A2B-3C4D.
	id := strings.ReplaceAll(at.UUID, "-", "")
	args := []string{"--invariant", "-i", id, "--offset", strconv.FormatInt(at.Offset/sectorSize, 10)}
	// mkfs.vfat chooses by the size of the whole file. This is what it makes of a
	// partition of this size; a smaller one has too few clusters.
	if at.Size >= 16*mib && at.Size < 512*mib {
		args = append(args, "-F", "16")
	}
	if p.Label != "" {
		args = append(args, "-n", p.Label)
	}
	args = append(args, disk, strconv.FormatInt(at.Size/1024, 10))
	if _, err := vm.Run(ctx, "mkfs.vfat", args...); err != nil {
		return err
	}
	files, err := p.Tree.complete()
	if err != nil {
		return err
	}
	image := disk + "@@" + strconv.FormatInt(at.Offset, 10)
	work, err := os.MkdirTemp("", "lab-fat-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	for _, f := range files {
		switch {
		case f.Path == ".":
			continue
		case f.Mode.IsDir():
			_, err = vm.Run(ctx, "mmd", "-i", image, "::"+f.Path)
		default:
			source := f.Source
			if source == "" {
				source = filepath.Join(work, "file")
				if err := os.WriteFile(source, []byte(f.Content), 0o600); err != nil {
					return err
				}
			}
			_, err = vm.Run(ctx, "mcopy", "-o", "-i", image, source, "::"+f.Path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
