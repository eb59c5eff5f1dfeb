package media

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"reimager/report"
)

// What the stick's GRUB has built in: everything, so that the stick holds no modules.
func modules(platform string) []string {
	all := []string{"part_msdos", "part_gpt", "fat", "search", "search_fs_uuid", "normal", "configfile", "linux", "boot", "chain",
		"loadenv", "test", "true", "echo", "sleep", "regexp", "minicmd", "reboot", "halt"}
	if platform == biosPlatform {
		return append(all, "biosdisk", "drivemap")
	}
	return append(all, "all_video", "efi_gop")
}

const (
	biosPlatform = "i386-pc"
	uefiPlatform = "x86_64-efi"
)

// Where GRUB's boot code keeps its addresses: grub-core/boot/i386/pc/boot.S and
// diskboot.S, GRUB_BOOT_MACHINE_* in include/grub/i386/pc/boot.h.
const (
	bootCodeBytes  = 440   // of sector 0; the disk's signature follows
	coreLBA        = 0x5c  // boot.img: the first sector of the core
	driveCheck     = 0x66  // boot.img: a jump over the drive check
	continuedLBA   = 0x1f4 // core.img: the sector that follows
	diskSignature  = 440
	partitionEntry = 446
)

// packages are Debian's packages with what is needed.
func packages() map[string]string {
	return map[string]string{"grub-mkimage": "grub-common", biosPlatform: "grub-pc-bin", uefiPlatform: "grub-efi-amd64-bin",
		"mkfs.vfat": "dosfstools", "mcopy": "mtools", "mmd": "mtools"}
}

// tools are the programs of the build host that make a stick.
type tools struct {
	mkimage string
	grub    string // folder with a folder for each platform
}

// findTools names everything that is missing at once.
func findTools(grub string) (*tools, error) {
	t := &tools{grub: grub}
	var missing, install []string
	need := func(what string, err error) {
		if err != nil {
			missing, install = append(missing, what), append(install, packages()[filepath.Base(what)])
		}
	}
	var err error
	if t.mkimage, err = exec.LookPath("grub-mkimage"); err != nil {
		t.mkimage, err = exec.LookPath("grub2-mkimage") // Red Hat's name
	}
	need("grub-mkimage", err)
	for _, p := range []string{biosPlatform, uefiPlatform} {
		_, err := os.Stat(filepath.Join(grub, p, "normal.mod"))
		need(filepath.Join(grub, p), err)
	}
	for _, name := range []string{"mkfs.vfat", "mcopy", "mmd"} {
		_, err := exec.LookPath(name)
		need(name, err)
	}
	if len(missing) == 0 {
		return t, nil
	}
	slices.Sort(install)
	return nil, report.Hint(fmt.Errorf("make stick: this host lacks %s", strings.Join(missing, ", ")), "apt-get install %s", strings.Join(slices.Compact(install), " "))
}

// run runs a tool; what it says on its standard error is in the error.
func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	// A .mtoolsrc of the builder's own must not change what is made.
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=0", "MTOOLSRC=/dev/null", "LC_ALL=C.UTF-8")
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s: %w: %s", filepath.Base(name), err, strings.TrimSpace(said.String()))
	}
	return nil
}

// makeGRUB returns a GRUB for a platform that goes on with /reimager/grub.cfg on the
// stick, whatever the firmware calls it.
func (t *tools) makeGRUB(ctx context.Context, work, platform, volumeID string) ([]byte, error) {
	early, out := filepath.Join(work, platform+".cfg"), filepath.Join(work, platform+".img")
	script := "search.fs_uuid " + volumeID + " root\nset prefix=($root)" + folder + "\n"
	if err := os.WriteFile(early, []byte(script), 0o600); err != nil {
		return nil, err
	}
	args := []string{"-O", platform, "-d", filepath.Join(t.grub, platform), "-c", early, "-o", out, "-p", folder}
	if err := run(ctx, t.mkimage, append(args, modules(platform)...)...); err != nil {
		return nil, fmt.Errorf("make GRUB for %s: %w", platform, err)
	}
	image, err := os.ReadFile(out)
	if err != nil {
		return nil, fmt.Errorf("make GRUB for %s: %w", platform, err)
	}
	return image, nil
}

// writeBoot writes what a BIOS boots: GRUB's first sector with a table of one active
// partition, and the core behind it.
func (t *tools) writeBoot(stick *os.File, core []byte, signature uint32, partBytes int64) error {
	if len(core) <= sectorBytes || int64(len(core)) > partStart-sectorBytes {
		return fmt.Errorf("write boot code: GRUB's core has %d bytes, there is room for %d", len(core), partStart-sectorBytes)
	}
	first, err := os.ReadFile(filepath.Join(t.grub, biosPlatform, "boot.img"))
	if err != nil {
		return fmt.Errorf("write boot code: %w", err)
	}
	if len(first) != sectorBytes {
		return fmt.Errorf("write boot code: %s has %d bytes, expected %d", filepath.Join(t.grub, biosPlatform, "boot.img"), len(first), sectorBytes)
	}
	clear(first[bootCodeBytes:])
	binary.LittleEndian.PutUint64(first[coreLBA:], 1)
	binary.LittleEndian.PutUint64(core[continuedLBA:], 2)
	// As grub-bios-setup does on hard disks: two NOPs let the check run that
	// corrects a BIOS which passes no drive number.
	copy(first[driveCheck:], []byte{0x90, 0x90})
	binary.LittleEndian.PutUint32(first[diskSignature:], signature)
	entry := first[partitionEntry:]
	entry[0], entry[4] = 0x80, 0x0c // active; FAT32 by LBA
	// No cylinders: what they are is for each BIOS to guess.
	copy(entry[1:], []byte{0xfe, 0xff, 0xff})
	copy(entry[5:], []byte{0xfe, 0xff, 0xff})
	binary.LittleEndian.PutUint32(entry[8:], partStart/sectorBytes)
	binary.LittleEndian.PutUint32(entry[12:], uint32(partBytes/sectorBytes))
	first[510], first[511] = 0x55, 0xaa
	_, err = stick.WriteAt(first, 0)
	_, coreErr := stick.WriteAt(core, sectorBytes)
	return errors.Join(err, coreErr)
}
