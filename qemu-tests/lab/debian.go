package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"reimager/report"
)

// debianFormat changes when the code builds another system from the same
// DebianSpec and the same files of ours.
const debianFormat = 1

// DebianPackages are needed to build real Debian systems, beside Packages.
const DebianPackages = "mmdebstrap debian-archive-keyring"

// DebianSpec describes a Debian system with systemd: one root, one swap, its own
// kernel, and its own GRUB in the configuration that Debian's tools write. With an
// MBR it is booted by a BIOS, with a GPT by UEFI: partition 1 is then the EFI system
// partition. Its console is the serial port.
//
// A field that is added changes the key of every system, which is then built anew.
type DebianSpec struct {
	Suite         string // "bullseye", "bookworm", "trixie"
	DiskID        string // MBR signature: 0x and 8 hex digits; or a GPT's UUID
	SizeMiB       int64
	SwapMiB       int64
	RootPartition int // 1 or 2, on UEFI 2 or 3; swap is the other
	Hostname      string
	MachineID     string   // 32 hex digits; "": systemd makes one at the first boot
	Packages      []string // beside those that every such system has
	Users         []User   // with homes; they must be free in the suite
	Files         Tree     // put in last, as InjectFiles does
}

// Debian is a system that was built. Its disk lies in the cache: copy it with
// CopySparse before anything writes to it.
type Debian struct {
	Disk          Disk
	RootPartition int
	Kernel        Kernel // unpacked
}

// OldDebian is the system that is to be replaced, on a BIOS: a suite, with room for a
// release on its root. A program at /root/run is started at each boot.
func OldDebian(suite string) DebianSpec {
	id := "0x01deb012"
	if suite != "bookworm" {
		id = "0x" + FixedUUID("old Debian " + suite)[:8]
	}
	return DebianSpec{
		Suite: suite, DiskID: id, SizeMiB: 3072, SwapMiB: 256, RootPartition: 1,
		Hostname: "kiosk-0042", MachineID: machineID("old Debian"),
		Users: []User{{"atm", "/var/lib/atm", "/usr/sbin/nologin", 990}},
	}
}

// NewDebian is the system that replaces it, on a BIOS: Debian 13 on other partitions, with
// other numbers, and an identity of its own that has to give way.
func NewDebian() DebianSpec {
	return DebianSpec{
		Suite: "trixie", DiskID: "0x02deb013", SizeMiB: 1536, SwapMiB: 128, RootPartition: 2,
		Hostname: "unnamed", MachineID: machineID("new Debian"),
		Users: []User{{"atm", "/var/lib/atm", "/usr/sbin/nologin", 880}},
	}
}

func machineID(name string) string { return strings.ReplaceAll(FixedUUID(name), "-", "") }

// FSUUID is the UUID of the filesystem or swap on a partition of the system.
func (s DebianSpec) FSUUID(partition int) string {
	return FixedUUID(fmt.Sprintf("debian %s %s %d", s.Suite, s.DiskID, partition))
}

// UEFI tells whether the system is booted by it.
func (s DebianSpec) UEFI() bool { return !strings.HasPrefix(s.DiskID, "0x") }

// OnUEFI is the same system for UEFI: with a GPT, and an EFI system partition in
// front of the others.
func (s DebianSpec) OnUEFI() DebianSpec {
	s.DiskID = FixedUUID("disk " + s.DiskID)
	s.RootPartition++
	s.SizeMiB += debianESPMiB
	return s
}

// DebianESP is the partition that UEFI finds the loader on.
const (
	DebianESP    = 1
	debianESPMiB = 64
)

// firstOfTwo is the number of the first of root and swap.
func (s DebianSpec) firstOfTwo() int {
	if s.UEFI() {
		return DebianESP + 1
	}
	return 1
}

// swapPartition is the other one.
func (s DebianSpec) swapPartition() int { return 2*s.firstOfTwo() + 1 - s.RootPartition }

// espUUID is what Linux calls the UUID of the EFI system partition, in its capitals.
func (s DebianSpec) espUUID() string {
	id := strings.ToUpper(s.FSUUID(DebianESP))
	return id[:4] + "-" + id[4:8]
}

// LoginPrompt is what the system writes to the serial port when it is up.
func (s DebianSpec) LoginPrompt() string { return s.Hostname + " login:" }

// BuildDebian builds the system from Debian's packages, which takes minutes, or
// finds it in the cache. Building needs root.
func BuildDebian(ctx context.Context, cache Cache, spec DebianSpec) (Debian, error) {
	built, err := buildDebian(ctx, cache, spec)
	if err != nil {
		return Debian{}, fmt.Errorf("build Debian %s: %w", spec.Suite, err)
	}
	return built, nil
}

func buildDebian(ctx context.Context, cache Cache, spec DebianSpec) (Debian, error) {
	key, err := spec.key()
	if err != nil {
		return Debian{}, err
	}
	parts, err := layOut(spec.disk(""))
	if err != nil {
		return Debian{}, err
	}
	root, err := debianRoot(ctx, cache, spec)
	if err != nil {
		return Debian{}, err
	}
	dir, err := cache.Entry(ctx, "debian", key, func(dir string) error {
		if err := needRootFor("build a Debian system"); err != nil {
			return err
		}
		return installDebian(ctx, filepath.Join(dir, "disk"), spec, root)
	})
	if err != nil {
		return Debian{}, err
	}
	disk := Disk{Path: filepath.Join(dir, "disk"), Size: spec.SizeMiB * mib, ID: spec.DiskID, Partitions: parts}
	return Debian{Disk: disk, RootPartition: spec.RootPartition, Kernel: root.kernel}, nil
}

// key covers all that a system is made from, but for the packages' versions:
// delete the cache to get new ones.
func (s DebianSpec) key() (Key, error) {
	if first := s.firstOfTwo(); s.RootPartition != first && s.RootPartition != first+1 {
		return "", fmt.Errorf("lay out disk: root partition %d, want %d or %d", s.RootPartition, first, first+1)
	}
	config, err := s.configTree()
	if err != nil {
		return "", err
	}
	parts := []any{debianFormat, s, s.rootKey(), config}
	for _, f := range s.Files {
		if f.Source == "" {
			continue
		}
		sum, err := fileSHA256(f.Source)
		if err != nil {
			return "", err
		}
		parts = append(parts, sum)
	}
	return KeyOf(parts...), nil
}

func (s DebianSpec) disk(tarball string) DiskSpec {
	root := Partition{FS: Ext4, Bootable: !s.UEFI(), Label: "root", UUID: s.FSUUID(s.RootPartition), Tarball: tarball}
	swap := Partition{SizeMiB: s.SwapMiB, FS: Swap, Label: "swap", UUID: s.FSUUID(s.swapPartition())}
	spec := DiskSpec{SizeMiB: s.SizeMiB, Label: MBR, ID: s.DiskID}
	taken := int64(1) // the first MiB is GRUB's
	if s.UEFI() {
		spec.Label = GPT
		spec.Partitions = []Partition{{SizeMiB: debianESPMiB, FS: FAT, UUID: s.espUUID()}}
		taken += debianESPMiB + 1 // the last MiB is the table's backup
	}
	if s.RootPartition < s.swapPartition() {
		root.SizeMiB, swap.SizeMiB = s.SizeMiB-taken-s.SwapMiB, 0
		spec.Partitions = append(spec.Partitions, root, swap)
	} else {
		spec.Partitions = append(spec.Partitions, swap, root)
	}
	return spec
}

// DebianRelease is a Debian system as it is shipped.
type DebianRelease struct {
	Debian
	Bzip2 string // the compressed disk, in the cache
}

// DebianImage is BuildDebian with the disk compressed, which is cached too.
func DebianImage(ctx context.Context, cache Cache, spec DebianSpec) (DebianRelease, error) {
	built, err := BuildDebian(ctx, cache, spec)
	if err != nil {
		return DebianRelease{}, err
	}
	// The entry's name holds the key of everything that the disk is made from.
	key := KeyOf(filepath.Base(filepath.Dir(built.Disk.Path)))
	dir, err := cache.Entry(ctx, "debian-image", key, func(dir string) error {
		return CompressBzip2(ctx, built.Disk.Path, filepath.Join(dir, "disk.bz2"))
	})
	if err != nil {
		return DebianRelease{}, err
	}
	return DebianRelease{Debian: built, Bzip2: filepath.Join(dir, "disk.bz2")}, nil
}

// needRootFor is an error for all but root.
func needRootFor(what string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return report.Hint(fmt.Errorf("%s: %w", what, ErrNotRoot),
		"run it as root (sudo -E): packages are installed in a chroot and disks are loop-mounted")
}

// usersFile has a line "NAME ID HOME SHELL" for each user.
func (s DebianSpec) usersFile() (string, error) {
	var text strings.Builder
	for _, u := range s.Users {
		fields := []string{u.Name, strconv.Itoa(u.ID), u.Home, u.Shell}
		for _, field := range fields {
			if len(strings.Fields(field)) != 1 {
				return "", fmt.Errorf("add user %q: %q is empty or has spaces", u.Name, field)
			}
		}
		text.WriteString(strings.Join(fields, " ") + "\n")
	}
	return text.String(), nil
}
