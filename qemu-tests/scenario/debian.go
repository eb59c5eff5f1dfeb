package scenario

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"reimager/qemu-tests/lab"
	"reimager/vm"
)

// DebianSpec says which Debian a machine has, and how it boots.
type DebianSpec struct {
	Suite string // "": bookworm, Debian 12
	UEFI  bool   // both systems
}

// Debian is a machine with an older Debian, or another of the same age, that is to get Debian 13.
type Debian struct {
	Dir, Disk string
	Old, New  lab.DebianSpec
	Release   lab.DebianRelease // of the new system
	OldRoot   int               // partition
	NewRoot   int
	Log       string   // what imagebuild said
	Firmware  *vm.UEFI // nil: a BIOS
}

// DebianList keeps what makes a Debian machine itself, and a service's key.
const DebianList = `/etc/machine-id
/etc/hostname
/etc/ssh/ssh_host_*
/var/lib/atm/keys
-/etc/network/interfaces
`

// ServiceKey is a key of a service user on the old Debian.
const ServiceKey = "-----BEGIN PRIVATE KEY-----\nonly this machine has it\n"

// armDebian is started by the old system's service manager.
const armDebian = `#!/bin/sh
if reimager log; then echo "old: BACK AFTER A FAILED RUN"; exit; fi
reimager status >/dev/null 2>&1
if [ $? = 6 ]; then echo "old: BACK AFTER A RUN WITHOUT A REPORT"; exit; fi
. /etc/os-release
echo "old: $PRETTY_NAME, $(cat /etc/hostname), $(cat /etc/machine-id)"
exec reimager arm --verbose --reboot /root/release
`

// Delivered is what the console of the new Debian shows when its unit has delivered
// the record.
const Delivered = "THE RECORD IS DELIVERED"

// debianReport delivers to a file, then tells the console.
const debianReport = `[report]
file = "/root/report.json"
command = ["/bin/sh", "-c", "cat > /root/by-command.json && sync && for i in 1 2 3 4 5; do echo ` + Delivered + ` > /dev/console; sleep 2; done"]
`

// BuildDebian puts the machine together in dir. The two systems are built from
// packages, which takes some minutes, unless the cache has them.
func BuildDebian(ctx context.Context, dir string, spec DebianSpec) (*Debian, error) {
	cache, err := lab.OpenCache()
	if err != nil {
		return nil, err
	}
	d := &Debian{Dir: dir, Disk: filepath.Join(dir, "disk.raw"), Old: lab.OldDebian(cmp.Or(spec.Suite, "bookworm")), New: lab.NewDebian()}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if spec.UEFI {
		d.Old, d.New = d.Old.OnUEFI(), d.New.OnUEFI()
		if d.Firmware, err = vm.NewUEFI(filepath.Join(dir, "uefi-variables")); err != nil {
			return nil, err
		}
	}
	if d.Release, err = lab.DebianImage(ctx, cache, d.New); err != nil {
		return nil, err
	}
	old, err := lab.BuildDebian(ctx, cache, d.Old)
	if err != nil {
		return nil, err
	}
	d.OldRoot, d.NewRoot = old.RootPartition, d.Release.RootPartition
	if err := lab.CopySparse(d.Disk, old.Disk.Path); err != nil {
		return nil, err
	}
	return d, d.ship(ctx)
}

// ship bakes the initrd with the new system's kernel and puts the release onto the
// old system's disk.
func (d *Debian) ship(ctx context.Context) error {
	config, list, initrd := filepath.Join(d.Dir, "reimager.toml"), filepath.Join(d.Dir, "retentionlist.txt"), filepath.Join(d.Dir, "reimager.initrd")
	if err := errors.Join(os.WriteFile(config, []byte(PlainConfig+debianReport), 0o644), os.WriteFile(list, []byte(DebianList), 0o644)); err != nil {
		return err
	}
	imagebuild, err := Program("imagebuild")
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, imagebuild, "initrd", "--config", config, "--retain", list,
		"--modules", d.Release.Kernel.Modules, "-o", initrd).CombinedOutput()
	d.Log = string(out)
	if err != nil {
		return fmt.Errorf("bake initrd: %w\n%s", err, out)
	}
	reimager, err := Program("reimager")
	if err != nil {
		return err
	}
	// Put in here and not when the system is built, so that its cache serves others too.
	key := lab.Text("var/lib/atm/keys/client.key", 0o600, ServiceKey)
	key.UID, key.GID, key.ModTime = 990, 990, time.Date(2021, 2, 3, 4, 5, 6, 789, time.UTC)
	return lab.InjectFiles(ctx, d.Disk, d.OldRoot, lab.Tree{
		lab.Dir("var/lib/atm/keys", 0o700, 990, 990), key,
		{Path: "usr/local/sbin/reimager", Mode: 0o755, Source: reimager},
		{Path: "root/release/vmlinuz", Mode: 0o644, Source: d.Release.Kernel.Image},
		{Path: "root/release/reimager.initrd", Mode: 0o644, Source: initrd},
		{Path: "root/release/new.img.bz2", Mode: 0o644, Source: d.Release.Bzip2},
		lab.Text("root/run", 0o755, armDebian),
	})
}

// Drive is the machine's disk as a VM gets it.
func (d *Debian) Drive() vm.Drive { return vm.Drive{Path: d.Disk, Serial: Serial} }

// MemoryMiB is what the machine has.
func (d *Debian) MemoryMiB() int { return 1024 }
