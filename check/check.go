// Package check finds out before the reboot whether a run on this machine will
// work: each thing that can be known is probed by a small function and judged by
// a pure one. It changes nothing.
package check

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"reimager/report"
)

// Verdict says what a finding means for arming.
type Verdict string

// The verdicts. A warning is for people to read; a fail refuses to arm.
const (
	Pass Verdict = "pass"
	Warn Verdict = "warn"
	Fail Verdict = "fail"
)

// Name names a check, for people and for --force.
type Name string

// The checks, in the order in which they are shown.
const (
	ReleaseFiles Name = "release"
	Signature    Name = "signature"
	Digests      Name = "digests"
	Compatible   Name = "compatible"
	Downgrade    Name = "downgrade"
	KernelFits   Name = "kernel"
	Target       Name = "target"
	Contents     Name = "contents"
	DiskSize     Name = "disk-size"
	OldRoot      Name = "old-root"
	Source       Name = "source"
	Drivers      Name = "drivers"
	Filesystems  Name = "filesystems"
	Memory       Name = "memory"
	Retained     Name = "retained"
	Space        Name = "space"
	Owners       Name = "owners"
	Conflicts    Name = "conflicts"
	Firmware     Name = "firmware"
	UEFILoader   Name = "uefi-loader"
	SecureBoot   Name = "secure-boot"
	BootLoader   Name = "boot-loader"
	GRUBEnv      Name = "grubenv"
	NextEntry    Name = "next-entry"
	BootSpace    Name = "boot-space"
	Kexec        Name = "kexec"
	ReportFile   Name = "report"
	Power        Name = "power"
	Rehearsal    Name = "rehearsal"
	Lifeboat     Name = "lifeboat"
)

// names lists all checks in order.
func names() []Name {
	return []Name{ReleaseFiles, Signature, Digests, Compatible, Downgrade, KernelFits, Target, Contents, DiskSize, OldRoot, Source,
		Drivers, Filesystems, Memory, Retained, Space, Owners, Conflicts, Firmware, UEFILoader, SecureBoot, BootLoader, GRUBEnv,
		NextEntry, BootSpace, Kexec, ReportFile, Power, Rehearsal, Lifeboat}
}

// firm are the checks that nobody can force: a run that goes past them would write
// something else than was meant, or could not begin at all.
func firm() []Name {
	return []Name{ReleaseFiles, Signature, Digests, Compatible, KernelFits, Target, OldRoot, Source, BootLoader, NextEntry, Kexec}
}

// Result is what one check has found.
type Result struct {
	Name    Name    `json:"name"`
	Verdict Verdict `json:"verdict"`
	Found   string  `json:"found"`
	Hint    string  `json:"hint,omitempty"`
	// Firm says that this finding cannot be forced, although others of its check can.
	Firm bool `json:"-"`
}

func pass(name Name, format string, args ...any) Result {
	return Result{Name: name, Verdict: Pass, Found: fmt.Sprintf(format, args...)}
}

func warn(name Name, hint, format string, args ...any) Result {
	return Result{Name: name, Verdict: Warn, Found: fmt.Sprintf(format, args...), Hint: hint}
}

func fail(name Name, hint, format string, args ...any) Result {
	return Result{Name: name, Verdict: Fail, Found: fmt.Sprintf(format, args...), Hint: hint}
}

// failed turns an error and its hints into a result.
func failed(name Name, err error) Result {
	text := err.Error()
	hints := strings.TrimPrefix(strings.TrimPrefix(report.Explain(err), text), "\n")
	return Result{Name: name, Verdict: Fail, Found: text, Hint: strings.ReplaceAll(strings.TrimPrefix(hints, "hint: "), "\nhint: ", "; ")}
}

// Results are what all checks have found.
type Results []Result

// Count tells how many results have a verdict.
func (r Results) Count(v Verdict) int {
	n := 0
	for _, result := range r {
		if result.Verdict == v {
			n++
		}
	}
	return n
}

// Of returns the result of one check.
func (r Results) Of(name Name) (Result, bool) {
	i := slices.IndexFunc(r, func(x Result) bool { return x.Name == name })
	if i < 0 {
		return Result{}, false
	}
	return r[i], true
}

// sort puts the results in the order of names.
func (r Results) sort() {
	order := names()
	slices.SortStableFunc(r, func(a, b Result) int { return slices.Index(order, a.Name) - slices.Index(order, b.Name) })
}

// ErrForce says that a check cannot be forced, or is none.
var ErrForce = errors.New("force")

// Force turns the fails of the named checks into warnings. To name one that has not
// failed is no error: the same command goes to a whole fleet.
func (r Results) Force(forced []string) (Results, error) {
	for _, f := range forced {
		switch name := Name(f); {
		case !slices.Contains(names(), name):
			return nil, report.Hint(fmt.Errorf("%w %s: there is no such check", ErrForce, f), "the names are the second column of `reimager check`")
		case slices.Contains(firm(), name):
			return nil, report.Hint(fmt.Errorf("%w %s: this check cannot be forced", ErrForce, f), "correct what it has found")
		}
	}
	out := slices.Clone(r)
	for i := range out {
		if out[i].Verdict == Fail && slices.Contains(forced, string(out[i].Name)) {
			if out[i].Firm {
				return nil, report.Hint(fmt.Errorf("%w %s: %s", ErrForce, out[i].Name, out[i].Found), "this cannot be forced; correct it")
			}
			out[i].Verdict = Warn
			out[i].Found = "forced: " + out[i].Found
		}
	}
	return out, nil
}
