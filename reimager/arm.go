package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"reimager/boot"
	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/report"
	"reimager/stages"
)

// entryID names our GRUB entry.
const entryID = "reimager"

// Where things of ours lie on the machine.
const (
	reportFile = "/var/lib/reimager/report"
	bootFolder = "reimager" // beside GRUB's own, where GRUB can surely read
	kernelName = "kernel"
	initrdName = "initrd"
	jobName    = "job.json"
)

func armCommand() *cobra.Command {
	var reboot bool
	var keys []string
	c := &cobra.Command{
		Use:   "arm [--reboot] RELEASE",
		Short: "Replace the operating system at the next boot",
		Long: `Arms this machine: at its next boot GRUB starts the reimager once, which replaces
the operating system with the image in RELEASE, a directory of imagebuild pack, or
one with three files, known by their content: a kernel, an initrd of imagebuild, and
a compressed disk image.

Kernel, initrd and a job are copied to /boot/reimager, an entry is added to
GRUB's custom.cfg, and next_entry is set in its environment; nothing else of the
boot configuration is touched. "reimager disarm" takes all of it back. Arming
twice is the same as once.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := arm(args[0], keys, c.OutOrStdout()); err != nil {
				return err
			}
			if !reboot {
				fmt.Fprintln(c.OutOrStdout(), "armed: the next boot replaces the operating system")
				return nil
			}
			fmt.Fprintln(c.OutOrStdout(), "armed; rebooting now")
			return restart()
		},
	}
	c.Flags().BoolVar(&reboot, "reboot", false, "reboot at once")
	c.Flags().StringArrayVar(&keys, "key", nil, "a minisign public key file: the release has to be signed by one of these (default: by one that its own initrd trusts, which says nothing of where it came from)")
	return c
}

// arm leaves the machine armed, or as it was.
func arm(dir string, keyFiles []string, out io.Writer) error {
	if os.Geteuid() != 0 {
		return report.Hint(errors.New("arm: only root can"), "run it with sudo")
	}
	if _, err := os.Stat("/sys/firmware/efi"); err == nil {
		return report.Hint(errors.New("arm: this machine boots by UEFI, which is not supported yet"),
			"UEFI ignores sector 0, so a power cut while the disk is written would boot a half-made system")
	}
	grub, err := boot.FindGRUB("/")
	if err != nil {
		return err
	}
	if err := grub.CheckConfig(); err != nil {
		return err
	}
	unlock, err := lock(grub)
	if err != nil {
		return err
	}
	defer unlock()
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	if dir == folderOf(grub) {
		return report.Hint(fmt.Errorf("arm: %s is where the files of an arming are kept", dir), "put the release into a folder of its own")
	}
	keys, err := image.ReadKeys(keyFiles)
	if err != nil {
		return err
	}
	r, err := readRelease(dir, keys)
	if err != nil {
		return err
	}
	job, err := newJob(r, out)
	if err != nil {
		return err
	}
	if err := install(grub, r, job); err != nil {
		return errors.Join(err, disarm(grub))
	}
	if r.config.PowerCut.Lifeboat == "prefer" {
		fmt.Fprintln(out, "warning: there is no lifeboat in this version: a power cut while the disk is written leaves a machine that does not boot")
	}
	return nil
}

// lock keeps two commands from editing the boot configuration at once. The lock
// ends with the process at the latest.
func lock(grub *boot.GRUB) (unlock func(), err error) {
	f, err := os.Open(grub.Dir())
	if err != nil {
		return nil, fmt.Errorf("lock boot configuration: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(report.Hint(fmt.Errorf("lock %s: %w", grub.Dir(), err), "another reimager is at work; wait for it"), f.Close())
	}
	return func() { f.Close() }, nil
}

// folderOf is where kernel, initrd and job lie while a machine is armed.
func folderOf(grub *boot.GRUB) string { return filepath.Join(filepath.Dir(grub.Dir()), bootFolder) }

// install puts everything in its place. next_entry comes last: until then the
// machine boots as ever.
func install(grub *boot.GRUB, r *release, job *config.Job) error {
	folder := folderOf(grub)
	kernel, initrd := filepath.Join(folder, kernelName), filepath.Join(folder, initrdName)
	copies := [][2]string{{r.kernel, kernel}, {r.initrd, initrd}}
	guard := boot.SelfGuard(thawGuard)
	// An earlier arming ends here: its job must not meet another initrd.
	if err := errors.Join(grub.ClearNextEntry(entryID), boot.Settle(grub.Dir(), guard)); err != nil {
		return err
	}
	if room(filepath.Dir(folder), copies) != nil {
		// What an earlier arm has left may be what fills the filesystem.
		if err := disarm(grub); err != nil {
			return err
		}
		if err := room(filepath.Dir(folder), copies); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	for _, c := range copies {
		if err := copyFile(c[0], c[1]); err != nil {
			return err
		}
	}
	if err := r.checkCopies(kernel, initrd); err != nil {
		return err
	}
	if err := makeReport(job); err != nil {
		return err
	}
	text, err := job.Encode()
	if err != nil {
		return err
	}
	jobFile := filepath.Join(folder, jobName)
	if err := renameio.WriteFile(jobFile, text, 0o600); err != nil {
		return fmt.Errorf("install job: %w", err)
	}
	at, err := locate(jobFile)
	if err != nil {
		return err
	}
	k, err := locate(kernel)
	if err != nil {
		return err
	}
	source := config.Source{Device: config.Device{Kind: config.ByUUID, Value: at.uuid}, Path: at.path}
	cmdline, err := kernelParameters(source)
	if err != nil {
		return err
	}
	if k.kind == "btrfs" {
		return report.Hint(fmt.Errorf("install into %s: it is on btrfs, where GRUB cannot clear next_entry: the machine would be reimaged at each boot", folder), "/boot has to be on ext2/3/4 or XFS")
	}
	if err := boot.Settle(folder, guard); err != nil {
		return err
	}
	err = grub.InstallEntry(boot.Entry{
		ID: entryID, Title: "Replace the operating system (reimager)", FSUUID: k.uuid, FSType: k.kind,
		Kernel: k.path, Initrd: filepath.Join(filepath.Dir(k.path), initrdName), Cmdline: cmdline,
	})
	if err != nil {
		return err
	}
	if err := boot.Settle(grub.Dir(), guard); err != nil {
		return err
	}
	if err := grub.SetNextEntry(entryID); err != nil {
		return err
	}
	return boot.Settle(grub.Dir(), guard)
}

// room refuses a boot filesystem on which the copies do not fit beside what is there.
func room(folder string, copies [][2]string) error {
	var need int64
	for _, c := range copies {
		info, err := os.Stat(c[0])
		if err != nil {
			return err
		}
		if !same(c[0], c[1]) {
			need += info.Size()
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(folder, &st); err != nil {
		return fmt.Errorf("look at free space of %s: %w", folder, err)
	}
	if free := int64(st.Bavail) * st.Bsize; need > free {
		return fmt.Errorf("install into %s: %s needed, %s free", folder, disk.Size(need), disk.Size(free))
	}
	return nil
}

// same tells whether two files have the same content.
func same(one, two string) bool {
	a, _, errA := digest(one)
	b, _, errB := digest(two)
	return errA == nil && errB == nil && a == b
}

// copyFile copies a file unless it is there already.
func copyFile(from, to string) (err error) {
	if same(from, to) {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	defer in.Close()
	out, err := renameio.NewPendingFile(to, renameio.WithPermissions(0o600))
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	defer func() { err = errors.Join(err, out.Cleanup()) }()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("install %s: %w", to, err)
	}
	if err := out.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("install %s: %w", to, err)
	}
	return nil
}

// makeReport preallocates the file that a failed run fills, with blocks that are
// really written: init overwrites them where they lie.
func makeReport(job *config.Job) error {
	if err := os.MkdirAll(filepath.Dir(reportFile), 0o700); err != nil {
		return fmt.Errorf("make report file: %w", err)
	}
	if err := renameio.WriteFile(reportFile, report.EmptyFile(job.RunID, report.FileBytes), 0o600); err != nil {
		return fmt.Errorf("make report file: %w", err)
	}
	at, err := locate(reportFile)
	if err != nil {
		return fmt.Errorf("make report file: %w", err)
	}
	job.Report = config.JobReport{
		Source: config.Source{Device: config.Device{Kind: config.ByUUID, Value: at.uuid}, Path: at.path}, Bytes: report.FileBytes,
	}
	return boot.Settle(filepath.Dir(reportFile), boot.SelfGuard(thawGuard))
}

// kept are parameters of the running kernel that its hardware or its console may
// need. All others belong to the old system.
func kept() []string {
	return []string{"console=", "earlyprintk=", "acpi", "apic", "noapic", "nolapic", "pci=", "iommu=", "intel_iommu=", "amd_iommu=",
		"irqpoll", "nomodeset", "video=", "mem=", "memmap=", "libata.", "ahci.", "nvme", "usb", "xhci", "modprobe.blacklist=", "module_blacklist="}
}

// panicSeconds is when a kernel that panics reboots. Without it a machine would
// stand still; before the disk is written it comes back in its old system.
const panicSeconds = 10

func kernelParameters(job config.Source) ([]string, error) {
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
	return append(parameters, stages.JobParameter+"="+job.String()), nil
}

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
