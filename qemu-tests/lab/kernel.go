package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"reimager/report"
	"reimager/vm"
)

// Kernel is a distribution's kernel, unpacked but not installed.
type Kernel struct {
	Version string // as uname -r prints it
	Image   string // the vmlinuz file
	Modules string // the directory lib/modules/VERSION, with depmod's files
}

// StockKernel gets the kernel that this host's distribution installs on real
// machines, without installing it: Debian's linux-image-amd64 or Ubuntu's
// linux-image-generic, whichever apt knows.
func StockKernel(ctx context.Context, cache Cache) (Kernel, error) {
	pkgs, err := kernelPackages(ctx)
	if err != nil {
		return Kernel{}, err
	}
	version := strings.TrimPrefix(pkgs[0].name, "linux-image-")
	dir, err := cache.Entry(ctx, "kernel", KeyOf(version, pkgs), func(dir string) error {
		return unpackKernel(ctx, dir, version, pkgs)
	})
	if err != nil {
		return Kernel{}, err
	}
	return kernelBelow(dir, version)
}

// kernelPackage is a package with the version that apt would install.
type kernelPackage struct {
	name, version string
}

// kernelPackages resolves the meta package; the first result is the image.
func kernelPackages(ctx context.Context) ([]kernelPackage, error) {
	var tried []error
	for _, meta := range []string{"linux-image-amd64", "linux-image-generic"} {
		out, err := vm.Run(ctx, "apt-cache", "--no-all-versions", "show", meta)
		if err != nil {
			tried = append(tried, err)
			continue
		}
		image := imageDependency(string(out))
		if image == "" {
			tried = append(tried, fmt.Errorf("resolve package %s: no dependency on linux-image-VERSION in\n%s", meta, out))
			continue
		}
		names := []string{image}
		if meta == "linux-image-generic" {
			// Ubuntu splits the modules off; -extra has only rare hardware.
			names = append(names, "linux-modules-"+strings.TrimPrefix(image, "linux-image-"))
		}
		return packageVersions(ctx, names)
	}
	return nil, report.Hint(fmt.Errorf("resolve the stock kernel's package: %w", errors.Join(tried...)),
		"run apt-get update, on a Debian or Ubuntu host")
}

// imageDependency finds linux-image-VERSION in the Depends field of a
// package's record.
func imageDependency(record string) string {
	versioned := regexp.MustCompile(`^linux-image-[0-9]`)
	for _, line := range strings.Split(record, "\n") {
		list, ok := strings.CutPrefix(line, "Depends:")
		if !ok {
			continue
		}
		for _, dep := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == '|' }) {
			if name := strings.Fields(dep); len(name) > 0 && versioned.MatchString(name[0]) {
				return name[0]
			}
		}
	}
	return ""
}

func packageVersions(ctx context.Context, names []string) ([]kernelPackage, error) {
	var pkgs []kernelPackage
	for _, name := range names {
		out, err := vm.Run(ctx, "apt-cache", "--no-all-versions", "show", name)
		if err != nil {
			return nil, report.Hint(fmt.Errorf("find package %s: %w", name, err), "run apt-get update")
		}
		version := ""
		for _, line := range strings.Split(string(out), "\n") {
			if v, ok := strings.CutPrefix(line, "Version: "); ok && version == "" {
				version = v
			}
		}
		if version == "" {
			return nil, fmt.Errorf("find package %s: no version in\n%s", name, out)
		}
		pkgs = append(pkgs, kernelPackage{name, version})
	}
	return pkgs, nil
}

func unpackKernel(ctx context.Context, dir, version string, pkgs []kernelPackage) error {
	for _, pkg := range pkgs {
		// apt-get download writes to the working directory only.
		script := `cd "$1" && exec apt-get -q -o APT::Sandbox::User=root download "$2"`
		if _, err := vm.Run(ctx, "sh", "-c", script, "sh", dir, pkg.name+"="+pkg.version); err != nil {
			return report.Hint(fmt.Errorf("download package %s: %w", pkg.name, err), "check the network, then run apt-get update")
		}
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if _, err := vm.Run(ctx, "dpkg", "-x", deb, dir); err != nil {
			return fmt.Errorf("unpack %s: %w", deb, err)
		}
		if err := os.Remove(deb); err != nil {
			return err
		}
	}
	// Debian 13 packages ship usr/lib/modules, older ones lib/modules;
	// depmod -b looks below lib.
	if _, err := os.Stat(filepath.Join(dir, "lib")); os.IsNotExist(err) {
		if err := os.Symlink("usr/lib", filepath.Join(dir, "lib")); err != nil {
			return err
		}
	}
	if _, err := vm.Run(ctx, "depmod", "-b", dir, version); err != nil {
		return fmt.Errorf("index modules of %s: %w", version, err)
	}
	_, err = kernelBelow(dir, version)
	return err
}

func kernelBelow(dir, version string) (Kernel, error) {
	k := Kernel{
		Version: version,
		Image:   filepath.Join(dir, "boot", "vmlinuz-"+version),
		Modules: filepath.Join(dir, "lib", "modules", version),
	}
	for _, path := range []string{k.Image, filepath.Join(k.Modules, "modules.dep")} {
		if _, err := os.Stat(path); err != nil {
			return Kernel{}, fmt.Errorf("find kernel %s: %w", version, err)
		}
	}
	return k, nil
}
