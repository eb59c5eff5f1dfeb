// Package prove replaces the operating system of a machine that does not exist: it
// boots a release's own kernel and initrd in QEMU, on a disk with an old system that
// fits their configuration, looks at the disk afterwards, and boots the new system.
// It needs neither root nor KVM.
package prove

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"reimager/boot"
	"reimager/config"
	"reimager/disk"
	"reimager/image"
	"reimager/report"
	"reimager/vm"
)

// Options say what is proven, and how.
type Options struct {
	Release string // directory
	Keys    []image.Key
	// DiskBytes and MemoryBytes are those of the machine; 0: what the release needs.
	DiskBytes, MemoryBytes int64
	// Expect is a text on the serial console that says that the new system is up. "":
	// its root was mounted for writing, or there is a login prompt.
	Expect string
	// Timeout bounds each of the two boots; 0: 10 minutes.
	Timeout time.Duration
	// Output gets the consoles' logs and the last screen. "": a temporary directory,
	// which is left only after a failure.
	Output string
	Report *report.Reporter
}

// Result is what was found out.
type Result struct {
	Release  string `json:"release"`
	Counter  int64  `json:"counter"`
	SignedBy string `json:"signed_by,omitempty"`
	Machine  string `json:"machine,omitempty"`
	// Steps are those that were reached, the last one perhaps in vain.
	Steps    []Step   `json:"steps"`
	Warnings []string `json:"warnings,omitempty"`
	Error    string   `json:"error,omitempty"`
	// Output is the directory that is left; "": none.
	Output string `json:"output,omitempty"`
}

// Step is one thing to prove.
type Step struct {
	Name    string  `json:"name"` // "verified", "written", "read back", "restored", "booted"
	Passed  bool    `json:"passed"`
	Seconds float64 `json:"seconds,omitempty"` // in the machine, where it runs there
	Detail  string  `json:"detail"`
}

// Files in Options.Output.
const (
	reimageLog = "reimage.log" // serial console of the run
	bootLog    = "boot.log"    // and of the new system
	screenFile = "screen.png"
)

const defaultTimeout = 10 * time.Minute

// Run proves a release. The result is there with an error, too.
func Run(ctx context.Context, o Options) (_ *Result, err error) {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	r := &run{Options: o, Result: &Result{Release: o.Release}}
	if r.work, err = r.directories(); err != nil {
		return r.Result, err
	}
	err = r.all(ctx)
	if err != nil {
		r.Error = err.Error()
	}
	cleanup := os.RemoveAll(r.work)
	left, _ := os.ReadDir(r.Options.Output) // it was made or found above
	switch {
	case o.Output == "" && (err == nil || len(left) == 0):
		cleanup = errors.Join(cleanup, os.RemoveAll(r.Options.Output))
	case len(left) > 0:
		r.Result.Output = r.Options.Output
		err = report.Hint(err, "the consoles' logs and the last screen, as far as it came, are in %s", r.Options.Output)
	}
	return r.Result, errors.Join(err, cleanup)
}

// run is one proof under way.
type run struct {
	Options
	*Result
	work    string // for what nobody looks at later: the release's copy, the disk
	release *release
	machine *machine
	old     *oldSystem
	accel   string
	disk    string // file
	memory  int64  // bytes, of the first boot
	job     *config.Job
}

// directories makes the directory that is left and the one that is not.
func (r *run) directories() (work string, err error) {
	if r.Options.Output == "" {
		r.Options.Output, err = os.MkdirTemp("", "imagebuild-prove-")
	} else {
		err = os.MkdirAll(r.Options.Output, 0o755)
	}
	if err != nil {
		return "", fmt.Errorf("make output directory: %w", err)
	}
	work, err = os.MkdirTemp(r.Options.Output, "work-")
	if err != nil {
		return "", fmt.Errorf("make output directory: %w", err)
	}
	return work, nil
}

func (r *run) all(ctx context.Context) error {
	for _, s := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"verify", r.verify}, {"build the machine", r.build}, {"reimage", r.reimage}, {"look at the disk", r.inspect}, {"boot the new system", r.boot},
	} {
		r.Report.Stage(s.what)
		if err := s.do(ctx); err != nil {
			return err
		}
	}
	return nil
}

// passed notes that a step went well.
func (r *run) passed(name string, seconds float64, format string, args ...any) {
	r.Steps = append(r.Steps, Step{name, true, seconds, fmt.Sprintf(format, args...)})
}

// failed notes why one did not.
func (r *run) failed(name string, err error) error {
	r.Steps = append(r.Steps, Step{Name: name, Detail: err.Error()})
	return err
}

func (r *run) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

// verify proves the release, and that this host has what the rest needs.
func (r *run) verify(context.Context) error {
	var err error
	if r.release, err = openRelease(r.Options.Release, r.work, r.Keys); err != nil {
		return r.failed("verified", err)
	}
	m := r.release.manifest
	r.Result.Release, r.Counter = m.String(), m.Counter
	signed := "not signed, and its configuration allows it"
	if key := r.release.signedBy; key != nil {
		r.SignedBy = key.ID()
		signed = "signed by " + key.ID()
		if len(r.Keys) == 0 {
			signed += ", which its own initrd trusts"
		}
	}
	r.passed("verified", 0, "%s, counter %d, %s", m, m.Counter, signed)
	for _, name := range []string{"qemu-system-x86_64", "sfdisk", "mke2fs", "debugfs"} {
		if _, err := vm.FindProgram(name); err != nil {
			return err
		}
	}
	kind, err := r.release.firmware()
	if err == nil && kind == "uefi" {
		_, err = vm.FindUEFI()
	}
	return err
}

// build makes the machine.
func (r *run) build(ctx context.Context) error {
	in, m := r.release.initrd, r.release.manifest
	var err error
	if r.old, err = planOld(in.List, m.System, in.Config.Retain.Owners == "name"); err != nil {
		return err
	}
	retained := int64(0)
	for _, f := range r.old.files {
		retained += int64(len(f.content)) + 4096
	}
	drivers := map[string]bool{}
	for _, b := range in.Index.BuiltIns {
		drivers[b.Name] = true
	}
	for _, b := range in.Index.Modules {
		drivers[b.Name] = true
	}
	r.machine, err = planMachine(in.Config, needs{
		diskBytes: max(m.Disk.MinBytes, r.DiskBytes), releaseBytes: r.release.bytes, retainedBytes: retained,
		has: func(module string) bool { return drivers[module] },
	})
	if err != nil {
		return err
	}
	if r.DiskBytes != 0 && r.machine.bytes > r.DiskBytes {
		return report.Hint(fmt.Errorf("plan the machine that stands in: its disk would have %s, the old system with the release and the image need %s",
			disk.Size(r.DiskBytes), disk.Size(r.machine.bytes)), "leave --disk-size out, or give it more")
	}
	const margin = 64 * mib // QEMU's firmware and devices
	r.memory = (m.Memory.Bytes + retained + margin + mib - 1) / mib * mib
	if r.MemoryBytes != 0 {
		r.memory = r.MemoryBytes
	}
	if r.accel, err = vm.Accelerator(func() (bool, error) { return vm.KVMBoots(ctx, r.release.kernel) }); err != nil {
		return err
	}
	r.Machine = fmt.Sprintf("%s, %s of memory, %s", r.machine, disk.Size(r.memory), r.accel)
	r.Report.Printf("machine  %s", r.Machine)
	return r.buildDisk(ctx)
}

func (r *run) buildDisk(ctx context.Context) error {
	at := func(p partition, path string) config.Source {
		return config.Source{Device: config.Device{Kind: config.ByUUID, Value: p.uuid}, Path: path}
	}
	m := r.release.manifest
	r.job = &config.Job{
		Format: config.JobFormat, RunID: rand.Text(), Armed: time.Now().UTC().Truncate(time.Second),
		Image:   config.JobImage{Source: at(r.machine.release(), releaseDir), Bytes: m.Image.Bytes, SHA256: hex.EncodeToString(m.Image.SHA256[:])},
		Target:  config.DiskIdentity{Serial: r.machine.serial, WWN: r.machine.wwn, Bytes: r.machine.bytes, PTUUID: r.machine.ptuuid()},
		OldRoot: r.machine.root().uuid,
		Report:  config.JobReport{Source: at(r.machine.root(), reportFile), Bytes: report.FileBytes},
		Gate:    at(r.machine.root(), gateFile),
		Proof:   true,
	}
	text, err := r.job.Encode()
	if err != nil {
		return err
	}
	gate, err := boot.Gate(r.job.RunID, boot.GateArmed, 0)
	if err != nil {
		return err
	}
	r.disk = filepath.Join(r.work, "disk.raw")
	return buildDisk(ctx, r.disk, r.work, r.release.dir, r.machine, r.old, text, gate, report.EmptyFile(r.job.RunID, report.FileBytes))
}
