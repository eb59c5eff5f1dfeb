package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"reimager/boot"
	"reimager/check"
	"reimager/config"
	"reimager/disk"
	"reimager/report"
)

// install puts everything in its place. What arms comes last, next_entry or the
// loaded kernel: until then the machine boots as ever.
func install(grub *boot.GRUB, r *check.Release, job *config.Job, kexec bool) error {
	folder := folderOf(grub)
	kernel, initrd := filepath.Join(folder, kernelName), filepath.Join(folder, initrdName)
	copies := [][2]string{{r.Kernel, kernel}, {r.Initrd, initrd}}
	// An earlier arming ends here: its job must not meet another initrd.
	if err := errors.Join(unarm(grub), removeLeftovers(folder)); err != nil {
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
	if err := installReporter(r.Baked.Config); err != nil {
		return err
	}
	if err := writeGate(job, folder); err != nil {
		return err
	}
	cmdline, err := kernelParameters()
	if err != nil {
		return err
	}
	if !kexec {
		if job.Boot, err = gatedBoot(grub, kernel, initrd, cmdline); err != nil {
			return err
		}
	}
	source, err := writeJob(job, folder)
	if err != nil {
		return err
	}
	cmdline = append(cmdline, jobParameter(source))
	if err := boot.Settle(folder, boot.SelfGuard(thawGuard)); err != nil {
		return err
	}
	if kexec {
		return loadKexec(kernel, initrd, cmdline)
	}
	return installEntry(grub, folder, job.RunID, cmdline)
}

// gatedBoot says what GRUB starts for the run, for the job. It is nil for a boot loader
// entry: that has no gate, by which GRUB would prove a lifeboat.
func gatedBoot(grub *boot.GRUB, kernel, initrd string, cmdline []string) (*config.JobKernel, error) {
	bls, err := grub.ReadsBLS()
	if err != nil || bls {
		return nil, err
	}
	k, err := check.Locate(kernel)
	if err != nil {
		return nil, err
	}
	i, err := check.Locate(initrd)
	if err != nil {
		return nil, err
	}
	return &config.JobKernel{Kernel: k.Source(), Initrd: i.Source(), Cmdline: strings.Join(cmdline, " ")}, nil
}

// writeJob leaves the job, and says where the initrd finds it.
func writeJob(job *config.Job, folder string) (config.Source, error) {
	text, err := job.Encode()
	if err != nil {
		return config.Source{}, err
	}
	name := filepath.Join(folder, jobName)
	if err := renameio.WriteFile(name, text, 0o600, renameio.WithTempDir(folder)); err != nil {
		return config.Source{}, fmt.Errorf("install job: %w", err)
	}
	at, err := check.Locate(name)
	if err != nil {
		return config.Source{}, err
	}
	return at.Source(), nil
}

// gateName is the gate of the run, beside its job.
const gateName = "gate"

// writeGate leaves the gate, armed, and names it in the job.
func writeGate(job *config.Job, folder string) error {
	block, err := boot.Gate(job.RunID, boot.GateArmed, 0)
	if err != nil {
		return err
	}
	name := filepath.Join(folder, gateName)
	if err := renameio.WriteFile(name, block, 0o600, renameio.WithTempDir(folder)); err != nil {
		return fmt.Errorf("make gate: %w", err)
	}
	at, err := check.Locate(name)
	if err != nil {
		return fmt.Errorf("make gate: %w", err)
	}
	job.Gate = at.Source()
	return nil
}

// entry is what GRUB shows. folder is that of kernel, initrd and gate in its filesystem.
func entry(folder *check.Location, runID string, cmdline []string) boot.Entry {
	in := func(name string) string { return filepath.Join(folder.Path, name) }
	return boot.Entry{
		ID: check.EntryID, Title: "Replace the operating system (reimager)", FSUUID: folder.UUID, FSType: folder.Type,
		Kernel: in(kernelName), Initrd: in(initrdName), Cmdline: cmdline, Gate: in(gateName), RunID: runID,
	}
}

// checkEntry makes sure that GRUB will take the entry, before anything is changed.
func checkEntry(grub *boot.GRUB, runID string) error {
	folder := folderOf(grub)
	at, err := check.Locate(filepath.Dir(folder))
	if err != nil {
		return err
	}
	at.Path = filepath.Join(at.Path, filepath.Base(folder))
	job := at.Source()
	job.Path = filepath.Join(job.Path, jobName)
	cmdline, err := kernelParameters()
	if err != nil {
		return err
	}
	_, err = grub.CheckEntry(entry(at, runID, append(cmdline, jobParameter(job))))
	return err
}

// installEntry has GRUB start kernel and initrd once.
func installEntry(grub *boot.GRUB, folder, runID string, cmdline []string) error {
	at, err := check.Locate(folder)
	if err != nil {
		return err
	}
	if err := grub.InstallEntry(entry(at, runID, cmdline)); err != nil {
		return err
	}
	guard := boot.SelfGuard(thawGuard)
	if err := grub.Settle(guard); err != nil {
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
	out, err := renameio.NewPendingFile(to, renameio.WithTempDir(filepath.Dir(to)), renameio.WithPermissions(0o600))
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
	if err := setAside(reportFile); err != nil {
		return err
	}
	if err := renameio.WriteFile(reportFile, report.EmptyFile(job.RunID, report.FileBytes), 0o600); err != nil {
		return fmt.Errorf("make report file: %w", err)
	}
	at, err := check.Locate(reportFile)
	if err != nil {
		return fmt.Errorf("make report file: %w", err)
	}
	job.Report = config.JobReport{Source: at.Source(), Bytes: report.FileBytes}
	return boot.Settle(filepath.Dir(reportFile), boot.SelfGuard(thawGuard))
}

// setAside keeps what the last run has reported until the next one has. A file that
// nobody can read tells nothing, and one that no run has touched neither: then a report
// that was set aside before stays.
func setAside(name string) error {
	all, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	if _, state, err := report.FileHead(name, all); err != nil || state == string(report.FileEmpty) {
		return nil
	}
	if err := os.Rename(name, check.LastReport(name)); err != nil {
		return fmt.Errorf("keep the last report: %w", err)
	}
	return nil
}

// takeBack removes a report file that no run has touched, and puts back the one that was
// set aside for it.
func takeBack(name string) error {
	_, err := report.ReadFile(name)
	if !errors.Is(err, report.ErrNoReport) && !errors.Is(err, fs.ErrNotExist) {
		return nil // it is younger than what was set aside
	}
	if err := os.Rename(check.LastReport(name), name); !errors.Is(err, fs.ErrNotExist) {
		return err // it has replaced the empty one
	}
	if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// dropRehearsal forgets a rehearsal that passed once a later one has begun and failed.
// It is asked while the job of that is there.
func dropRehearsal(folder, reportFile, kept string) error {
	job, err := config.ReadJob(filepath.Join(folder, jobName))
	if err != nil || !check.RehearsalFailed(job, reportFile) {
		return nil // without a job nobody knows that it was a rehearsal
	}
	if err := os.Remove(kept); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removeLeftovers removes what copies that were interrupted have left.
func removeLeftovers(folder string) error {
	var all []error
	for _, name := range []string{kernelName, initrdName, gateName, jobName} {
		left, err := filepath.Glob(filepath.Join(folder, "."+name+"*"))
		all = append(all, err)
		for _, l := range left {
			all = append(all, os.Remove(l))
		}
	}
	return errors.Join(all...)
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
