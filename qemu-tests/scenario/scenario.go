// Package scenario puts a kiosk together that is to be replaced: its old disk with
// a release on it, the image of its new system, and the initrd. Demo, tests and
// benchmarks run the same machines.
package scenario

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"reimager/qemu-tests/lab"
	"reimager/vm"
)

// Spec says in what a kiosk differs from the usual one.
type Spec struct {
	Config   string // reimager.toml; "": ClassicConfig
	Retain   string // the list; "": UsualList
	NoRetain bool   // an empty list
	// Old and New change the two systems.
	Old, New func(*lab.KioskSpec)
	// OldData makes further files for the old kiosk's data partition.
	OldData func(context.Context, lab.Kernel) (lab.Tree, error)
	// UEFI has both systems boot by it.
	UEFI bool
	// Init is another /init than the one that was built.
	Init string
	// Signed signs the image and trusts its key.
	Signed bool
	// Flags are further arguments of imagebuild initrd.
	Flags []string
	// Pack makes a signed release of the image: "zst" or "bz2". PackFlags are further
	// arguments of imagebuild pack.
	Pack      string
	PackFlags []string
}

// Kiosk is a machine before its replacement.
type Kiosk struct {
	Dir      string
	Disk     string // raw disk of the old system, with the release on it
	NewRaw   string // raw image of the new system
	NewImage string // the same, compressed, if it is not packed
	Initrd   string
	Release  string // directory, if it was packed
	Kernel   lab.Kernel
	Old, New lab.KioskSpec
	Log      string   // what imagebuild said
	Firmware *vm.UEFI // nil: a BIOS
}

// ClassicConfig is the layout of the first such fleets, named device by device.
const ClassicConfig = `[machine]
modules = "classic"
device_timeout = "20s"

[image]
source = "/dev/sda5:/release/new.img.bz2"

[trust]
signature = "if-present"

[target]
disk = "/dev/sda"

[old]
root = "/dev/sda2"
mounts = { "/data" = "/dev/sda5", "/kiosk" = "/dev/sda6" }

[new]
root = "partition 2"
mounts = { "/kiosk" = "partition 6" }
log_dir = "/kiosk/log"
`

// DefaultConfig changes nothing: images have to be signed, everything is found.
const DefaultConfig = "# the defaults\n"

// PlainConfig is the same for images that are not signed.
const PlainConfig = `[trust]
signature = "if-present"
`

// UsualList keeps a machine's identity, a service's keys, and every kind of name.
const UsualList = `# what makes this machine itself
/etc/machine-id
/etc/hostname
/etc/ssh/ssh_host_*
# a service user's keys
/etc/kiosk/keys
# two files of one base name, odd names
/srv/one/same
/srv/two/same
/srv/names/*
/kiosk/till state.db
-/etc/perhaps
`

// Kept are the files of the old system that UsualList keeps beside its identity.
func Kept() lab.Tree {
	at := time.Date(2019, 7, 8, 9, 10, 11, 123456789, time.UTC)
	file := func(path string, mode fs.FileMode, uid, gid int, content string) lab.File {
		f := lab.Text(path, mode, content)
		f.UID, f.GID, f.ModTime = uid, gid, at
		return f
	}
	dir := func(path string, mode fs.FileMode, uid, gid int) lab.File {
		d := lab.Dir(path, mode, uid, gid)
		d.ModTime = at
		return d
	}
	return lab.Tree{
		dir("etc/kiosk/keys", 0o700, 990, 990),
		file("etc/kiosk/keys/client.key", 0o600, 990, 990, "-----BEGIN PRIVATE KEY-----\nthe till's own\n"),
		file("etc/kiosk/keys/client.crt", 0o644, 990, 990, "-----BEGIN CERTIFICATE-----\nof this till\n"),
		dir("etc/kiosk/keys/archive", 0o750|fs.ModeSetgid, 990, 1000),
		file("etc/kiosk/keys/archive/2018.key", 0o400, 0, 990, "older"),
		file("srv/one/same", 0o640, 1000, 1000, "one"),
		file("srv/two/same", 0o604, 990, 1000, "two"),
		file("srv/names/with spaces in it", 0o644, 1000, 1000, "spaces"),
		file("srv/names/with\nnewline", 0o644, 1000, 1000, "newline"),
		file("srv/names/ünïcode", 0o644, 1000, 1000, ""),
	}
}

// Root returns the folder that holds go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("find go.mod: not here nor in a folder above")
}

// Program returns the path of a program that `just build` has built.
func Program(name string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	p := filepath.Join(root, "build/bin", name)
	if _, err := os.Stat(p); err != nil {
		return "", fmt.Errorf("find %s: %w (run: just build)", name, err)
	}
	return p, nil
}

// Build puts a kiosk together in dir.
func Build(ctx context.Context, dir string, spec Spec) (*Kiosk, error) {
	cache, err := lab.OpenCache()
	if err != nil {
		return nil, err
	}
	kernel, err := lab.StockKernel(ctx, cache)
	if err != nil {
		return nil, err
	}
	k := &Kiosk{Dir: dir, Kernel: kernel, Old: lab.OldKiosk(), New: lab.NewKiosk(),
		Disk: filepath.Join(dir, "disk.raw"), NewRaw: filepath.Join(dir, "new.raw"),
		NewImage: filepath.Join(dir, "new.img.bz2"), Initrd: filepath.Join(dir, "reimager.initrd")}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if spec.UEFI {
		var err error
		if k.Firmware, err = vm.NewUEFI(filepath.Join(dir, "uefi-variables")); err != nil {
			return nil, err
		}
		k.Old.UEFI, k.New.UEFI = true, true
	}
	if spec.New != nil {
		spec.New(&k.New)
	}
	if _, err := lab.BuildKiosk(ctx, k.NewRaw, kernel, k.New); err != nil {
		return nil, err
	}
	if spec.Pack == "" {
		if err := lab.CompressBzip2(ctx, k.NewRaw, k.NewImage); err != nil {
			return nil, err
		}
	}
	if spec.Signed {
		signature, key, err := Sign(dir, k.NewImage)
		if err != nil {
			return nil, err
		}
		spec.Flags = append(spec.Flags, "--key", key)
		k.Old.Data = append(k.Old.Data, lab.File{Path: "release/" + filepath.Base(signature), Mode: 0o644, Source: signature})
	}
	if spec.Pack != "" {
		if err := imagebuild(ctx, "keygen", "--no-password", "-o", filepath.Join(dir, "fleet")); err != nil {
			return nil, err
		}
		spec.Flags = append(spec.Flags, "--key", filepath.Join(dir, "fleet.pub"))
	}
	if err := k.bake(ctx, spec); err != nil {
		return nil, err
	}
	if spec.Pack != "" {
		if err := k.pack(ctx, spec); err != nil {
			return nil, err
		}
	}
	return k, k.buildOld(ctx, spec)
}

// pack makes a signed release as an operator does.
func (k *Kiosk) pack(ctx context.Context, spec Spec) error {
	k.Release = filepath.Join(k.Dir, "release")
	return imagebuild(ctx, append([]string{"pack", k.NewRaw, "-o", k.Release, "--format", spec.Pack, "--kernel", k.Kernel.Image,
		"--initrd", k.Initrd, "--key", filepath.Join(k.Dir, "fleet.key"), "--name", "kiosk", "--version", "2.0"}, spec.PackFlags...)...)
}

// imagebuild runs the builder.
func imagebuild(ctx context.Context, args ...string) error {
	program, err := Program("imagebuild")
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("imagebuild %s: %w\n%s", args[0], err, out)
	}
	return nil
}

// bake makes the initrd as an operator does.
func (k *Kiosk) bake(ctx context.Context, spec Spec) error {
	if spec.Config == "" {
		spec.Config = ClassicConfig
	}
	if spec.Retain == "" && !spec.NoRetain {
		spec.Retain = UsualList
	}
	config, list := filepath.Join(k.Dir, "reimager.toml"), filepath.Join(k.Dir, "retentionlist.txt")
	if err := errors.Join(os.WriteFile(config, []byte(spec.Config), 0o644), os.WriteFile(list, []byte(spec.Retain), 0o644)); err != nil {
		return err
	}
	imagebuild, err := Program("imagebuild")
	if err != nil {
		return err
	}
	args := []string{"initrd", "--config", config, "--retain", list, "--modules", k.Kernel.Modules, "-o", k.Initrd}
	if spec.Init != "" {
		args = append(args, "--init", spec.Init)
	}
	out, err := exec.CommandContext(ctx, imagebuild, append(args, spec.Flags...)...).CombinedOutput()
	k.Log = string(out)
	if err != nil {
		return fmt.Errorf("bake initrd: %w\n%s", err, out)
	}
	return nil
}

// ArmScript arms the old kiosk at its boot, as an operator would; not a second time
// after a run that failed, or began and has left no report.
const ArmScript = `#!/bin/sh
echo "old: $(cat /etc/hostname) $(cat /etc/machine-id)"
if reimager log; then echo "old: BACK AFTER A FAILED RUN"; exit; fi
reimager status >/dev/null 2>&1
if [ $? = 6 ]; then echo "old: BACK AFTER A RUN WITHOUT A REPORT"; exit; fi
reimager arm --reboot /data/release
echo "old: arm ended with $?"
`

// ShowScript shows in the new kiosk what was kept.
const ShowScript = `#!/bin/sh
echo "new: $(cat /etc/hostname) $(cat /etc/machine-id)"
for f in /etc/ssh/ssh_host_*_key /etc/kiosk/keys /etc/kiosk/keys/*.key; do
	[ -e "$f" ] && stat -c 'new: %A %U(%u) %G(%g) %n' "$f"
done
`

func (k *Kiosk) buildOld(ctx context.Context, spec Spec) error {
	k.Old.BootScript, k.Old.After = ArmScript, lab.Idle
	reimager, err := Program("reimager")
	if err != nil {
		return err
	}
	k.Old.Root = append(append(k.Old.Root, Kept()...), lab.File{Path: "usr/sbin/reimager", Mode: 0o755, Source: reimager})
	k.Old.Log = append(k.Old.Log, lab.Text("till state.db", 0o600, strings.Repeat("state ", 20000)))
	files := map[string]string{"vmlinuz": k.Kernel.Image, "reimager.initrd": k.Initrd, "new.img.bz2": k.NewImage}
	if k.Release != "" {
		files = map[string]string{}
		entries, err := os.ReadDir(k.Release)
		if err != nil {
			return err
		}
		for _, e := range entries {
			files[e.Name()] = filepath.Join(k.Release, e.Name())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		k.Old.Data = append(k.Old.Data, lab.File{Path: "release/" + name, Mode: 0o644, Source: files[name]})
	}
	if spec.OldData != nil {
		more, err := spec.OldData(ctx, k.Kernel)
		if err != nil {
			return err
		}
		k.Old.Data = append(k.Old.Data, more...)
	}
	if spec.Old != nil {
		spec.Old(&k.Old)
	}
	_, err = lab.BuildKiosk(ctx, k.Disk, k.Kernel, k.Old)
	return err
}

// Drive is the kiosk's disk as a VM gets it.
func (k *Kiosk) Drive() vm.Drive { return vm.Drive{Path: k.Disk, Serial: Serial} }

// Serial is the serial number of every kiosk's disk.
const Serial = "KIOSK0042"
