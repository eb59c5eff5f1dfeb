package lab

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "embed" // the scripts of the kiosk
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
	"github.com/ulikunitz/xz"

	"reimager/vm"
)

//go:embed kiosk/init
var kioskInitrdInit string

// Initrd makes a small initrd: busybox with a few applets, the named modules
// with what they depend on, and the given /init. Names that the kernel has built in are left
// out; optional ones may also be missing.
func Initrd(ctx context.Context, kernel Kernel, init string, modules, optional []string) ([]byte, error) {
	busybox, err := busyboxProgram(ctx)
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	paths, err := resolveModules(kernel, modules, optional)
	if err != nil {
		return nil, err
	}
	records := []cpio.Record{
		cpio.StaticFile("init", init, 0o755),
		cpio.StaticFile("bin/busybox", string(program), 0o755),
	}
	// Only the applets in use: making hundreds of links takes half a second
	// under TCG.
	for _, applet := range []string{"sh", "mount", "insmod", "findfs", "usleep", "switch_root", "cat", "ls", "sync", "reboot", "poweroff"} {
		records = append(records, cpio.Symlink("bin/"+applet, "busybox"))
	}
	for _, dir := range []string{"bin", "dev", "proc", "sys", "root", "modules"} {
		records = append(records, cpio.Directory(dir, 0o755))
	}
	// Without it the kernel gives init no standard output: devtmpfs is not
	// mounted over an initramfs.
	records = append(records, cpio.CharDev("dev/console", 0o600, 5, 1))
	var order strings.Builder
	for _, p := range paths {
		content, err := readModule(filepath.Join(kernel.Modules, p))
		if err != nil {
			return nil, err
		}
		name := moduleName(p) + ".ko"
		records = append(records, cpio.StaticFile("modules/"+name, string(content), 0o644))
		order.WriteString(name + "\n")
	}
	records = append(records, cpio.StaticFile("modules/order", order.String(), 0o644))
	return packInitrd(records)
}

func packInitrd(records []cpio.Record) ([]byte, error) {
	cpio.MakeAllReproducible(records)
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	w := cpio.Newc.Writer(zip)
	// Directories first: the kernel makes no parents.
	for _, dirs := range []bool{true, false} {
		for _, r := range records {
			if (r.Mode&cpio.S_IFMT == cpio.S_IFDIR) != dirs {
				continue
			}
			if err := w.WriteRecord(r); err != nil {
				return nil, fmt.Errorf("pack initrd: %s: %w", r.Name, err)
			}
		}
	}
	if err := errors.Join(cpio.WriteTrailer(w), zip.Close()); err != nil {
		return nil, fmt.Errorf("pack initrd: %w", err)
	}
	return out.Bytes(), nil
}

// moduleName is the name as the kernel knows it, without - and suffixes.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// resolveModules returns module files below kernel.Modules in the order in
// which they can be inserted.
func resolveModules(kernel Kernel, modules, optional []string) ([]string, error) {
	dep, err := os.ReadFile(filepath.Join(kernel.Modules, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("resolve modules: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(kernel.Modules, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("resolve modules: %w", err)
	}
	files, needs, builtIn := map[string]string{}, map[string][]string{}, map[string]bool{}
	for _, line := range strings.Split(string(dep), "\n") {
		if file, deps, ok := strings.Cut(line, ":"); ok {
			files[moduleName(file)], needs[file] = file, strings.Fields(deps)
		}
	}
	for _, file := range strings.Fields(string(builtin)) {
		builtIn[moduleName(file)] = true
	}
	var order []string
	seen := map[string]bool{}
	add := func(file string) {
		// modules.dep lists the nearest dependency first (depmod(8)).
		deps := needs[file]
		for i := len(deps) - 1; i >= 0; i-- {
			if !seen[deps[i]] {
				seen[deps[i]], order = true, append(order, deps[i])
			}
		}
		if !seen[file] {
			seen[file], order = true, append(order, file)
		}
	}
	must := len(modules)
	for i, name := range append(append([]string(nil), modules...), optional...) {
		name = moduleName(name)
		if file, ok := files[name]; ok {
			add(file)
		} else if i < must && !builtIn[name] {
			return nil, fmt.Errorf("resolve modules: kernel %s has no module %s", kernel.Version, name)
		}
	}
	return order, nil
}

// readModule reads a module decompressed: insmod of busybox hands the file to
// the kernel as it is.
func readModule(file string) ([]byte, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var r io.Reader
	switch filepath.Ext(file) {
	case ".ko":
		return content, nil
	case ".xz":
		r, err = xz.NewReader(bytes.NewReader(content))
	case ".gz":
		r, err = gzip.NewReader(bytes.NewReader(content))
	case ".zst":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(bytes.NewReader(content)); err == nil {
			defer d.Close()
		}
		r = d
	default:
		err = errors.New("unknown compression")
	}
	if err == nil {
		content, err = io.ReadAll(r)
	}
	if err != nil {
		return nil, fmt.Errorf("decompress module %s: %w", file, err)
	}
	return content, nil
}

// busyboxProgram finds a static busybox; the dynamic one cannot run in an
// initrd.
func busyboxProgram(ctx context.Context) (string, error) {
	program, err := vm.FindProgram("busybox")
	if err != nil {
		return "", err
	}
	if _, err := vm.Run(ctx, program, "switch_root", "--help"); err != nil {
		return "", fmt.Errorf("find busybox: %s has no switch_root (Debian package busybox-static): %w", program, err)
	}
	return program, nil
}
