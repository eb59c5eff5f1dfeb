package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
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
	jobName    = "job.json"
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

Kernel, initrd and a job are copied to /boot/reimager, an entry is added to
GRUB's custom.cfg, and next_entry is set in its environment; nothing else of the
boot configuration is touched. "reimager disarm" takes all of it back. Arming
twice is the same as once.`,
		Example: `  reimager arm --rehearse --reboot DIR   try everything but the write, and come back
  reimager arm --reboot DIR              do it`,
		Args: cobra.ExactArgs(1),
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
		return "armed: systemctl kexec starts the rehearsal, and the machine comes back to this system"
	case o.kexec:
		return "armed: systemctl kexec replaces the operating system; a power cut disarms"
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
	x := check.Examine(ctx, check.Options{Release: dir, Keys: keys, Rehearse: o.rehearse, Kexec: o.kexec})
	if err := o.judge(x, out); err != nil {
		return err
	}
	job, err := newJob(x, o.rehearse)
	if err != nil {
		return err
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

// install puts everything in its place. What arms comes last, next_entry or the
// loaded kernel: until then the machine boots as ever.
func install(grub *boot.GRUB, r *check.Release, job *config.Job, kexec bool) error {
	folder := folderOf(grub)
	kernel, initrd := filepath.Join(folder, kernelName), filepath.Join(folder, initrdName)
	copies := [][2]string{{r.Kernel, kernel}, {r.Initrd, initrd}}
	// An earlier arming ends here: its job must not meet another initrd.
	if err := unarm(grub); err != nil {
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
	if err := r.CheckCopies(kernel, initrd); err != nil {
		return err
	}
	if err := makeReport(job); err != nil {
		return err
	}
	if err := writeGate(job, folder); err != nil {
		return err
	}
	source, err := writeJob(job, folder)
	if err != nil {
		return err
	}
	if err := boot.Settle(folder, boot.SelfGuard(thawGuard)); err != nil {
		return err
	}
	cmdline, err := kernelParameters(source)
	if err != nil {
		return err
	}
	if kexec {
		return loadKexec(kernel, initrd, cmdline)
	}
	return installEntry(grub, kernel, cmdline)
}

// writeJob leaves the job, and says where the initrd finds it.
func writeJob(job *config.Job, folder string) (config.Source, error) {
	text, err := job.Encode()
	if err != nil {
		return config.Source{}, err
	}
	name := filepath.Join(folder, jobName)
	if err := renameio.WriteFile(name, text, 0o600); err != nil {
		return config.Source{}, fmt.Errorf("install job: %w", err)
	}
	at, err := check.Locate(name)
	if err != nil {
		return config.Source{}, err
	}
	return at.Source(), nil
}

// The variables of the gate, an environment block of GRUB's beside the job: the run
// may begin while it says that it is armed, for this run.
const (
	gateName  = "gate"
	gateState = "reimager_gate"
	gateRun   = "reimager_run"
	gateArmed = "armed"
)

// writeGate leaves the gate, armed, and names it in the job.
func writeGate(job *config.Job, folder string) error {
	env := &boot.Env{}
	if err := errors.Join(env.Set(gateState, gateArmed), env.Set(gateRun, job.RunID)); err != nil {
		return fmt.Errorf("make gate: %w", err)
	}
	name := filepath.Join(folder, gateName)
	if err := renameio.WriteFile(name, env.Encode(), 0o600); err != nil {
		return fmt.Errorf("make gate: %w", err)
	}
	at, err := check.Locate(name)
	if err != nil {
		return fmt.Errorf("make gate: %w", err)
	}
	job.Gate = at.Source()
	return nil
}

// installEntry has GRUB start kernel and initrd once.
func installEntry(grub *boot.GRUB, kernel string, cmdline []string) error {
	k, err := check.Locate(kernel)
	if err != nil {
		return err
	}
	err = grub.InstallEntry(boot.Entry{
		ID: check.EntryID, Title: "Replace the operating system (reimager)", FSUUID: k.UUID, FSType: k.Type,
		Kernel: k.Path, Initrd: filepath.Join(filepath.Dir(k.Path), initrdName), Cmdline: cmdline,
	})
	if err != nil {
		return err
	}
	guard := boot.SelfGuard(thawGuard)
	if err := boot.Settle(grub.Dir(), guard); err != nil {
		return err
	}
	if err := grub.SetNextEntry(check.EntryID); err != nil {
		return err
	}
	return boot.Settle(grub.Dir(), guard)
}

// loadKexec has the running kernel start kernel and initrd.
func loadKexec(kernel, initrd string, cmdline []string) error {
	k, err := os.Open(kernel)
	if err != nil {
		return err
	}
	defer k.Close()
	i, err := os.Open(initrd)
	if err != nil {
		return err
	}
	defer i.Close()
	return boot.LoadKexec(k, i, strings.Join(cmdline, " "))
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
	a, errA := check.Digest(one)
	b, errB := check.Digest(two)
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
	if err := keepRehearsal(reportFile, check.RehearsalPath); err != nil {
		return err
	}
	if err := renameio.WriteFile(reportFile, report.EmptyFile(job.RunID, report.FileBytes), 0o600); err != nil {
		return fmt.Errorf("make report file: %w", err)
	}
	if job.Rehearse {
		// A new rehearsal speaks for itself, also by failing.
		if err := os.Remove(check.RehearsalPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("make report file: %w", err)
		}
	}
	at, err := check.Locate(reportFile)
	if err != nil {
		return fmt.Errorf("make report file: %w", err)
	}
	job.Report = config.JobReport{Source: at.Source(), Bytes: report.FileBytes}
	return boot.Settle(filepath.Dir(reportFile), boot.SelfGuard(thawGuard))
}

// keepRehearsal saves the record of a rehearsal from a report file that is to be made
// anew: the next arm may ask for it.
func keepRehearsal(reportFile, keep string) error {
	last, err := report.ReadFile(reportFile)
	if err != nil || last.Record.Outcome != "rehearsed" {
		return nil // of a file that nobody can read there is nothing to keep
	}
	text, err := last.Record.Encode()
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(keep, text, 0o600); err != nil {
		return fmt.Errorf("keep record of the rehearsal: %w", err)
	}
	return nil
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
