package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"reimager/report"
	"reimager/vm"
)

// debianMirror names the variable with another mirror than mmdebstrap's.
const debianMirror = "REIMAGER_DEBIAN_MIRROR"

// debianArchive is where suites go that the mirrors have dropped.
const debianArchive = "http://archive.debian.org/debian"

// debianBase are the packages of every Debian system of the lab.
func debianBase() []string {
	return []string{"linux-image-amd64", "systemd-sysv", "udev", "openssh-server", "dbus", "initramfs-tools", "e2fsprogs", "zstd"}
}

// loaderPackages are what Debian's installer chooses for the firmware.
func (s DebianSpec) loaderPackages() []string {
	if s.UEFI() {
		return []string{"grub-efi-amd64", "grub-efi-amd64-signed", "shim-signed", "dosfstools"}
	}
	return []string{"grub-pc"}
}

// debianFiles are a suite's packages, installed but never booted.
type debianFiles struct {
	tarball string
	initrd  string // with the modules of most machines
	kernel  Kernel
}

func (s DebianSpec) packages() []string {
	packages := slices.Concat(debianBase(), s.loaderPackages(), s.Packages)
	slices.Sort(packages)
	return slices.Compact(packages)
}

// rootKey covers what the packages' files are made from.
func (s DebianSpec) rootKey() Key {
	return KeyOf(debianFormat, s.Suite, s.packages(), os.Getenv(debianMirror))
}

// debianRoot installs the packages on this host, without booting anything.
func debianRoot(ctx context.Context, cache Cache, spec DebianSpec) (debianFiles, error) {
	dir, err := cache.Entry(ctx, "debian-root", spec.rootKey(), func(dir string) error {
		if err := needRootFor("install Debian's packages"); err != nil {
			return err
		}
		tarball := filepath.Join(dir, "root.tar")
		if err := bootstrap(ctx, dir, tarball, spec); err != nil {
			return err
		}
		// Debian 12 and later keep modules in usr/lib whatever /lib is.
		_, err := vm.Run(ctx, "tar", "-x", "-f", tarball, "-C", dir, "--wildcards", "./boot/vmlinuz-*", "./boot/initrd.img-*", "./usr/lib/modules")
		if err != nil {
			return fmt.Errorf("unpack kernel: %w", err)
		}
		return os.Symlink("usr/lib", filepath.Join(dir, "lib"))
	})
	if err != nil {
		return debianFiles{}, err
	}
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil {
		return debianFiles{}, err
	}
	if len(images) != 1 {
		return debianFiles{}, fmt.Errorf("find kernel in %s: %d kernels, want one", dir, len(images))
	}
	version := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	kernel, err := kernelBelow(dir, version)
	return debianFiles{tarball: filepath.Join(dir, "root.tar"), initrd: filepath.Join(dir, "boot", "initrd.img-"+version), kernel: kernel}, err
}

func bootstrap(ctx context.Context, dir, tarball string, spec DebianSpec) (err error) {
	if _, err := vm.FindProgram("mmdebstrap"); err != nil {
		return report.Hint(errors.New("find program mmdebstrap: not in PATH"), "install what builds Debian systems: apt-get install %s", DebianPackages)
	}
	work := filepath.Join(dir, "tmp")
	// 0755 or apt, which drops to its own user, cannot read its keys there.
	if err := os.Mkdir(work, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	args := []string{
		"--mode=root", "--variant=minbase", "--architectures=amd64", "--include=" + strings.Join(spec.packages(), ","),
		`--aptopt=APT::Install-Recommends "false"`,
		// The cache may lie in root's home, which apt's own user cannot enter.
		`--aptopt=APT::Sandbox::User "root"`,
		"--dpkgopt=path-exclude=/usr/share/doc/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*",
		"--dpkgopt=path-exclude=/usr/share/man/*",
		"--customize-hook=rm -f \"$1/etc/apt/apt.conf.d/99mmdebstrap\"",
	}
	if spec.Suite == "bullseye" {
		// Debian's installer merges /usr since Debian 10, its packages since Debian 12.
		args = append(args, "--setup-hook=/usr/share/mmdebstrap/hooks/merged-usr/setup00.sh")
	}
	run := func(more ...string) error {
		command := vm.Command{Env: []string{"TMPDIR=" + work}, Name: "mmdebstrap", Args: slices.Concat(args, more)}
		if _, _, err := command.Run(ctx); err != nil {
			return fmt.Errorf("install packages: %w", err)
		}
		return nil
	}
	if mirror := os.Getenv(debianMirror); mirror != "" {
		return explainBootstrap(run(spec.Suite, tarball, mirror), spec.Suite)
	}
	err = run(spec.Suite, tarball)
	if err == nil || !droppedSuite(err) {
		return explainBootstrap(err, spec.Suite)
	}
	// What is no longer signed anew has a signature that expires.
	archiveErr := run(`--aptopt=Acquire::Check-Valid-Until "false"`, spec.Suite, tarball, debianArchive)
	if archiveErr == nil {
		return nil
	}
	return explainBootstrap(fmt.Errorf("%w\nand from %s: %w", err, debianArchive, archiveErr), spec.Suite)
}

// droppedSuite tells from what apt said whether the mirror has no such suite (any longer).
func droppedSuite(err error) bool {
	return regexp.MustCompile(`(does not have|no longer has) a Release file|404 +Not Found`).MatchString(err.Error())
}

// explainBootstrap finds the two causes that an operator can remove in what
// apt said.
func explainBootstrap(err error, suite string) error {
	if err == nil {
		return nil
	}
	said := err.Error()
	switch {
	case regexp.MustCompile(`NO_PUBKEY|is not signed|Missing key|not available: [0-9A-F]{8}`).MatchString(said):
		return report.Hint(err, "this host lacks the keys of %s: install or update the package debian-archive-keyring", suite)
	case droppedSuite(err):
		return report.Hint(err, "no mirror that was asked has %s (any longer); %s names another one", suite, debianMirror)
	case regexp.MustCompile(`Could not resolve|Could not connect|Failed to fetch|Temporary failure`).MatchString(said):
		return report.Hint(err, "check the network; %s names another mirror", debianMirror)
	}
	return err
}
