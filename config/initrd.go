package config

// Where imagebuild puts things in the initrd, and init finds them.
const (
	InitPath          = "/init"
	FilePath          = "/etc/reimager/reimager.toml"
	RetentionListPath = "/etc/reimager/retentionlist"
	KeyDir            = "/etc/reimager/keys"
	ModuleDir         = "/lib/modules/reimager"
	ModuleIndexPath   = ModuleDir + "/index"
	// ProgramPath is reimager itself, for a new system that lacks it; baked where
	// [report] names a place.
	ProgramPath = "/usr/lib/reimager/reimager"
	// GRUB's images for a lifeboat: what lies in its boot sector, and its core.
	LifeboatBootPath = "/usr/lib/reimager/lifeboat/boot.img"
	LifeboatCorePath = "/usr/lib/reimager/lifeboat/core.img"
)

// ReserveBytes is the memory that a run needs beside image and retained files: the
// decoder's, the ranges under way, two Go programs, the kernel's own buffers. The
// QEMU tests hold the measured peak against it.
const ReserveBytes = 128 << 20

// KernelBytes is what a distribution's kernel takes of MemTotal on a small machine, beside
// its unpacked initrd: 38 MiB were measured on one of 256 MiB, 42 on one of 512.
const KernelBytes = 48 << 20
