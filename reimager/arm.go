package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"reimager/boot"
	"reimager/check"
	"reimager/cli"
	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/report"
	"reimager/stages"
)

// Where things of ours lie on the machine.
const (
	entryID    = check.EntryID
	reportFile = check.ReportPath
	kernelName = check.KernelName
	initrdName = check.InitrdName
	jobName    = check.JobName
)

// armOptions are the options of reimager arm.
type armOptions struct {
	reboot, rehearse, kexec, verbose bool
	keys, force                      []string
}

func armCommand() *cobra.Command {
	var o armOptions
	c := &cobra.Command{
		Use:   "arm [--rehearse] [--reboot] RELEASE",
		Short: "Replace the operating system at the next boot",
		Long: `Arms this machine: at its next boot GRUB starts the reimager once, which replaces
the operating system with the image in RELEASE, a directory of imagebuild pack, or
one with three files, known by their content: a kernel, an initrd of imagebuild, and
a compressed disk image.

All of "reimager check" comes first. If anything fails nothing is changed.

Kernel, initrd, a job and a gate are put into /boot/reimager, an entry is added to
GRUB's custom.cfg (where GRUB does not read that, as a boot loader entry in
/boot/loader/entries), and next_entry is set in its environment; nothing else of the
boot configuration is touched. A report file for the run is made in /var/lib/reimager,
and the report of the run before is kept beside it; if [report] names a place, the
reimager-report service is installed, which delivers it. "reimager disarm" takes all of
it back. Arming twice is the same as once.`,
		Example: `  reimager arm --rehearse --reboot DIR   try everything but the write, and come back
  reimager arm --reboot DIR              do it`,
		Args: cobra.MatchAll(cobra.ExactArgs(1), notEmpty),
		RunE: func(c *cobra.Command, args []string) error {
			out := c.OutOrStdout()
			if err := arm(c.Context(), args[0], o, out); err != nil {
				return err
			}
			if !o.reboot {
				fmt.Fprintln(out, o.armed())
				return nil
			}
			fmt.Fprintln(out, "armed; rebooting now")
			if o.kexec {
				return startKexec()
			}
			return restart()
		},
	}
	f := c.Flags()
	f.BoolVar(&o.rehearse, "rehearse", false, "end the run before it writes: it proves and measures everything, and boots this system again")
	f.BoolVar(&o.reboot, "reboot", false, "reboot at once")
	f.BoolVar(&o.kexec, "kexec", false, "start the run from this kernel, without firmware and GRUB; a power cut before that takes it back")
	f.StringArrayVar(&o.force, "force", nil, "CHECK: arm although this check fails; may be given several times")
	f.StringArrayVar(&o.keys, "key", nil, keyHelp)
	f.BoolVarP(&o.verbose, "verbose", "v", false, "show what passed, too")
	return c
}

// armed says what the machine will do.
func (o armOptions) armed() string {
	switch {
	case o.kexec && o.rehearse:
		return "armed: the rehearsal starts at the next `systemctl kexec` (or reboot, as some systemds do); the machine comes back to this system"
	case o.kexec:
		return "armed: the run that replaces the operating system starts at the next `systemctl kexec` (or reboot, as some systemds do); a power cut disarms"
	case o.rehearse:
		return "armed: the next boot rehearses, and comes back to this system"
	}
	return "armed: the next boot replaces the operating system"
}

// arm leaves the machine armed, or as it was.
func arm(ctx context.Context, dir string, o armOptions, out io.Writer) error {
	if err := onlyRoot("arm"); err != nil {
		return err
	}
	// Without GRUB the checks say why that is an error, or with --kexec none.
	grub, _ := boot.FindGRUB("/")
	unlock, err := lock(grub)
	if err != nil {
		return err
	}
	defer unlock()
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if dir == folderOf(grub) {
		return report.Hint(fmt.Errorf("arm: %s is where the files of an arming are kept", dir), "put the release into a folder of its own")
	}
	keys, err := image.ReadKeys(o.keys)
	if err != nil {
		return err
	}
	// Before anything is read: a misspelt name is not found after minutes.
	if _, err := (check.Results{}).Force(o.force); err != nil {
		return err
	}
	fmt.Fprintf(out, "reading %s\n", dir)
	x := check.Examine(ctx, check.Options{Release: dir, Keys: keys, Rehearse: o.rehearse, Kexec: o.kexec})
	if err := o.judge(x, out); err != nil {
		return err
	}
	job, err := newJob(x, o.rehearse)
	if err != nil {
		return err
	}
	if !o.kexec {
		if err := checkEntry(grub, job.RunID); err != nil {
			return fmt.Errorf("arm: nothing was changed: %w", err)
		}
	}
	announce(x, out)
	if err := install(grub, x.Release, job, o.kexec); err != nil {
		return errors.Join(err, disarm(grub))
	}
	return nil
}

// judge shows what was found, and refuses what failed and was not forced.
func (o armOptions) judge(x *check.Examination, out io.Writer) error {
	results, err := x.Results.Force(o.force)
	if err != nil {
		return err
	}
	shown := []check.Verdict{check.Warn, check.Fail}
	if o.verbose {
		shown = nil
	}
	if err := results.Print(out, cli.Width(out), shown...); err != nil {
		return err
	}
	fmt.Fprintln(out, results.Summary())
	if n := results.Count(check.Fail); n > 0 {
		return report.Hint(errors.New("arm: nothing was changed, as not all checks pass"), "correct what failed; --force NAME goes past a check where that is possible")
	}
	return nil
}

// announce says what the machine is armed for.
func announce(x *check.Examination, out io.Writer) {
	if m := x.Release.Manifest; m != nil {
		signed := "not signed"
		if x.Release.SignedBy != nil {
			signed = "signed by " + x.Release.SignedBy.ID()
		}
		fmt.Fprintf(out, "release %s, counter %d, %s\n", m, m.Counter, signed)
	}
	fmt.Fprintf(out, "target  %s\nimage   %s, %s\n", x.Target, x.Release.Image, disk.Size(x.Release.ImageBytes))
	if x.Berth != nil {
		fmt.Fprintf(out, "berth   %s in %s; a power cut is survived\n", disk.Size(x.Berth.Bytes), x.Berth.Where)
	}
}

// lock keeps two commands from editing the boot configuration at once. The lock
// ends with the process at the latest.
func lock(grub *boot.GRUB) (unlock func(), err error) {
	dir := filepath.Dir(folderOf(nil))
	if grub != nil {
		dir = grub.Dir()
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock boot configuration: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(report.Hint(fmt.Errorf("lock %s: %w", dir, err), "another reimager is at work; wait for it"), f.Close())
	}
	return func() { f.Close() }, nil
}

// folderOf is where kernel, initrd and job lie while a machine is armed.
func folderOf(grub *boot.GRUB) string { return check.BootFolder(grub) }

// kept are parameters of the running kernel that its hardware or its console may
// need. All others belong to the old system.
func kept() []string {
	return []string{"console=", "earlyprintk=", "acpi", "apic", "noapic", "nolapic", "pci=", "iommu=", "intel_iommu=", "amd_iommu=",
		"irqpoll", "no_timer_check", "nomodeset", "video=", "mem=", "memmap=", "libata.", "ahci.", "nvme", "usb", "xhci", "modprobe.blacklist=", "module_blacklist="}
}

// panicSeconds is when a kernel that panics reboots. Without it a machine would
// stand still; before the disk is written it comes back in its old system.
const panicSeconds = 10

// kernelParameters are those of the run, but for the one that names its job.
func kernelParameters() ([]string, error) {
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, fmt.Errorf("read kernel command line: %w", err)
	}
	parameters := []string{"quiet", fmt.Sprintf("panic=%d", panicSeconds)}
	for _, p := range strings.Fields(string(text)) {
		for _, prefix := range kept() {
			if strings.HasPrefix(p, prefix) {
				parameters = append(parameters, p)
				break
			}
		}
	}
	return parameters, nil
}

func jobParameter(job config.Source) string { return stages.JobParameter + "=" + job.String() }

// restart reboots the machine the way its init wants it.
func restart() error {
	for _, name := range []string{"systemctl", "reboot"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		args := []string{"reboot"}
		if name == "reboot" {
			args = nil
		}
		if err := exec.Command(path, args...).Run(); err == nil {
			return nil
		}
	}
	return report.Hint(errors.New("reboot: neither systemctl nor reboot did it"), "reboot the machine yourself; it is armed")
}

// startKexec starts the loaded kernel: through systemd, which stops services first,
// where it runs.
func startKexec() error {
	if _, err := os.Stat("/run/systemd/system"); err == nil { // sd_booted(3)
		if err := exec.Command("systemctl", "kexec").Run(); err == nil {
			return nil
		}
	}
	unix.Sync()
	return boot.StartKexec()
}
